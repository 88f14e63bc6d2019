"""Filters of a depth video by name, frame by frame: what `--filter` takes in predict, stream and evaluate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Bool, Float, UInt8

from steadydepth.config import FilterName
from steadydepth.inference.learned_filter import LearnedFilter, filter_offline
from steadydepth.ops.bidirectional_flow import pair_from_frames
from steadydepth.ops.colours import is_measured
from steadydepth.ops.sampling import Places
from steadydepth.ops.smoothing import FILTERS, Memory, backward_places
from steadydepth.types import Claims, InputError

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


def open_filter(name: str | None, claims: Claims) -> DepthFilter | None:
    """The filter of that name for depth of those claims.

    Args:
        name: "none" or one of `CAUSAL`; None filters nothing.
        claims: what the filtered numbers mean. Depth is averaged in its logarithm, so that a factor stays one; affine
            depth and disparity, which may be negative, as they are.

    Returns: a step from frame to frame, None for no filter.

    Raises:
        InputError: there is no filter of that name, or it is not causal.
    """
    check_filter(name)
    if name == OFFLINE:
        raise InputError(f"filter {OFFLINE}: looks at later frames, which a live source has not: take {LEARNED}")
    if name == LEARNED:
        return LearnedFilter(claims).step
    return None if name in (None, NONE) else _Smoothing(cast(FilterName, name), claims in ("metric", "scale"))


def check_filter(name: str | None) -> None:
    """InputError when there is no filter of that name."""
    if name is not None and name not in NAMES:
        raise InputError(f"filter {name!r}: unknown; choose one of {', '.join(NAMES)}")


@dataclass(frozen=True)
class _Smoothing:
    """A filter of `ops.smoothing` as a step on depth of one frame; a value that does not count passes as it is."""

    name: FilterName
    is_log: bool

    def __call__(
        self, depth: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], state: FilterState | None
    ) -> tuple[Float[np.ndarray, "h w"], FilterState]:
        usable = is_measured(depth, "metric" if self.is_log else "affine")
        safe = np.where(usable, depth, 1).astype(np.float64)
        values = np.where(usable, np.log(safe) if self.is_log else safe, np.nan).ravel()

        def motion() -> tuple[Places, Bool[np.ndarray, "n"]]:
            assert state is not None
            flow = pair_from_frames(state["image"], image)
            return backward_places(flow.backward), flow.backward_visible.ravel()

        memory: Memory = {} if state is None else state["memory"]
        smooth, memory = FILTERS[self.name](values, memory, motion)
        filtered = (np.exp(smooth) if self.is_log else smooth).reshape(depth.shape).astype(depth.dtype)
        return np.where(usable, filtered, depth), {"memory": memory, "image": image}


def filter_depth(
    name: str, depth: Float[np.ndarray, "t h w"], frames: UInt8[np.ndarray, "t i j 3"], *, claims: Claims = "metric"
) -> Float[np.ndarray, "t h w"]:
    """A complete depth video through the filter of that name.

    Args:
        name: one of `NAMES`.
        depth: in the units of `claims`; what is not finite, or not above 0 where it claims to be a depth, passes as it
            is and is never remembered.
        frames: RGB, of the size of the depth.
        claims: what the numbers mean.

    Returns: the filtered depth, of the same type.

    Raises:
        InputError: there is no such filter, or a frame has another size than its depth.
    """
    check_filter(name)
    if depth.shape != frames.shape[:3]:
        raise InputError(
            f"depth is {depth.shape}, frames are {frames.shape[:3]}: a filter needs a depth for each pixel of each "
            "frame: resize one to the other first"
        )
    if name == OFFLINE:
        return np.stack(list(filter_offline(zip(depth, frames, strict=True), LearnedFilter(claims))))
    step, state = open_filter(name, claims), None
    if step is None:
        return depth
    filtered = []
    for one, image in zip(depth, frames, strict=True):
        smooth, state = step(one, image, state)
        filtered.append(smooth)
    return np.stack(filtered)
