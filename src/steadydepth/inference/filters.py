"""Filters of a depth video by name, frame by frame: what `--filter` takes in predict, stream and evaluate."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from steadydepth.config import FilterName
from steadydepth.errors import InputError
from steadydepth.inference.filter_runtime import STRENGTH, check_strength, filter_offline
from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.ops.bidirectional_flow import pair_from_frames
from steadydepth.ops.colours import is_measured
from steadydepth.ops.sampling import Places
from steadydepth.ops.smoothing import FILTERS, Memory, backward_places
from steadydepth.video_types import Claims

NONE, LEARNED, OFFLINE = "none", "learned", "learned_offline"
# In each frame alone, nothing after it is needed, so a live source can be filtered.
CAUSAL = (LEARNED, *get_args(FilterName))
NAMES = (NONE, OFFLINE, *CAUSAL)

# What a filter remembers of one video; None at its beginning.
FilterState = dict[str, Any]
# One step: depth and image of a frame, and what the step before returned; the filtered depth, and the next state.
DepthFilter = Callable[
    [Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"], FilterState | None],
    tuple[Float[np.ndarray, "h w"], FilterState],
]


@dataclass(frozen=True)
class ChosenFilter:
    """A filter by name, and what the learned one is given."""

    name: str = NONE
    strength: float | None = None  # of the learned filter; None for the others
    weights: Path | None = None  # of the learned filter, where they are not those of the package

    def __str__(self) -> str:
        return self.name if self.weights is None else f"{self.name}:{self.weights.parent}"

    @property
    def is_offline(self) -> bool:
        """Whether it looks at later frames."""
        return self.name == OFFLINE

    def noted(self) -> dict[str, Any]:
        """What outputs note of it: `filter`, and `strength` of the learned one."""
        return {"filter": str(self)} | ({} if self.strength is None else {"strength": self.strength})

    def learned(self, claims: Claims) -> LearnedFilter:
        """The learned filter of that strength and those weights."""
        return LearnedFilter(
            claims, strength=STRENGTH if self.strength is None else self.strength, weights=self.weights
        )


def choose_filter(filter: str | ChosenFilter | None, strength: float | None = None) -> ChosenFilter:
    """A filter by its name, or by the folder that `tune_filter` wrote.

    Args:
        filter: one of `NAMES`, such a folder, `learned_offline:FOLDER`, or a filter that was chosen; None is none.
        strength: of the learned filter, from 0, the depth as it is, to 1; None takes its own.

    Raises:
        InputError: there is no such filter, it has no strength, or the strength is not from 0 to 1.
    """
    chosen = filter if isinstance(filter, ChosenFilter) else _named(str(filter or NONE))
    if chosen.name not in (LEARNED, OFFLINE):
        if strength is not None:
            raise InputError(f"strength {strength}: filter {chosen} has none; it is of the filter learned: choose that")
        return chosen
    given = next(one for one in (strength, chosen.strength, STRENGTH) if one is not None)
    check_strength(given)
    return replace(chosen, strength=given)


def _named(text: str) -> ChosenFilter:
    if text in NAMES:
        return ChosenFilter(text)
    name, _, folder = text.partition(":")
    if name not in (LEARNED, OFFLINE):
        name, folder = LEARNED, text
    weights = Path(folder) / WEIGHTS.name
    if not weights.is_file():
        raise InputError(
            f"filter {text!r}: unknown; choose one of {', '.join(NAMES)}, or a folder that tune-filter wrote"
        )
    return ChosenFilter(name, weights=weights)


def open_filter(filter: str | ChosenFilter | None, claims: Claims) -> DepthFilter | None:
    """The filter of that name for depth of those claims.

    Args:
        filter: what `choose_filter` takes, but causal; None filters nothing.
        claims: what the filtered numbers mean. Depth is averaged in its logarithm, so that a factor stays one; affine
            depth and disparity, which may be negative, as they are.

    Returns: a step from frame to frame, None for no filter.

    Raises:
        InputError: there is no such filter, or it is not causal.
    """
    chosen = choose_filter(filter)
    if chosen.is_offline:
        raise InputError(f"filter {OFFLINE}: looks at later frames, which a live source has not: take {LEARNED}")
    if chosen.name == LEARNED:
        return chosen.learned(claims).step
    return None if chosen.name == NONE else _smoothing(cast(FilterName, chosen.name), claims in ("metric", "scale"))


def _smoothing(name: FilterName, is_log: bool) -> DepthFilter:
    """A filter of `ops.smoothing` as a step on depth of one frame; a value that does not count passes as it is."""

    def step(
        depth: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], state: FilterState | None
    ) -> tuple[Float[np.ndarray, "h w"], FilterState]:
        usable = is_measured(depth, "metric" if is_log else "affine")
        safe = np.where(usable, depth, 1).astype(np.float64)
        values = np.where(usable, np.log(safe) if is_log else safe, np.nan).ravel()

        def motion() -> tuple[Places, Bool[np.ndarray, "n"]]:
            assert state is not None
            flow = pair_from_frames(state["image"], image)
            return backward_places(flow.backward), flow.backward_visible.ravel()

        memory: Memory = {} if state is None else state["memory"]
        smooth, memory = FILTERS[name](values, memory, motion)
        filtered = (np.exp(smooth) if is_log else smooth).reshape(depth.shape).astype(depth.dtype)
        return np.where(usable, filtered, depth), {"memory": memory, "image": image.copy()}

    return step


def filter_depth(
    filter: str | ChosenFilter,
    depth: Float[np.ndarray, "t h w"],
    frames: UInt8[np.ndarray, "t i j 3"],
    *,
    claims: Claims = "metric",
) -> Float[np.ndarray, "t h w"]:
    """A complete depth video through the filter of that name.

    Args:
        filter: what `choose_filter` takes.
        depth: in the units of `claims`; what is not finite, or not above 0 where it claims to be a depth, passes as it
            is and is never remembered.
        frames: RGB, of the size of the depth.
        claims: what the numbers mean.

    Returns: the filtered depth, of the same type.

    Raises:
        InputError: there is no such filter, or a frame has another size than its depth.
    """
    chosen = choose_filter(filter)
    if depth.shape != frames.shape[:3]:
        raise InputError(
            f"depth is {depth.shape}, frames are {frames.shape[:3]}: a filter needs a depth for each pixel of each "
            "frame: resize one to the other first"
        )
    if chosen.is_offline:
        return np.stack(list(filter_offline(zip(depth, frames, strict=True), chosen.learned(claims))))
    step, state = open_filter(chosen, claims), None
    if step is None:
        return depth
    filtered = []
    for one, image in zip(depth, frames, strict=True):
        smooth, state = step(one, image, state)
        filtered.append(smooth)
    return np.stack(filtered)
