"""Per-clip scale and shift alignment to the ground truth, as the claims of a model ask: never per frame."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from steadydepth.ops import alignment
from steadydepth.ops.devices import has_float64
from steadydepth.types import Batch, Claims, Depth, Labels, Valid

LEAST_DEPTH_M = 1e-3  # an offset may push an aligned depth below zero; a logarithm comes next


def align_to_labels(predicted: Depth, batch: Batch, claims: Claims) -> tuple[Depth, Depth | None]:
    """Predicted depth and its label in the same units.

    Depth that does not claim metres is aligned to the measured depth of its clip (`align_clips`). The depth of a
    teacher is in the units of the prediction (`as_depth`).

    Args:
        predicted: depth of the frames of `batch`, in the units of `claims`.
        batch: clips with one kind of label.
        claims: what the numbers of the model mean.

    Returns: the predicted depth and the label, each (b, t, h, w); the label is None where there is none.
    """
    labels: Labels = batch.labels[0] if batch.labels else "depth"
    if labels in ("depth", "single"):
        return align_clips(predicted, batch.depth, batch.valid, claims, single=labels == "single"), batch.depth
    if labels == "none":
        return as_depth(predicted, predicted, claims), None
    return as_depth(predicted, batch.depth, claims), as_depth(batch.depth, batch.depth, claims)


def align_clips(depth: Depth, truth: Depth, valid: Valid, claims: Claims, *, single: bool = False) -> Depth:
    """Predicted depth in metres: each clip aligned to its label once, as evaluation does by default.

    Args:
        depth: predicted, in the units of `claims`.
        truth: metres; it may be anything where not valid.
        valid: True where the label counts.
        claims: `metric` is left as it is; `scale` takes one factor, the median of the label over that of the
            prediction; `affine` a factor and an offset by least squares; `disparity`, inverse depth, the same before it
            is inverted.
        single: the frames are single images, and each is aligned to its own label.

    Returns: metres, at least 1 mm; the gradient goes through the fit. A clip without a valid pixel is not aligned.
    """
    if claims == "metric":
        return depth
    if not has_float64(depth.device):  # in which fits are computed
        return align_clips(depth.cpu(), truth.cpu(), valid.cpu(), claims, single=single).to(depth.device)
    if single:
        images, labels, kept = (one.flatten(0, 1)[:, None] for one in (depth, truth, valid))
        return align_clips(images, labels, kept, claims).unflatten(0, depth.shape[:2]).flatten(1, 2)
    if claims == "scale":
        return (depth * _scales(depth, truth, valid)).clamp(min=LEAST_DEPTH_M).to(depth.dtype)
    fit = alignment.fit_scale_shift if claims == "affine" else alignment.fit_disparity
    as_it_is = alignment.Alignment.of(1.0, 0.0)
    aligned = [
        alignment.to_depth(one, claims, claims, fit(one, label, kept) if kept.any() else as_it_is)
        for one, label, kept in zip(depth, truth, valid, strict=True)
    ]
    return torch.stack(aligned).clamp(min=LEAST_DEPTH_M).to(depth.dtype)


def as_depth(predicted: Depth, like: Depth, claims: Claims) -> Depth:
    """Predictions for clips without measured depth, as a depth whose relative changes can be compared.

    Disparity and affine depth may have zeros and lie about 0, and relative changes there mean nothing:
    `ops.alignment.comparable_depth` is a depth above 0, up to a factor, for one choice of the offset.

    Args:
        predicted: in the units of `claims`.
        like: of the same shape, the prediction that says offset and unit: the teacher's, or `predicted` itself.
        claims: depth in metres or up to a factor is returned as it is.
    """
    low = like.detach().amin(dim=(1, 2, 3), keepdim=True).clamp(max=0)
    mean = like.detach().mean(dim=(1, 2, 3), keepdim=True)
    above = torch.maximum(mean, low + torch.finfo(like.dtype).tiny)
    return alignment.comparable_depth(predicted, claims, low=low, mean=above)


def _scales(depth: Depth, truth: Depth, valid: Valid) -> Float64[Tensor, "b 1 1 1"]:
    """As `alignment.fit_median_scale` of each clip, of all clips at once: a loop over them keeps a GPU waiting."""
    kept = (valid & torch.isfinite(depth) & torch.isfinite(truth)).flatten(1)
    predicted, label = (_medians(one.flatten(1).double(), kept) for one in (depth, truth))
    scale = torch.where(predicted == 0, 0, label / torch.where(predicted == 0, 1, predicted))
    return torch.where(kept.any(dim=1), scale, 1)[:, None, None, None]


def _medians(rows: Float64[Tensor, "b n"], kept: Bool[Tensor, "b n"]) -> Float64[Tensor, "b"]:
    """Median of each row where `kept`, the mean of the two middle values; 1 of nothing."""
    known = torch.where(kept, rows, torch.nan)
    middle = (known.nanmedian(dim=1).values - (-known).nanmedian(dim=1).values) / 2
    return torch.where(kept.any(dim=1), middle, 1)
