"""Step 3, first half: the loss of each frame against its label."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.edges import EDGE_DISTANCES_PX, EDGE_LOG_STEP
from steadydepth.ops.masked import masked_mean, masked_median, masked_share
from steadydepth.types import Depth, Frames, Valid

Scalar = Float[Tensor, ""]


def _log_error(depth: Depth, truth: Depth, valid: Valid) -> Depth:
    """Log predicted - log truth, 0 where invalid; made harmless before the logarithm."""
    return torch.where(valid, depth, 1).log() - torch.where(valid, truth, 1).log()


def log_l1(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """Mean of |log predicted - log truth| over valid pixels; 0.1 is about 10 % of depth.

    Args:
        depth: predicted, above 0.
        truth: in the same units; it may be anything where not valid.
        valid: True where the label counts. So in all losses of this file.
    """
    return masked_mean(_log_error(depth, truth, valid).abs(), valid)


def silog(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """sqrt(mean(e^2) - 0.85 mean(e)^2 + 1e-6), e = log predicted - log truth, valid pixels of the batch pooled.

    The form of BTS (Lee et al. 2019) without its factor of 10: a common scale error of all counts little. The epsilon
    keeps the gradient finite where the prediction is perfect.

    Args:
        depth: predicted, (b, t, h, w), above 0.
        truth: in the same units; it may be anything where not valid.
        valid: True where the label counts.

    Returns: a differentiable scalar, 0.001 where nothing is valid.
    """
    error = _log_error(depth, truth, valid)
    return (masked_mean(error**2, valid) - 0.85 * masked_mean(error, valid) ** 2 + 1e-6).sqrt()


def affine_invariant(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """Error of inverse depth up to one factor and one offset per FRAME: mean |x - g| + 0.5 gradient matching.

    x and g are 1 / depth less its median, divided by its mean distance from it, over the frame's valid pixels; the
    means pool the batch (MiDaS, Ranftl et al. 2020; Video-Depth-Anything loss/loss.py without trimming). The gradient
    term is the sum over four scales, every second pixel dropped from one to the next, of |horizontal| + |vertical|
    differences of x - g between valid neighbours, for each valid pixel. It is blind to flicker of scale or offset: the
    relative loss is not.

    Args:
        depth: predicted, (b, t, h, w), above 0.
        truth: in the same units; it may be anything where not valid.
        valid: True where the label counts.

    Returns: a differentiable scalar, 0 where nothing is valid.
    """
    flat = valid.flatten(0, 1)
    residual = _standardise(depth, valid) - _standardise(truth, valid)
    return masked_mean(residual.abs(), flat) + 0.5 * multi_scale_gradient(residual, flat)


def gradient_matching(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """Multi-scale gradient matching of log depth: the gradient term of `affine_invariant` of the log error.

    Edges and slopes of the prediction should be those of the label (Eigen and Fergus 2015; MegaDepth, Li and Snavely
    2018). The error that noise in the image causes differs from pixel to pixel, and from frame to frame: `log_l1`
    hardly penalises that.

    Args:
        depth: predicted, (b, t, h, w), above 0.
        truth: in the same units; it may be anything where not valid.
        valid: True where the label counts.

    Returns: a differentiable scalar, 0 where nothing is valid.
    """
    return multi_scale_gradient(_log_error(depth, truth, valid).flatten(0, 1), valid.flatten(0, 1))


def multi_scale_gradient(residual: Float[Tensor, "n h w"], valid: Bool[Tensor, "n h w"]) -> Scalar:
    """Sum over four scales of |horizontal| + |vertical| differences between valid neighbours, for each valid pixel.

    Args:
        residual: images (n, h, w), finite where invalid.
        valid: True where the residual counts.
    """
    loss = residual.new_zeros(())
    for step in (1, 2, 4, 8):
        coarse, kept = residual[:, ::step, ::step], valid[:, ::step, ::step]
        for dim in (-1, -2):
            size = kept.shape[dim] - 1
            both = kept.narrow(dim, 1, size) & kept.narrow(dim, 0, size)
            loss = loss + masked_share(coarse.diff(dim=dim).abs(), both, kept)
    return loss


def lost_edges(depth: Depth, truth: Depth, valid: Valid, *, contrast: float = 1.0) -> Scalar:
    """Contrast of log depth that the prediction lacks at the edges of the label: blur costs, a sharper edge does not.

    Edges are differences b of the label between valid pixels 1, 2, 4 and 8 px apart, to the right and downwards, with
    |b| > 0.05, those of the metric `edge_gain`; a is the same difference of the prediction. Mean over them of
    max(contrast |b| - a sign(b), 0).

    Args:
        depth: predicted, (b, t, h, w), above 0.
        truth: up to a factor; it may be anything where not valid.
        valid: True where the label counts.
        contrast: share of the label's contrast that is asked for; above 1 of a label that is softer than the truth.

    Returns: a differentiable scalar, 0 where the label has no edge.
    """
    predicted, true = torch.where(valid, depth, 1).log(), torch.where(valid, truth, 1).log()
    total, count = predicted.new_zeros(()), predicted.new_zeros(())
    for distance in EDGE_DISTANCES_PX:
        for dim in (-1, -2):
            size = valid.shape[dim] - distance
            if size <= 0:
                continue
            a, b, both = (
                (one.narrow(dim, distance, size), one.narrow(dim, 0, size)) for one in (predicted, true, valid)
            )
            step = b[0] - b[1]
            edge = both[0] & both[1] & (step.abs() > EDGE_LOG_STEP)
            lost = (contrast * step.abs() - (a[0] - a[1]) * step.sign()).clamp(min=0)
            total = total + torch.where(edge, lost, 0).sum()
            count = count + edge.sum()
    return total / count.clamp(min=1)


def _standardise(depth: Depth, valid: Valid) -> Float[Tensor, "n h w"]:
    """Inverse depth of each frame less its median, in units of its mean distance from it; the floor is MiDaS's."""
    kept = valid.flatten(0, 1).flatten(1)
    inverse = 1 / torch.where(valid, depth, 1).flatten(0, 1).flatten(1)
    centred = inverse - masked_median(inverse, kept)
    spread = masked_mean(centred.abs(), kept, dim=(1,)).clamp(min=1e-6)[:, None]
    return (centred / spread).unflatten(1, depth.shape[-2:])


def smoothness(depth: Depth, frames: Frames | None = None) -> Scalar:
    """Mean |d/dx log depth| + mean |d/dy log depth|, forward differences of neighbouring pixels.

    With `frames`, each difference is weighted by exp(-mean over colours of |the same difference of the image|): depth
    may jump where the image does (Godard et al. 2017).

    Args:
        depth: predicted, (b, t, h, w), above 0.
        frames: RGB in [0, 1]; None weighs all pixels alike.
    """
    log_depth = depth.log()
    total = log_depth.new_zeros(())
    for axis in (-1, -2):
        slope = log_depth.diff(dim=axis).abs()
        weight = torch.ones_like(slope) if frames is None else (-frames.diff(dim=axis).abs().mean(dim=2)).exp()
        total = total + (slope * weight).mean()
    return total


ABSOLUTE: dict[str, Callable[[Depth, Depth, Valid], Scalar]] = {
    "log_l1": log_l1,
    "silog": silog,
    "affine_invariant": affine_invariant,
}


def absolute_loss(
    depth: Depth,
    truth: Depth,
    valid: Valid,
    *,
    kind: str = "log_l1",
    gradient_weight: float = 0.0,
    edge_weight: float = 0.0,
    edge_contrast: float = 1.0,
    smoothness_weight: float = 0.0,
    edge_aware: bool = True,
    frames: Frames | None = None,
) -> Scalar:
    """Each frame against its label, plus the smoothness of the error and of the prediction itself.

    Args:
        depth: predicted, above 0, in the units of `truth`.
        truth: the label; it may be anything where not valid.
        valid: True where the label counts.
        kind: one of ABSOLUTE.
        gradient_weight: of `gradient_matching`.
        edge_weight: of `lost_edges`.
        edge_contrast: its `contrast`.
        smoothness_weight: of `smoothness`.
        edge_aware: smoothness is relaxed at the edges of `frames`.
        frames: RGB in [0, 1]; needed by an edge-aware smoothness alone.

    Returns: the loss; a differentiable 0 where nothing is valid, but for the smoothness of the prediction.
    """
    loss = ABSOLUTE[kind](depth, truth, valid)
    if gradient_weight:
        loss = loss + gradient_weight * gradient_matching(depth, truth, valid)
    if edge_weight:
        loss = loss + edge_weight * lost_edges(depth, truth, valid, contrast=edge_contrast)
    if smoothness_weight:
        loss = loss + smoothness_weight * smoothness(depth, frames if edge_aware else None)
    return loss
