"""The nouns: what moves between the rooms of the package, and the contract of a model; those of `video_types` as well.

Axes: b clip, t time, p pair (t - 1), c channel, h row, w column.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.errors import InputError as InputError
from steadydepth.video_types import Claims as Claims
from steadydepth.video_types import Clip as Clip
from steadydepth.video_types import DepthFrames as DepthFrames

Frames = Float[Tensor, "b t 3 h w"]  # RGB in [0, 1]
Depth = Float[Tensor, "b t h w"]  # metres along the optical axis, > 0
Valid = Bool[Tensor, "b t h w"]  # True where the depth was measured

# What supervises a clip: measured depth; the same, of unrelated images; the depth of the filtered teacher; or no label.
Labels = Literal["depth", "single", "teacher", "none"]


@dataclass(frozen=True)
class Batch:
    """Clips of consecutive frames, with the depth measured for them and what is known of the motion.

    `labels` and `source` have an entry for each clip; left empty, all clips have measured depth and one source.
    """

    frames: Frames
    depth: Depth
    valid: Valid
    motion: Float[Tensor, "b p h w 2"] | None = None  # where each pixel was in the previous frame, in pixels from here
    visible: Bool[Tensor, "b p h w"] | None = None  # True where the previous frame saw it too
    labels: tuple[Labels, ...] = ()
    source: tuple[int, ...] = ()  # number of the folder that it is from, of those that a run mixes
    is_still: Bool[Tensor, "b"] | None = None  # which clips are one frame in several draws of light; None: no one said

    def split(self, parts: int) -> "list[Batch]":
        """The batch in `parts` of equally many clips, in order; their number is a multiple of `parts`."""
        size = len(self.frames) // parts
        return [self] if parts == 1 else [self._take(range(i * size, (i + 1) * size)) for i in range(parts)]

    def by_source(self) -> "dict[int, tuple[Sequence[int] | slice, Batch]]":
        """The clips of each source, their places before them, by its number in ascending order; 0 without numbers."""
        sources = sorted(set(self.source)) or [0]
        if len(sources) == 1:
            return {sources[0]: (slice(None), self)}  # a view, not a copy
        places = {one: [i for i, source in enumerate(self.source) if source == one] for one in sources}
        return {one: (own, self._take(own)) for one, own in places.items()}

    def _take(self, places: Sequence[int]) -> "Batch":
        places = list(places)

        def take(part: Any) -> Any:
            return part[places] if isinstance(part, Tensor) else part and tuple(part[i] for i in places)

        return Batch(**{name: take(part) for name, part in vars(self).items()})


@dataclass(frozen=True)
class DepthPairs:
    """Each depth image beside the one before it."""

    current: Float[Tensor, "b p h w"]
    previous: Float[Tensor, "b p h w"]
    valid: Bool[Tensor, "b p h w"]  # True where both are
    harmless: bool = False  # whether a depth stands at invalid pairs too, above 0, and not just anything

    @cached_property
    def log_change(self) -> Float[Tensor, "b p h w"]:
        """Change of log depth from the earlier frame to the later one; of invalid pairs it may be anything."""
        return self.current.log() - self.previous.log()


@dataclass(frozen=True)
class LossTerms:
    """What the optimizer minimises, and the two parts it is made of, detached."""

    absolute: Float[Tensor, ""]
    relative: Float[Tensor, ""]
    target: Float[Tensor, ""]
    of_sources: Mapping[int, Float[Tensor, "3"]] = field(default_factory=dict)  # clips, and the sums of both over them
    is_finite: bool = True  # False: the gradient was not, and no weight was changed


# What a model remembers of the frames before, batched along the first axis; empty for a per-frame network.
State = dict[str, Tensor]


@runtime_checkable
class VideoDepthModel(Protocol):
    """Depth of `frames`, given what the frames before them left in `state`.

    Args of a call:
        frames: consecutive frames, RGB in [0, 1].
        state: what the call for the frames before returned; None at the beginning of a video.

    Returns: depth of each frame, of the size of the frames, in the units of `claims`; and the state that the last frame
        leaves. Nothing is kept on the model between calls, so streams can be batched and taken apart again.
    """

    claims: Claims  # what the numbers mean; declared by the model, never guessed

    def __call__(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]: ...
