"""The nouns of video that need no torch: clips, depth videos, and what their numbers mean.

Axes: t time, p pair (t - 1), h row, w column.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

# What the numbers of a model claim to be: metres; depth up to one factor; depth up to one factor and one offset;
# inverse depth up to one factor and one offset.
Claims = Literal["metric", "scale", "affine", "disparity"]


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of one view as they are on disk; what the data does not have is None."""

    name: str
    frames: UInt8[np.ndarray, "t h w 3"]  # RGB
    fps: float
    depth: Float32[np.ndarray, "t h w"] | None = None  # metres, planar z; 0 where not measured
    valid: Bool[np.ndarray, "t h w"] | None = None  # depth > 0 and not masked out
    objects: UInt8[np.ndarray, "t h w"] | None = None  # 0 static world, n moving object n
    flow: Float32[np.ndarray, "p h w 2"] | None = None  # forward, frame i into i + 1, pixels (x, y)
    flow_valid: Bool[np.ndarray, "p h w"] | None = None
    motion: Float32[np.ndarray, "p h w 2"] | None = None  # estimated, frame i + 1 into i, pixels (x, y)
    visible: Bool[np.ndarray, "p h w"] | None = None  # where the motion can be trusted
    K: Float64[np.ndarray, "3 3"] | None = None  # pixels, pixel centres at integer coordinates
    cam_to_world: Float64[np.ndarray, "t 4 4"] | None = None  # OpenCV axes, metres
    fixed_camera: bool | None = None


@dataclass(frozen=True)
class DepthFrames:
    """What was predicted for a video: read frame by frame, in order, as often as asked, and never held at once."""

    claims: Claims
    n_frames: int
    height: int
    width: int
    read: Callable[[], Iterator[Float32[np.ndarray, "h w"]]]  # in the units of `claims`
