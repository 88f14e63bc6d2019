"""Optical flow of two frames, its inverse, and where it can be trusted."""

from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8


def dis_flow(source: UInt8[np.ndarray, "h w 3"], target: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 2"]:
    """Dense flow from `source` to `target` in pixels (x, y): OpenCV's DIS, medium preset (Kroeger et al. 2016).

    Both frames are histogram-equalised first: DIS assumes that a point keeps its brightness, and light that changes
    from frame to frame is what this package is about.
    """
    height, width = source.shape[:2]
    # Any: the stubs of OpenCV 5 forbid the None that asks for a new image, and those of OpenCV 4 know no DIS.
    solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    # Small pictures have too few pyramid levels for the preset's 8-pixel patches at a coarse start.
    if min(height, width) < 128:
        solver.setFinestScale(0)
    grey = [cv2.equalizeHist(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)) for image in (source, target)]
    return solver.calc(grey[0], grey[1], None)


def _sample(flow: Float32[np.ndarray, "h w 2"], x: np.ndarray, y: np.ndarray, outside: float) -> np.ndarray:
    return cv2.remap(
        flow,
        x.astype(np.float32),
        y.astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(outside, outside),
    )


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:height, :width].astype(np.float32)
    return x, y


def consistent(there: Float32[np.ndarray, "h w 2"], back: Float32[np.ndarray, "h w 2"]) -> Bool[np.ndarray, "h w"]:
    """True where going `there` and coming `back` ends where it began: not occluded, and inside the other image.

    Occluded where |F(p) + B(p + F)| > 0.01 (|F(p)| + |B(p)|) + 0.5 px, B's length at the same pixel (gmflow, UnFlow).
    """
    height, width = there.shape[:2]
    x, y = _grid(height, width)
    at_x, at_y = x + there[..., 0], y + there[..., 1]
    inside = (at_x >= 0) & (at_y >= 0) & (at_x <= width - 1) & (at_y <= height - 1)
    miss = np.linalg.norm(there + _sample(back, at_x, at_y, 0.0), axis=-1)
    allowed = 0.01 * (np.linalg.norm(there, axis=-1) + np.linalg.norm(back, axis=-1)) + 0.5
    return inside & (miss <= allowed)


def invert_flow(
    flow: Float32[np.ndarray, "h w 2"],
    flow_valid: Bool[np.ndarray, "h w"],
    depth_there: Float32[np.ndarray, "h w"] | None = None,
    *,
    rounds: int = 4,
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Backward flow on the target frame from the forward flow of the source frame, and where the source saw the pixel.

    Each source pixel marks the target pixels around where it lands (where several land, the nearest of `depth_there`,
    the depth of the source point as the target camera would see it or any order like it, wins); then B = -F(p + B) is
    iterated to sub-pixel accuracy. Unseen where nothing lands, the iteration does not close to 0.1 px, or it
    ends a pixel away from where it began.
    """
    height, width = flow.shape[:2]
    x, y = _grid(height, width)
    order = np.argsort(-depth_there, axis=None, kind="stable") if depth_there is not None else np.arange(height * width)
    order = order[flow_valid.ravel()[order]]
    land_x = (x + flow[..., 0]).ravel()[order]
    land_y = (y + flow[..., 1]).ravel()[order]
    back = np.zeros((height, width, 2), np.float32)
    seen = np.zeros((height, width), bool)
    starts = -flow.reshape(-1, 2)[order]
    # Written far to near, the four neighbours of one landing together: the last write, the nearest surface, stays.
    ix = np.stack((np.floor(land_x), np.floor(land_x), np.ceil(land_x), np.ceil(land_x)), axis=-1).astype(np.int64)
    iy = np.stack((np.floor(land_y), np.ceil(land_y), np.floor(land_y), np.ceil(land_y)), axis=-1).astype(np.int64)
    inside = (ix >= 0) & (iy >= 0) & (ix < width) & (iy < height)
    back[iy[inside], ix[inside]] = np.repeat(starts, 4, axis=0)[inside.ravel()]
    seen[iy[inside], ix[inside]] = True
    start = back
    clean = np.where(flow_valid[..., None], flow, np.float32(np.nan)).astype(np.float32)
    for _ in range(rounds):
        step = -_sample(clean, x + back[..., 0], y + back[..., 1], np.nan)
        back = np.where(np.isfinite(step), step, back)
    gap = np.linalg.norm(back + _sample(clean, x + back[..., 0], y + back[..., 1], np.nan), axis=-1)
    # At the edge of two surfaces the iteration may cross over to the one behind.
    stayed = np.linalg.norm(back - start, axis=-1) < 1
    return back, seen & stayed & (gap < 0.1)
