"""One step of the method: the four steps by name, with labels and without."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from steadydepth.method.alignment import align_clips, as_depth
from steadydepth.method.losses import absolute_loss, relative_loss, target_loss
from steadydepth.method.pairing import Motion, Visible, correspondences_back, pair_along, pair_with_previous, unchanged
from steadydepth.method.sequence import process_sequence
from steadydepth.method.update import update_weights
from steadydepth.types import Batch, Claims, Depth, DepthPairs, Labels, LossTerms

EDGE = math.log(1.25)  # flicker changes depth by less from one frame to the next, the edge of a thing by more


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    max_grad_norm: float,
    parts: int = 1,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    clip: Callable[..., Tensor] = nn.utils.clip_grad_norm_,
    **choices: Any,
) -> LossTerms:
    """Learn once from clips; return the losses before the update, `choices` being those of `find_losses`.

    The clips pass in so many `parts`, for less memory, and the losses are means over these. Where the gradient is not
    finite no weight changes. `backward` and `clip` are for launchers that scale the loss or gather gradients.
    """
    optimizer.zero_grad(set_to_none=True)
    found = []
    for number, part in enumerate(split_batch(batch, parts), start=1):
        with _gathered_later(model) if number < parts else nullcontext():
            found.append(find_losses(model, part, **choices))
            backward(_spread_not_finite(found[-1].target) / parts)
    length = update_weights(model, optimizer, max_grad_norm, clip=clip)
    return replace(mean_over_parts(found), is_finite=math.isfinite(length))


def find_losses(
    model: nn.Module,
    batch: Batch,
    *,
    relative_weight: float,
    absolute: Callable[..., Tensor] = absolute_loss,
    relative: Callable[[DepthPairs, DepthPairs], Tensor] = relative_loss,
    frame_offsets: Sequence[int] = (1,),
    claims: Claims = "metric",
    teacher: nn.Module | None = None,
    window: int = 1,
) -> LossTerms:
    """The losses of clips that pass through the network together, each by the labels that it has.

    Without measured depth a point seen in two frames is taken to keep its depth from one to the next, and the frozen
    `teacher` labels each frame, because steadiness alone is best served by a constant; with a `window` of more than one
    frame, what it says is averaged along the motion. The clips of a source are pooled, and the target is the mean over
    all clips: one that has no absolute loss, or no pairs, adds 0 there.
    """
    predicted, _ = process_sequence(model, batch.frames)

    losses = {}
    for source, clips in clips_of_sources(batch).items():
        part = take_clips(batch, clips)
        labels = part.labels[0] if part.labels else "depth"
        depth, part = with_labels(predicted[clips], part, labels, claims=claims, teacher=teacher, window=window)
        none = depth.new_zeros(())
        losses[source] = target_loss(
            absolute=none if labels == "none" else absolute(depth, part.depth, part.valid, frames=part.frames),
            relative=none if labels == "single" else relative(*pair_both(depth, part, labels, frame_offsets)),
            weight=relative_weight,
        )

    return mean_over_clips(losses, batch)


def _spread_not_finite(loss: Tensor) -> Tensor:
    """The same loss; where it is not finite neither is its gradient, in which all processes then see it."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


def _gathered_later(model: nn.Module) -> AbstractContextManager[Any]:
    """Processes add up their gradients once a step, with the last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch in `parts` of equally many clips, in order."""
    if parts == 1:
        return [batch]
    size = len(batch.frames) // parts
    return [take_clips(batch, list(range(first, first + size))) for first in range(0, len(batch.frames), size)]


def mean_over_parts(parts: Sequence[LossTerms]) -> LossTerms:
    """The losses of a step out of those of its parts; what is summed over clips is summed over all of them."""
    absolute, relative, target = (
        torch.stack([getattr(part, name).detach() for part in parts]).mean()
        for name in ("absolute", "relative", "target")
    )
    sources = sorted({source for part in parts for source in part.of_sources})
    return LossTerms(
        absolute,
        relative,
        target,
        {
            source: torch.stack([part.of_sources[source] for part in parts if source in part.of_sources]).sum(0)
            for source in sources
        },
    )


def clips_of_sources(batch: Batch) -> dict[int, list[int] | slice]:
    """Where the clips of each source stand in a batch."""
    sources = sorted(set(batch.source)) or [0]
    if len(sources) == 1:
        return {sources[0]: slice(None)}  # a view, not a copy
    return {source: [i for i, one in enumerate(batch.source) if one == source] for source in sources}


def take_clips(batch: Batch, clips: list[int] | slice) -> Batch:
    """Some clips of a batch."""
    if isinstance(clips, slice):
        return batch

    def take(part: Any) -> Any:
        return part[clips] if isinstance(part, Tensor) else part and tuple(part[i] for i in clips)

    return Batch(**{name: take(part) for name, part in vars(batch).items()})


def with_labels(
    predicted: Depth, batch: Batch, labels: Labels, *, claims: Claims, teacher: nn.Module | None, window: int
) -> tuple[Depth, Batch]:
    """Depth from `predicted`, and the clips with the depth that it is held against, in the same units."""
    if labels in ("depth", "single"):
        return align_clips(predicted, batch.depth, batch.valid, claims, single=labels == "single"), batch
    if labels == "none":
        return as_depth(predicted, predicted, claims), batch
    assert teacher is not None
    batch = label_with(teacher, batch, window=window)
    depth = as_depth(predicted, batch.depth, claims)
    return depth, replace(batch, depth=as_depth(batch.depth, batch.depth, claims))


def label_with(teacher: nn.Module, batch: Batch, *, window: int) -> Batch:
    """The same clips with what `teacher` says of them, everywhere, as their depth."""
    with torch.no_grad():
        predicted, _ = process_sequence(teacher, batch.frames)
        depth = average_along(predicted, batch.motion, batch.visible, window=window)
    return replace(batch, depth=depth, valid=torch.ones_like(batch.valid))


def pair_both(
    depth: Depth, batch: Batch, labels: Labels, frame_offsets: Sequence[int]
) -> tuple[DepthPairs, DepthPairs]:
    """Pairs of what is predicted and of what is true, along ways that are found once for both."""
    is_labelled = labels not in ("teacher", "none")
    valid = batch.valid if is_labelled else torch.ones_like(batch.valid)
    correspondences = correspondences_back(valid, batch.motion, batch.visible, frame_offsets)
    predicted = pair_along(depth, valid, correspondences)
    return predicted, pair_along(batch.depth, valid, correspondences) if is_labelled else unchanged(predicted)


def mean_over_clips(losses: Mapping[int, LossTerms], batch: Batch) -> LossTerms:
    """The losses of a batch out of those of its sources, each by its share of the clips."""
    clips = {source: batch.source.count(source) or len(batch.frames) for source in losses}
    shares = {source: count / len(batch.frames) for source, count in clips.items()}
    absolute, relative, target = (
        torch.stack([shares[source] * getattr(terms, name) for source, terms in losses.items()]).sum()
        for name in ("absolute", "relative", "target")
    )
    of_sources = {
        source: clips[source] * torch.stack((torch.ones_like(terms.absolute), terms.absolute, terms.relative))
        for source, terms in losses.items()
    }
    return LossTerms(absolute, relative, target, of_sources)


def average_along(depth: Depth, motion: Motion, visible: Visible, *, window: int) -> Depth:
    """Each depth image averaged in log depth with those of up to `window` - 1 frames before it, brought here.

    A point counts where it was seen all along, and where its depth there is within EDGE of its depth here: beyond
    that it is another surface, or was one. The first frames of a clip have fewer neighbours.
    """
    log_depth, everywhere = depth.log(), torch.ones_like(depth, dtype=torch.bool)
    total, count = log_depth.clone(), torch.ones_like(depth)
    for offset in range(1, min(window, depth.shape[1])):
        earlier = pair_with_previous(depth, everywhere, motion, visible, frame_offsets=(offset,))
        away = earlier.previous.log() - log_depth[:, offset:]
        same = earlier.valid & (away.abs() < EDGE)
        total[:, offset:] += torch.where(same, away + log_depth[:, offset:], 0)
        count[:, offset:] += same
    return (total / count).exp()
