"""What an image is, and images and depth resized, by one rule for every part. NumPy and OpenCV alone."""

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError


def check_image(image: object) -> NDArray[np.uint8]:
    """The image itself, where it is one.

    Raises:
        InputError: it is no uint8 RGB (h, w, 3) array, or an empty one.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"an image is {kind}; it is a numpy array of uint8 (h, w, 3) in RGB: convert it")
    if image.size == 0:
        raise InputError(f"an image is {image.shape[0]} x {image.shape[1]}: it has no pixel")
    return image


def fit_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Stretch an image to a size without aliasing, fast.

    Halved by exact means of 2 x 2 while it can be, then bilinear: OpenCV's area resize by a broken factor takes thirty
    times as long, which is more than a small network.

    Args:
        image: uint8 (i, j, 3).
        height: rows of the result.
        width: columns of the result.

    Returns: uint8 (height, width, 3); the image itself where it has that size.
    """
    while _halves(image.shape[0], height) and _halves(image.shape[1], width):
        image = cv2.resize(image, (image.shape[1] // 2, image.shape[0] // 2), interpolation=cv2.INTER_AREA)
    if image.shape[:2] == (height, width):
        return image
    is_much_larger = image.shape[0] >= 2 * height or image.shape[1] >= 2 * width
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if is_much_larger else cv2.INTER_LINEAR)


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width of an image of the same shape whose longer side has at most `max_side` pixels; None: any.

    Args:
        height: rows.
        width: columns.
        max_side: pixels, at least 1.
    """
    if max_side is None or max(height, width) <= max_side:
        return height, width
    factor = max_side / max(height, width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def shrink_image(image: np.ndarray, max_side: int | None) -> np.ndarray:
    """Shrink an image by area until its longer side has at most `max_side` pixels; None and smaller ones stay.

    Args:
        image: uint8 (h, w, 3).
        max_side: pixels, at least 1.

    Returns: uint8 (i, j, 3) of the same shape, contiguous and writeable, as torch wants it.
    """
    height, width = shrunk_size(image.shape[0], image.shape[1], max_side)
    if (height, width) == image.shape[:2]:
        return np.require(image, requirements=["C", "W"])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def resize_depth(depth: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize predicted values, whatever they claim: bilinear in the values, half-pixel centres, as cv2.resize does.

    That is how the benchmarks of the field resize predictions (Video-Depth-Anything, DepthCrafter, monodepth2), so
    what is predicted at another size scores the same wherever it is resized.

    Args:
        depth: float32 or float64 (i, j), in any units; NaN or infinite where there is no value.
        height: rows of the result.
        width: columns of the result.

    Returns: (height, width) of the same type; NaN where a value that counts in the mean is not finite.
    """
    if depth.shape == (height, width):
        return depth
    finite = np.isfinite(depth)
    if finite.all():
        return cv2.resize(depth, (width, height), interpolation=cv2.INTER_LINEAR)
    larger = cv2.resize(np.where(finite, depth, depth.dtype.type(0)), (width, height), interpolation=cv2.INTER_LINEAR)
    counted = cv2.resize(finite.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    # A hole that counts next to nothing, as by the rounding of a position, takes no value away and has no part in it.
    return np.where(counted > 0.999, larger / np.maximum(counted, 0.999), depth.dtype.type(np.nan))


def enlarge_measured(depth: np.ndarray, height: int, width: int, *, claims: str) -> np.ndarray:
    """`resize_depth` of what a network of those claims returned: what is no depth is not blended with what is.

    Args:
        depth: float32 or float64 (i, j), in the units of `claims`.
        height: rows of the result.
        width: columns of the result.
        claims: of metric and scale only values above 0 are a depth.

    Returns: (height, width) of the same type; the depth itself where it has that size.
    """
    if depth.shape == (height, width):
        return depth
    if claims in ("metric", "scale") and not (depth > 0).all():
        depth = np.where(depth > 0, depth, depth.dtype.type(np.nan))
    return resize_depth(depth, height, width)


def _halves(size: int, target: int) -> bool:
    return size % 2 == 0 and size >= 2 * target
