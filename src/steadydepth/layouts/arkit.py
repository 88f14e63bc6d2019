"""What recordings of iPhones and iPads share: held in any way, depth of a LiDAR, and how far it is trusted."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.files.images import check_size, read_labels
from steadydepth.layouts.recording import pinhole

# Of points in camera axes (x right, y down, z forward), when the image is turned a quarter clockwise.
_QUARTER = np.array([[0.0, -1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def quarters_to_upright(cam_to_world: Float64[np.ndarray, "t 4 4"], up: Float64[np.ndarray, "3"]) -> int:
    """How many quarters clockwise to turn all images, 0 to 3, so that `up` of the world is up in most of them.

    Poses that are not finite say nothing.
    """
    directions = up @ cam_to_world[:, :3, :3]
    right, down, _ = directions[np.isfinite(directions).all(axis=1)].sum(axis=0)
    if abs(down) >= abs(right):
        return 0 if down <= 0 else 2
    return 1 if right < 0 else 3


def turned_camera(
    K: Float64[np.ndarray, "3 3"], cam_to_world: Float64[np.ndarray, "t 4 4"], quarters: int, size: tuple[int, int]
) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "t 4 4"]]:
    """The camera of images that are turned clockwise.

    Args:
        K: of the images as they were, pixels.
        cam_to_world: OpenCV axes.
        quarters: turns of 90 degrees.
        size: height and width of the images as they were.

    Returns: K and poses of the turned images.
    """
    for _ in range(quarters):
        K = pinhole(K[1, 1], K[0, 0], size[0] - 1 - K[1, 2], K[0, 2])
        size = size[1], size[0]
    return K, cam_to_world @ np.linalg.matrix_power(_QUARTER.T, quarters)


def turned(image: np.ndarray, quarters: int) -> np.ndarray:
    """An image (h, w) or (h, w, c) turned clockwise."""
    return np.ascontiguousarray(np.rot90(image, -quarters))


def trusted(depth: Float32[np.ndarray, "h w"], confidence: Path | None) -> Float32[np.ndarray, "h w"]:
    """The depth where its image of confidence (0 low, 1, 2 high) is above 0, and 0 elsewhere; all of it without one."""
    if confidence is None:
        return depth
    levels = check_size(confidence, read_labels(confidence), *depth.shape)
    return np.where(levels > 0, depth, np.float32(0))
