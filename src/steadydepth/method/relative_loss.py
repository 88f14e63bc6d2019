"""Step 3, second half: the loss of each change between two frames against the true change."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.method.absolute_loss import multi_scale_gradient
from steadydepth.ops.masked import masked_mean
from steadydepth.types import DepthPairs

Scalar = Float[Tensor, ""]
Pairs = Float[Tensor, "b p h w"]
PairValid = Bool[Tensor, "b p h w"]

MOVING = 0.01  # change of log depth between two frames above which a point counts as moving in depth


def _without_invalid(pairs: DepthPairs, valid: PairValid) -> DepthPairs:
    """Pairs that are harmless where not `valid`, for whatever is computed from them: depth 1, if they were not.

    On a CPU a mask of a tensor takes as long as its logarithm: none is made twice.
    """
    if pairs.harmless:
        return replace(pairs, valid=valid)
    out = ~valid
    return DepthPairs(pairs.current.masked_fill(out, 1), pairs.previous.masked_fill(out, 1), valid, harmless=True)


def change_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of log predicted - change of log truth: a constant factor costs nothing.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label.
    """
    return predicted.log_change - truth.log_change


def warping_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of log predicted, whatever the true change: the warping loss of NVDS and others, as a baseline.

    It pulls an object that comes nearer back to the depth that it had.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label, which are not used.
    """
    return predicted.log_change


def geometry_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """(D - D') / (D + D'), D' the earlier depth warped (Bian et al. 2019); the truth is ignored as well.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label, which are not used.
    """
    return (predicted.current - predicted.previous) / (predicted.current + predicted.previous)


def disparity_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """Change of inverse depth - true change of inverse depth, 1 / metres: near surfaces weigh most.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label.
    """
    return _disparity_change(predicted) - _disparity_change(truth)


def disparity_size_error(predicted: DepthPairs, truth: DepthPairs) -> Pairs:
    """|Change of inverse depth| - |true change|, blind to its direction: the form of Video-Depth-Anything.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label.
    """
    return _disparity_change(predicted).abs() - _disparity_change(truth).abs()


def _disparity_change(pairs: DepthPairs) -> Pairs:
    return 1 / pairs.current - 1 / pairs.previous


def _where_smooth(truth: DepthPairs, valid: PairValid) -> PairValid:
    """Pairs whose true change of inverse depth is below a twentieth of the range that the later frame's label spans.

    The mask of Video-Depth-Anything's temporal gradient matching (loss/loss.py): a larger change is an edge passing.
    """
    truth = _without_invalid(truth, valid)
    inverse = 1 / truth.current
    most = torch.where(valid, inverse, -torch.inf).amax(dim=(-2, -1), keepdim=True)
    least = torch.where(valid, inverse, torch.inf).amin(dim=(-2, -1), keepdim=True)
    return valid & (_disparity_change(truth).abs() < 0.05 * (most - least))


# Of harmless pairs: the error is finite where they are invalid.
RELATIVE: dict[str, Callable[[DepthPairs, DepthPairs], Pairs]] = {
    "change": change_error,
    "warping": warping_error,
    "geometry": geometry_error,
    "disparity": disparity_error,
    "disparity_size": disparity_size_error,
}


def huber(error: Pairs, *, bend: float = 0.1) -> Pairs:
    """e^2 / (2 bend) up to |e| = bend, then |e| - bend / 2: noise pulls little, a jump pulls with its sign.

    Args:
        error: of log depth, (b, p, h, w).
        bend: size of the error from which on it counts linearly.
    """
    size = error.abs()
    return torch.where(size < bend, error**2 / (2 * bend), size - bend / 2)


def charbonnier(error: Pairs, *, rounding: float = 0.01) -> Pairs:
    """sqrt(e^2 + rounding^2) - rounding: |e| without its corner (Charbonnier et al. 1994).

    Args:
        error: of log depth, (b, p, h, w).
        rounding: width of the rounded corner.
    """
    return (error**2 + rounding**2).sqrt() - rounding


ROBUST: dict[str, Callable[[Pairs], Pairs]] = {
    "l1": torch.abs,
    "huber": huber,
    "charbonnier": charbonnier,
    "l2": torch.square,
}


def _without_worst(error: Pairs, valid: PairValid, share: float) -> PairValid:
    """Valid pairs but for the `share` of each clip with the largest errors, the trimming of MiDaS (Ranftl et al. 2020).

    At least one pair of a clip is kept. What is left is averaged over itself; MiDaS divides by all.
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
    """Error of the change from frame to frame: the mean over the valid pairs of a clip, then over clips.

    By default the change of log predicted is compared with the change of log truth: a static surface has no true
    change, so it must keep its depth; a moving one must change as the truth does.

    Args:
        predicted: pairs of predicted depth.
        truth: pairs of the label along the same correspondences.
        kind: one of RELATIVE, what is compared.
        robust: one of ROBUST, how an error counts.
        trim: share of the pairs of a clip, those with the largest errors, that is left out; in [0, 1).
        moving_weight: of the mean over the pairs whose true change is above 1 %, none left out: they are few, and in
            the mean over all pairs the static ones outweigh them.
        gradient_weight: of multi-scale gradient matching of what is compared: most flicker is fine-grained, and
            differs from pixel to pixel.
        motion_gain_weight: of |`motion_gain` - 1|.
        both_frames: False takes the gradient of the later frame alone.

    Returns: the loss. Clips without a valid pair are left out; a differentiable 0 when none has one.
    """
    valid = predicted.valid & truth.valid
    if kind in ("disparity", "disparity_size"):
        valid = _where_smooth(truth, valid)
    if not both_frames:
        predicted = replace(predicted, previous=predicted.previous.detach())
    predicted, truth = _without_invalid(predicted, valid), _without_invalid(truth, valid)
    compared = RELATIVE[kind](predicted, truth)
    error = ROBUST[robust](compared)
    counted = _without_worst(error, valid, trim) if trim else valid
    of_clips = masked_mean(error, counted, dim=(1, 2, 3))
    if moving_weight:
        moving = valid & (truth.log_change.abs() > MOVING)
        of_clips = of_clips + moving_weight * masked_mean(error, moving, dim=(1, 2, 3))
    loss = masked_mean(of_clips, valid.flatten(1).any(dim=1))
    if gradient_weight:
        loss = loss + gradient_weight * multi_scale_gradient(compared.flatten(0, 1), valid.flatten(0, 1))
    if motion_gain_weight:
        loss = loss + motion_gain_weight * (motion_gain(predicted, truth) - 1).abs()
    return loss


def feature_difference(features: Float[Tensor, "b t *_"], stills: Bool[Tensor, "b"]) -> Scalar:
    """Mean |change of features (b, t, ...) from frame to frame| of the stills, in standard deviations of all features.

    A still is one frame in several draws of light. One depth is made of many features, so they still differ with the
    light where the depth agrees.

    Args:
        features: of the network before its last layer; t >= 2.
        stills: which clips count; 0 where none does.
    """
    features = features.float()
    scale = features.detach().std().clamp(min=1e-3)
    return masked_mean(features.diff(dim=1).abs().flatten(1).mean(dim=1) / scale, stills)


def motion_gain(predicted: DepthPairs, truth: DepthPairs) -> Scalar:
    """How much of the true change of log depth is predicted: sum v v* / sum v*^2 where |v*| is above 1 %.

    The pairs are harmless; all clips are pooled. 1 is ideal, 0 frozen, and 1 where nothing changes. The mean error of
    the change is smallest when a change that is hard to predict is predicted too small; this term is about all of the
    batch, and counters that bias.

    Args:
        predicted: harmless pairs (b, p, h, w).
        truth: harmless pairs of the label.
    """
    true_change = truth.log_change
    moved = true_change.masked_fill(~truth.valid | (true_change.abs() <= MOVING), 0)
    energy = moved.square().sum()
    share = (predicted.log_change * moved).sum() / torch.where(energy > 0, energy, 1)
    return torch.where(energy > 0, share, 1)
