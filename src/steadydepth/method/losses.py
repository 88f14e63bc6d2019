"""Step 3, loss calculation: each frame against its truth, each change against the true change, their weighted sum."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from steadydepth.ops.masked import masked_mean
from steadydepth.types import Depth, DepthPairs, Frames, LossTerms, Valid

Scalar = Float[Tensor, ""]

MOVING = 0.01  # change of log depth between two frames above which a point counts as moving in depth


def _log_error(depth: Depth, truth: Depth, valid: Valid) -> Depth:
    """Log predicted - log truth, 0 where invalid; made harmless before the logarithm."""
    return torch.where(valid, depth, 1).log() - torch.where(valid, truth, 1).log()


def log_l1(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """Mean of |log predicted - log truth| over valid pixels; 0.1 is about 10 % of depth."""
    return masked_mean(_log_error(depth, truth, valid).abs(), valid)


def silog(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """sqrt(mean(e^2) - 0.85 mean(e)^2 + 1e-6), e = log predicted - log truth, valid pixels of the batch pooled.

    The form of BTS (Lee et al. 2019) without its factor of 10: a common scale error of all counts little. The epsilon
    keeps the gradient finite where the prediction is perfect.
    """
    error = _log_error(depth, truth, valid)
    return (masked_mean(error**2, valid) - 0.85 * masked_mean(error, valid) ** 2 + 1e-6).sqrt()


def smoothness(depth: Depth, frames: Frames | None = None) -> Scalar:
    """Mean |d/dx log depth| + mean |d/dy log depth|, forward differences of neighbouring pixels.

    With `frames`, each difference is weighted by exp(-mean over colours of |the same difference of the picture|): depth
    may jump where the picture does (Godard et al. 2017).
    """
    log_depth = depth.log()
    total = log_depth.new_zeros(())
    for axis in (-1, -2):
        slope = log_depth.diff(dim=axis).abs()
        weight = torch.ones_like(slope) if frames is None else (-frames.diff(dim=axis).abs().mean(dim=2)).exp()
        total = total + (slope * weight).mean()
    return total


ABSOLUTE: dict[str, Callable[[Depth, Depth, Valid], Scalar]] = {"log_l1": log_l1, "silog": silog}


def absolute_loss(
    depth: Depth,
    truth: Depth,
    valid: Valid,
    *,
    kind: str = "log_l1",
    smoothness_weight: float = 0.0,
    frames: Frames | None = None,
) -> Scalar:
    """Each frame against its label, plus smoothness of the prediction; a differentiable 0 when nothing is valid."""
    loss = ABSOLUTE[kind](depth, truth, valid)
    if smoothness_weight == 0:
        return loss
    return loss + smoothness_weight * smoothness(depth, frames)


def relative_loss(predicted: DepthPairs, truth: DepthPairs, *, moving_weight: float = 0.0) -> Scalar:
    """Mean |change of log predicted - change of log truth| over valid pairs of a clip, then over clips.

    A static thing has no true change, so it must keep its depth; a moving one must change as the truth does. A factor
    common to both frames costs nothing. `moving_weight` times the same mean over the pairs whose true change is above
    1 % is added: they are few, and what they ask for would drown among the static ones. Clips without a valid pair are
    left out; a differentiable 0 when none has one.
    """
    valid = predicted.valid & truth.valid
    change = _log_error(predicted.current, predicted.previous, valid)
    true_change = _log_error(truth.current, truth.previous, valid)
    difference = (change - true_change).abs()
    of_clips = masked_mean(difference, valid, dim=(1, 2, 3))
    if moving_weight:
        moving = valid & (true_change.abs() > MOVING)
        of_clips = of_clips + moving_weight * masked_mean(difference, moving, dim=(1, 2, 3))
    return masked_mean(of_clips, valid.flatten(1).any(dim=1))


def target_loss(absolute: Scalar, relative: Scalar, weight: float) -> LossTerms:
    """Absolute + weight x relative, with the two parts detached for the log."""
    return LossTerms(absolute.detach(), relative.detach(), absolute + weight * relative)
