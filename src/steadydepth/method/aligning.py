"""What a model may be wrong by, by its own claims, taken out once for a clip: never for a frame."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops import align
from steadydepth.types import Claims, Depth, Valid

LEAST_DEPTH_M = 1e-3  # an offset may push an aligned depth below zero; a logarithm comes next

ClipDepth = Float[Tensor, "t h w"]


def align_clips(depth: Depth, truth: Depth, valid: Valid, claims: Claims) -> Depth:
    """Depth in metres, from what a model `claims` to say, each clip brought to its label as a whole.

    `metric` is left alone. `scale` takes one factor (median of the label over median of the prediction), `affine` a
    factor and an offset (least squares), `disparity`, inverse depth, the same before it is inverted: what evaluation
    does by default. The gradient goes through the fit. A clip without a valid pixel is brought nowhere.
    """
    if claims == "metric":
        return depth
    aligned = [_ALIGN[claims](one, label, kept) for one, label, kept in zip(depth, truth, valid, strict=True)]
    return torch.stack(aligned).clamp(min=LEAST_DEPTH_M).to(depth.dtype)


def _by_scale(depth: ClipDepth, truth: ClipDepth, valid: Bool[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    return align.apply(depth, align.fit_median_scale(depth, truth, valid)) if valid.any() else depth.double()


def _by_scale_and_shift(depth: ClipDepth, truth: ClipDepth, valid: Bool[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    return align.apply(depth, align.fit_scale_shift(depth, truth, valid)) if valid.any() else depth.double()


def _by_disparity(disparity: ClipDepth, truth: ClipDepth, valid: Bool[Tensor, "t h w"]) -> Float[Tensor, "t h w"]:
    if not valid.any():
        return 1 / disparity.double().clamp(min=align.LEAST_DISPARITY)
    return align.apply_disparity(disparity, align.fit_disparity(disparity, truth, valid))


_ALIGN: dict[str, Callable[[ClipDepth, ClipDepth, Bool[Tensor, "t h w"]], Float[Tensor, "t h w"]]] = {
    "scale": _by_scale,
    "affine": _by_scale_and_shift,
    "disparity": _by_disparity,
}
