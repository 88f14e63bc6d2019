"""Optical flow in a millisecond, for memories that follow what moves. NumPy and OpenCV alone."""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

LEAST_SIDE_PX = 12  # DIS refuses smaller images
LEAST_CONTRAST = 10.0  # of an image of `local_contrasts`, in the mean square, that tells one view from another
LEAST_ALIKE = 0.3  # the correlation of two images of one view


def _solve_fast(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The fast preset in three quarters of its time: two of its five steps of refinement."""
    # Any: the stubs of OpenCV 5 forbid the None that asks for a new image, and those of OpenCV 4 know no DIS.
    solver: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    solver.setVariationalRefinementIterations(2)
    if min(source.shape) < 128:
        solver.setFinestScale(1 if min(source.shape) >= 2 * LEAST_SIDE_PX else 0)
    return solver.calc(source, target, None)


def fast_flow(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Flow from `source` to `target`, small images, in their pixels (x, y).

    DIS, fast preset, patches at half size, on `local_contrasts`: on the synthetic world, whose light is unsteady, 16 %
    of the flow is over a pixel off, with equalised histograms 26 %. Patches at full size take 2.6 times as long, for
    14 %. Two of the preset's five steps of refinement take 0.7 of the time, for 14.5 % against 13.5 %, of what moves
    55 % against 57 %. Where the camera stands still, what looks the same without motion has none. Images of two views,
    as before and after a cut that nobody announced, have no flow.

    Args:
        source: uint8 RGB (h, w, 3), about 96 px in its shorter side.
        target: the same of the other image.

    Returns: float32 (h, w, 2); NaN everywhere where the images are too small for DIS, or of two views: nothing is
        known.
    """
    return flow_of_contrasts(local_contrasts(source), local_contrasts(target))


def flow_of_contrasts(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """`fast_flow` from the `local_contrasts` of both images."""
    height, width = source.shape[1:]
    unknown = np.full((height, width, 2), np.nan, np.float32)
    if min(height, width) < LEAST_SIDE_PX:
        return unknown
    flow = _solve_fast(source[0], target[0])
    warped = cv2.remap(
        target[1], pixel_grid(height, width) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if is_other_view(source[1], warped):
        return unknown
    return _without_motion_of_light(flow, source[1], target[1], warped)


def is_other_view(source: np.ndarray, warped: np.ndarray) -> bool:
    """Whether an image and another one, warped to it along the flow, show two views.

    By the correlation of their local contrasts, which no light changes: at cuts between real clips, and between
    synthetic ones, it is at most 0.28; from frame to frame of real clips at least 0.84, of synthetic ones with unsteady
    light 0.64; from every third frame to the next 0.29 and 0.16, where the flow is wrong as well. Images that show
    hardly more than noise count as one view.

    Args:
        source: uint8 (h, w) of `local_contrasts`.
        warped: the same of the other image.
    """
    here, there = (one.astype(np.float32).ravel() - 128 for one in (source, warped))
    own, other, both = here @ here, there @ there, here @ there
    return bool(min(own, other) > here.size * LEAST_CONTRAST**2 and both < LEAST_ALIKE * np.sqrt(own * other))


def local_contrasts(image: np.ndarray) -> np.ndarray:
    """Grey minus its local mean, over its local standard deviation; 128 is no contrast. Smooth light changes it little.

    Args:
        image: uint8 RGB (h, w, 3).

    Returns: uint8 (2, h, w), over windows of 25 and of 9 px.
    """
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 0.7)
    square, found = grey * grey, np.empty((2, *grey.shape), np.uint8)
    for number, side in enumerate((25, 9)):
        mean = cv2.blur(grey, (side, side))
        deviation = np.sqrt(np.maximum(cv2.blur(square, (side, side)) - mean * mean, 0))
        found[number] = np.clip(128 + 50 * (grey - mean) / (deviation + 8), 0, 255)
    return found


def _without_motion_of_light(
    flow: np.ndarray, source: np.ndarray, target: np.ndarray, warped: np.ndarray
) -> np.ndarray:
    """The flow, 0 where the camera stands still and both images look as much alike without it."""
    still, moved = (cv2.blur(cv2.absdiff(source, image).astype(np.float32), (7, 7)) for image in (target, warped))
    alike = still <= 1.1 * moved + 1
    # Pixels that differ from their surroundings tell whether the camera moves.
    contrast = cv2.blur(cv2.absdiff(source, np.full_like(source, 128)), (9, 9))
    is_still = alike[contrast >= np.median(contrast[::3, ::3])].mean() > 0.6  # all pixels would take ten times as long
    return np.where(alike[..., None], np.float32(0), flow) if is_still else flow


@lru_cache(maxsize=4)
def pixel_grid(height: int, width: int) -> np.ndarray:
    """Column and row of every pixel, float32 (h, w, 2); shared, so nobody may write to it."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    grid = np.stack((x, y), axis=-1)
    grid.flags.writeable = False
    return grid
