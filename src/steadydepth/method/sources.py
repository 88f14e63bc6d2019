"""Batches taken apart: into parts that pass through the network in turn, and into the clips of each source."""

from typing import Any

from torch import Tensor

from steadydepth.types import Batch

Clips = list[int] | slice  # places of clips in a batch


def split_batch(batch: Batch, parts: int) -> list[Batch]:
    """A batch in `parts` of equally many clips, in order.

    Args:
        batch: its number of clips is a multiple of `parts`.
        parts: at least 1; 1 returns the batch itself.
    """
    if parts == 1:
        return [batch]
    size = len(batch.frames) // parts
    return [take_clips(batch, list(range(first, first + size))) for first in range(0, len(batch.frames), size)]


def clips_of_sources(batch: Batch) -> dict[int, Clips]:
    """Places of the clips of each source, by its number in ascending order; a batch without numbers has source 0."""
    sources = sorted(set(batch.source)) or [0]
    if len(sources) == 1:
        return {sources[0]: slice(None)}  # a view, not a copy
    return {source: [i for i, one in enumerate(batch.source) if one == source] for source in sources}


def take_clips(batch: Batch, clips: Clips) -> Batch:
    """The batch of these clips alone; a slice stands for all of them."""
    if isinstance(clips, slice):
        return batch

    def take(part: Any) -> Any:
        return part[clips] if isinstance(part, Tensor) else part and tuple(part[i] for i in clips)

    return Batch(**{name: take(part) for name, part in vars(batch).items()})
