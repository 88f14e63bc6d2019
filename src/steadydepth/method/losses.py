"""Step 3, loss calculation: each frame against its truth, each change against the true change, their weighted sum."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.masked import masked_mean, masked_median, masked_share
from steadydepth.types import Depth, DepthPairs, Frames, LossTerms, Valid

Scalar = Float[Tensor, ""]
Pairs = Float[Tensor, "b p h w"]
PairValid = Bool[Tensor, "b p h w"]

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


def affine_invariant(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """What is wrong with inverse depth up to one factor and one offset a FRAME: mean |x - g| + 0.5 gradient matching.

    x and g are 1 / depth less its median, divided by its mean distance from it, over the frame's valid pixels; the
    means pool the batch (MiDaS, Ranftl et al. 2020; Video-Depth-Anything loss/loss.py without trimming). The gradient
    term is the sum over four scales, every second pixel dropped from one to the next, of |horizontal| + |vertical|
    differences of x - g between valid neighbours, for each valid pixel. It cannot see flicker of scale or offset: the
    relative loss has to.
    """
    flat = valid.flatten(0, 1)
    residual = _standardise(depth, valid) - _standardise(truth, valid)
    return masked_mean(residual.abs(), flat) + 0.5 * _multi_scale_gradient(torch.where(flat, residual, 0), flat)


def gradient_matching(depth: Depth, truth: Depth, valid: Valid) -> Scalar:
    """How unevenly the log error lies: the gradient term of `affine_invariant`, of log predicted - log truth.

    Edges and slopes of the prediction should be those of the label (Eigen and Fergus 2015; MegaDepth, Li and Snavely
    2018). What a network makes of noise in the image changes from pixel to pixel, and from frame to frame: `log_l1`
    hardly asks it to be even.
    """
    return _multi_scale_gradient(_log_error(depth, truth, valid).flatten(0, 1), valid.flatten(0, 1))


def _multi_scale_gradient(residual: Float[Tensor, "n h w"], valid: Bool[Tensor, "n h w"]) -> Scalar:
    """Sum over four scales of |horizontal| + |vertical| differences between valid neighbours, for each valid pixel.

    `residual` is finite where invalid.
    """
    loss = residual.new_zeros(())
    for step in (1, 2, 4, 8):
        coarse, kept = residual[:, ::step, ::step], valid[:, ::step, ::step]
        for dim in (-1, -2):
            size = kept.shape[dim] - 1
            both = kept.narrow(dim, 1, size) & kept.narrow(dim, 0, size)
            loss = loss + masked_share(coarse.diff(dim=dim).abs(), both, kept)
    return loss


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
    smoothness_weight: float = 0.0,
    frames: Frames | None = None,
) -> Scalar:
    """Each frame against its label, plus smoothness: of the error, and of the prediction itself.

    A differentiable 0 when nothing is valid, but for the smoothness of the prediction.
    """
    loss = ABSOLUTE[kind](depth, truth, valid)
    if gradient_weight:
        loss = loss + gradient_weight * gradient_matching(depth, truth, valid)
    if smoothness_weight:
        loss = loss + smoothness_weight * smoothness(depth, frames)
    return loss


def without_invalid(pairs: DepthPairs, valid: PairValid) -> DepthPairs:
    """Pairs that are harmless where not `valid`, for whatever is computed from them: depth 1, if they were not.

    On a CPU a mask of a tensor takes as long as its logarithm: none is made twice.
    """
    if pairs.harmless:
        return replace(pairs, valid=valid)
    out = ~valid
    return DepthPairs(pairs.current.masked_fill(out, 1), pairs.previous.masked_fill(out, 1), valid, harmless=True)


def change_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of log predicted - change of log truth: a constant factor is no change, a moving thing has its own."""
    return predicted.log_change - truth.log_change


def warping_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of log predicted, whatever the truth does: the warping loss of NVDS and its kin, as a rival.

    It pulls a thing that comes nearer back to where it was.
    """
    return predicted.log_change


def geometry_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """(D - D') / (D + D'), D' the earlier depth brought here (Bian et al. 2019), blind to the truth as well."""
    return (predicted.current - predicted.previous) / (predicted.current + predicted.previous)


def disparity_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of inverse depth - true change of inverse depth, 1 / metres: temporal gradients, near things first."""
    return _disparity_change(predicted) - _disparity_change(truth)


def disparity_size_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """|Change of inverse depth| - |true change|, blind to its direction: the form of Video-Depth-Anything."""
    return _disparity_change(predicted).abs() - _disparity_change(truth).abs()


def _disparity_change(pairs: DepthPairs) -> Pairs:
    return 1 / pairs.current - 1 / pairs.previous


def where_smooth(truth: DepthPairs, valid: PairValid, *, share: float = 0.05) -> PairValid:
    """Pairs whose true change of inverse depth is below `share` of the range that the later frame's label spans.

    The mask of Video-Depth-Anything's temporal gradient matching (loss/loss.py): a larger change is an edge passing.
    """
    truth = without_invalid(truth, valid)
    inverse = 1 / truth.current
    most = torch.where(valid, inverse, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    least = torch.where(valid, inverse, torch.inf).amin(dim=(-2, -1), keepdim=True)
    return valid & (_disparity_change(truth).abs() < share * (most - least))


# Of harmless pairs: the error is finite where they are invalid.
RELATIVE: dict[str, Callable[[DepthPairs, DepthPairs], Pairs]] = {
    "change": change_error,
    "warping": warping_error,
    "geometry": geometry_error,
    "disparity": disparity_error,
    "disparity_size": disparity_size_error,
}


def huber(error: Pairs, *, bend: float = 0.1) -> Pairs:
    """e^2 / (2 bend) up to |e| = bend, then |e| - bend / 2: noise pulls little, a jump pulls with its sign."""
    size = error.abs()
    return torch.where(size < bend, error**2 / (2 * bend), size - bend / 2)


def charbonnier(error: Pairs, *, rounding: float = 0.01) -> Pairs:
    """sqrt(e^2 + rounding^2) - rounding: |e| without its corner (Charbonnier et al. 1994)."""
    return (error**2 + rounding**2).sqrt() - rounding


ROBUST: dict[str, Callable[[Pairs], Pairs]] = {
    "l1": torch.abs,
    "huber": huber,
    "charbonnier": charbonnier,
    "l2": torch.square,
}


def without_worst(error: Pairs, valid: PairValid, share: float) -> PairValid:
    """Valid pairs but for the `share` of each clip with the largest errors, the trimming of MiDaS (Ranftl et al. 2020).

    What is left is averaged over itself; MiDaS divides by all.
    """
    last = torch.where(valid, error.detach(), torch.inf).flatten(1)
    n_kept = ((1 - share) * valid.flatten(1).sum(dim=1, keepdim=True)).round().clamp(min=1)
    rank = last.argsort(dim=1, stable=True).argsort(dim=1)
    return valid & (rank < n_kept).view_as(valid)


def relative_loss(
    predicted: DepthPairs,
    truth: DepthPairs,
    *,
    kind: str = "change",
    robust: str = "l1",
    trim: float = 0.0,
    moving_weight: float = 0.0,
    gradient_weight: float = 0.0,
    motion_gain_weight: float = 0.0,
    both_frames: bool = True,
) -> Scalar:
    """Mean over the valid pairs of a clip of what is wrong with the change from frame to frame, then over clips.

    `kind` (RELATIVE) says what is compared. By default the change of log predicted with the change of log truth: a
    static thing has no true change, so it must keep its depth; a moving one must change as the truth does; a factor
    common to both frames costs nothing. `robust` (ROBUST) says how an error counts; the share `trim` of the pairs of
    a clip, those with the largest errors, is left out. `moving_weight` times the mean over the pairs whose true change
    is above 1 %, none left out, is added: they are few, and what they ask for would drown among the static ones.
    `gradient_weight` times how unevenly what is compared lies, as in `gradient_matching`, is added: most of what
    flickers is fine-grained, and differs from pixel to pixel. `motion_gain_weight` times |`motion_gain` - 1| is added.
    Without `both_frames` the earlier frame is taken as it is and only the later one learns. Clips without a valid pair
    are left out; a differentiable 0 when none has one.
    """
    valid = predicted.valid & truth.valid
    if kind in ("disparity", "disparity_size"):
        valid = where_smooth(truth, valid)
    if not both_frames:
        predicted = replace(predicted, previous=predicted.previous.detach())
    predicted, truth = without_invalid(predicted, valid), without_invalid(truth, valid)
    compared = RELATIVE[kind](predicted, truth)
    error = ROBUST[robust](compared)
    counted = without_worst(error, valid, trim) if trim else valid
    of_clips = masked_mean(error, counted, dim=(1, 2, 3))
    if moving_weight:
        moving = valid & (truth.log_change.abs() > MOVING)
        of_clips = of_clips + moving_weight * masked_mean(error, moving, dim=(1, 2, 3))
    loss = masked_mean(of_clips, valid.flatten(1).any(dim=1))
    if gradient_weight:
        loss = loss + gradient_weight * _multi_scale_gradient(compared.flatten(0, 1), valid.flatten(0, 1))
    if motion_gain_weight:
        loss = loss + motion_gain_weight * (motion_gain(predicted, truth) - 1).abs()
    return loss


def motion_gain(predicted: DepthPairs, truth: DepthPairs) -> Scalar:
    """How much of the true change of log depth is predicted: sum v v* / sum v*^2 where |v*| is above 1 %.

    The pairs are harmless; all clips are pooled. 1 is ideal, 0 frozen. An error of the change asks each pixel to be
    right, and what cannot be known well is then best left unchanged; this asks the batch as a whole not to fall short.
    1 where nothing changes.
    """
    true_change = truth.log_change
    moved = true_change.masked_fill(~truth.valid | (true_change.abs() <= MOVING), 0)
    energy = moved.square().sum()
    share = (predicted.log_change * moved).sum() / torch.where(energy > 0, energy, 1)
    return torch.where(energy > 0, share, 1)


def target_loss(absolute: Scalar, relative: Scalar, weight: float) -> LossTerms:
    """Absolute + weight x relative, with the two parts detached for the log."""
    return LossTerms(absolute.detach(), relative.detach(), absolute + weight * relative)
