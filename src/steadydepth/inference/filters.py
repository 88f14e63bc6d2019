"""What can be had without training: causal filters of a finished depth video, by name.

The formulas are in `ops.smooth`. They cost nothing to train and make any model steadier, and late: what moves is
smeared behind itself. They are the controls that a trained model has to beat (`metrics.evaluate`).
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from jaxtyping import Float, UInt8

from steadydepth.ops.bidirectional_flow import two_way_from_frames
from steadydepth.ops.smoothing import MEDIAN_WINDOW, causal_median, ema, flow_ema
from steadydepth.types import InputError

__all__ = ["FILTERS", "causal_median", "check_filter", "ema", "ema_along_flow", "filter_depth", "filter_frames"]

Filter = Callable[[Float[np.ndarray, "t h w"], UInt8[np.ndarray, "t h w 3"]], Float[np.ndarray, "t h w"]]


def ema_along_flow(
    depth: Float[np.ndarray, "t h w"], frames: UInt8[np.ndarray, "t h w 3"], *, decay: float = 0.8
) -> Float[np.ndarray, "t h w"]:
    """`ops.smoothing.flow_ema` along DIS flow, which is trusted where forward and backward flow agree."""
    flow = two_way_from_frames(frames)
    return flow_ema(depth, flow.backward, flow.backward_visible, decay=decay)


FILTERS: dict[str, Filter] = {
    "ema": lambda depth, frames: ema(depth, decay=0.5),
    "ema_0.8": lambda depth, frames: ema(depth, decay=0.8),
    "median": lambda depth, frames: causal_median(depth),
    "flow_ema": ema_along_flow,
}


def filter_frames(
    name: str, frames: Iterable[tuple[Float[np.ndarray, "h w"], UInt8[np.ndarray, "h w 3"]]]
) -> Iterator[Float[np.ndarray, "h w"]]:
    """`filter_depth` of a video, from depth and image of each frame, in the memory of a few; equal but for rounding."""
    check_filter(name)
    recent: list[tuple[np.ndarray, np.ndarray]] = []
    for depth, image in frames:
        recent.append((depth, image))
        filtered = filter_depth(name, *(np.stack(each) for each in zip(*recent, strict=True)))[-1]
        # A median looks at the last frames as they were; an average at nothing but the last average.
        recent = recent[1 - MEDIAN_WINDOW :] if name == "median" else [(filtered, image)]
        yield filtered


def check_filter(name: str) -> None:
    """InputError when there is no filter of that name."""
    if name not in FILTERS:
        raise InputError(f"filter {name!r}: unknown; choose one of {', '.join(FILTERS)}")


def filter_depth(
    name: str, depth: Float[np.ndarray, "t h w"], frames: UInt8[np.ndarray, "t i j 3"]
) -> Float[np.ndarray, "t h w"]:
    """`depth` of `frames` through the filter of that name; InputError for an unknown name or unequal sizes."""
    check_filter(name)
    if depth.shape != frames.shape[:3]:
        raise InputError(
            f"depth is {depth.shape}, frames are {frames.shape[:3]}: a filter needs a depth for each pixel of each "
            "frame: resize one to the other first"
        )
    return FILTERS[name](depth, frames)
