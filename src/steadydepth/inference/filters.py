"""What can be had without training: causal filters of a finished depth video, by name.

The formulas are in `ops.smooth`. They cost nothing to train and make any model steadier, and late: what moves is
smeared behind itself. They are the controls that a trained model has to beat (`metrics.evaluate`).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from steadydepth.ops.smooth import causal_median, ema, flow_ema
from steadydepth.ops.two_way import two_way_from_frames
from steadydepth.types import InputError

__all__ = ["FILTERS", "causal_median", "ema", "ema_along_flow", "filter_depth"]

Filter = Callable[[Float[np.ndarray, "t h w"], UInt8[np.ndarray, "t h w 3"]], Float[np.ndarray, "t h w"]]


def ema_along_flow(
    depth: Float[np.ndarray, "t h w"], frames: UInt8[np.ndarray, "t h w 3"], *, decay: float = 0.8
) -> Float[np.ndarray, "t h w"]:
    """`ops.smooth.flow_ema` along DIS flow, which is trusted where forward and backward flow agree."""
    flow = two_way_from_frames(frames)
    return flow_ema(depth, flow.backward, flow.backward_seen, decay=decay)


FILTERS: dict[str, Filter] = {
    "ema": lambda depth, frames: ema(depth, decay=0.5),
    "ema_0.8": lambda depth, frames: ema(depth, decay=0.8),
    "median": lambda depth, frames: causal_median(depth),
    "flow_ema": ema_along_flow,
}


def filter_depth(
    name: str, depth: Float[np.ndarray, "t h w"], frames: UInt8[np.ndarray, "t i j 3"]
) -> Float[np.ndarray, "t h w"]:
    """`depth` of `frames` through the filter of that name; InputError for an unknown name or unequal sizes."""
    if name not in FILTERS:
        raise InputError(f"filter {name!r}: unknown; choose one of {', '.join(FILTERS)}")
    if depth.shape != frames.shape[:3]:
        raise InputError(
            f"depth is {depth.shape}, frames are {frames.shape[:3]}: a filter needs a depth for each pixel of each "
            "frame: resize one to the other first"
        )
    return FILTERS[name](depth, frames)
