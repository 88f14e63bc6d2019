"""Step 3, loss calculation: target = absolute + weight x relative, as means over the clips of a batch.

All losses of `absolute_loss` and `relative_loss` stand here for users, as `steadydepth.losses`.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from steadydepth.method.absolute_loss import absolute_loss as absolute_loss
from steadydepth.method.absolute_loss import affine_invariant as affine_invariant
from steadydepth.method.absolute_loss import gradient_matching as gradient_matching
from steadydepth.method.absolute_loss import log_l1 as log_l1
from steadydepth.method.absolute_loss import lost_edges as lost_edges
from steadydepth.method.absolute_loss import silog as silog
from steadydepth.method.absolute_loss import smoothness as smoothness
from steadydepth.method.pairing import PairedClips
from steadydepth.method.relative_loss import change_error as change_error
from steadydepth.method.relative_loss import charbonnier as charbonnier
from steadydepth.method.relative_loss import disparity_error as disparity_error
from steadydepth.method.relative_loss import disparity_size_error as disparity_size_error
from steadydepth.method.relative_loss import feature_difference as feature_difference
from steadydepth.method.relative_loss import geometry_error as geometry_error
from steadydepth.method.relative_loss import huber as huber
from steadydepth.method.relative_loss import motion_gain as motion_gain
from steadydepth.method.relative_loss import relative_loss as relative_loss
from steadydepth.method.relative_loss import warping_error as warping_error
from steadydepth.types import DepthPairs, LossTerms

Scalar = Float[Tensor, ""]
AbsoluteLoss = Callable[..., Tensor]  # of depth, truth and valid (b t h w), and frames=(b t 3 h w)
RelativeLoss = Callable[[DepthPairs, DepthPairs], Tensor]  # of predicted and true pairs


def calculate_losses(
    pairs: Mapping[int, PairedClips],
    *,
    relative_weight: float,
    absolute: AbsoluteLoss = absolute_loss,
    relative: RelativeLoss = relative_loss,
    feature_weight: float = 0.0,
) -> LossTerms:
    """The losses of a batch: those of each source, weighted by its share of the clips.

    The clips of one source are pooled. Clips without a label have no absolute loss, single images no relative loss:
    they add 0 there, so the share of a source in the samples is its share in the loss.

    Args:
        pairs: what `pair_clips` returns, by the number of the source.
        relative_weight: of the relative loss in the target, at least 0.
        absolute: the loss of each frame against its label.
        relative: the loss of each change against the true change.
        feature_weight: inside the relative loss, of `feature_difference`, where the clips come with features.

    Returns: `target` with its gradient; the two parts and the sums of each source detached.
    """
    losses = {}
    for source, clips in pairs.items():
        none = clips.depth.new_zeros(())
        losses[source] = target_loss(
            absolute=none
            if clips.truth is None
            else absolute(clips.depth, clips.truth, clips.valid, frames=clips.frames),
            relative=none if clips.pairs is None else relative(*clips.pairs) + _of_features(clips, feature_weight),
            weight=relative_weight,
        )
    return _mean_over_clips(losses, {source: len(clips.depth) for source, clips in pairs.items()})


def _of_features(clips: PairedClips, weight: float) -> Scalar | float:
    if clips.features is None or clips.stills is None:
        return 0.0
    return weight * feature_difference(clips.features, clips.stills)


def target_loss(absolute: Scalar, relative: Scalar, weight: float) -> LossTerms:
    """Absolute + weight x relative, with the two parts detached for the log.

    Args:
        absolute: scalar.
        relative: scalar.
        weight: of the relative loss, at least 0.
    """
    return LossTerms(absolute.detach(), relative.detach(), absolute + weight * relative)


def _mean_over_clips(losses: Mapping[int, LossTerms], n_clips: Mapping[int, int]) -> LossTerms:
    """The losses of a batch from those of its sources, each by its share of the clips."""
    total = sum(n_clips.values())
    absolute, relative, target = (
        torch.stack([n_clips[source] / total * getattr(terms, name) for source, terms in losses.items()]).sum()
        for name in ("absolute", "relative", "target")
    )
    of_sources = {
        source: n_clips[source] * torch.stack((torch.ones_like(terms.absolute), terms.absolute, terms.relative))
        for source, terms in losses.items()
    }
    return LossTerms(absolute, relative, target, of_sources)


def mean_over_parts(parts: Sequence[LossTerms]) -> LossTerms:
    """The losses of a step from those of its equally large parts, detached; sums over clips are added up.

    Args:
        parts: what `calculate_losses` returned for each part.
    """
    absolute, relative, target = (
        torch.stack([getattr(part, name).detach() for part in parts]).mean()
        for name in ("absolute", "relative", "target")
    )
    of_sources = {
        source: torch.stack([part.of_sources[source] for part in parts if source in part.of_sources]).sum(0)
        for source in sorted({source for part in parts for source in part.of_sources})
    }
    return LossTerms(absolute, relative, target, of_sources)
