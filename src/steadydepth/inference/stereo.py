"""Two eyes from one: an image and its depth as a stereo pair, with one range of disparity for the complete video.

Each eye sees the image moved by half of its disparity (forward, the nearest wins); what comes into view behind the
edges of near things is filled from the background beside it.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from steadydepth.errors import InputError

Image = UInt8[np.ndarray, "h w 3"]
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601: what a red filter lets through is judged by brightness
# In pixels: a surface may be stretched so much before it counts as torn.
_SAME_SURFACE = 1.0


@dataclass(frozen=True)
class Stereo:
    """How deep a stereo pair is.

    Args:
        separation: disparity between the nearest and the farthest thing that is shown, in percent of the width of the
            image; 2 to 3 is comfortable on a large screen, 10 is the most.
        convergence: what lies in the plane of the screen, from 0, the farthest (all comes out of it), to 1, the nearest
            (all lies behind it).

    Raises:
        InputError: one of them is no such number.
    """

    separation: float = 2.5
    convergence: float = 0.5

    def __post_init__(self) -> None:
        """Refuse what nobody can look at."""
        if not 0 <= self.separation <= 10:
            raise InputError(f"separation is {self.separation:g} % of the width; it goes from 0 to 10")
        if not np.isfinite(self.convergence):
            raise InputError(f"convergence is {self.convergence:g}; it is a number such as 0.5: give one")

    def disparity(self, nearness: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """Pixels between both eyes, above 0 in front of the screen; where there is no depth, that of the farthest."""
        share = np.nan_to_num(nearness, nan=0.0) - np.float32(self.convergence)
        return share * np.float32(self.separation / 100 * nearness.shape[1])

    def pair(self, image: Image, nearness: Float32[np.ndarray, "h w"]) -> tuple[Image, Image]:
        """What the left and the right eye see.

        Args:
            image: RGB, of which each eye gets half of the motion.
            nearness: 1 near, 0 far, NaN unknown, as of `ops.colours.nearness`, of the size of the image.
        """
        disparity = self.disparity(nearness)
        return move_by(image, disparity, 0.5), move_by(image, disparity, -0.5)


def side_by_side(left: Image, right: Image) -> UInt8[np.ndarray, "h 2*w 3"]:
    """Both at full width, the left one on the left: what headsets and 3D players call full SBS, for parallel eyes."""
    return np.hstack((left, right))


def anaglyph(left: Image, right: Image) -> Image:
    """One image for red and cyan glasses: the brightness of the left one in red, green and blue of the right one."""
    return np.dstack((np.rint(left @ _LUMA).astype(np.uint8), right[..., 1:]))


def move_by(image: Image, disparity: Float32[np.ndarray, "h w"], share: float) -> Image:
    """The image with each pixel moved to the right by `share` of its disparity; the larger disparity is in front.

    Args:
        image: RGB.
        disparity: pixels.
        share: 0.5 for the left eye, -0.5 for the right one.
    """
    nearest, covered = _land(disparity, share)
    rows, columns = np.indices(disparity.shape, np.float32)
    source = columns - np.float32(share) * nearest
    moved = cv2.remap(image, source, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if not covered.all():
        y, x = np.nonzero(~covered)
        moved[y, x] = moved[y, _background(nearest, covered, y, x)]
    return moved


def _land(
    disparity: Float32[np.ndarray, "h w"], share: float
) -> tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]:
    """The largest disparity that lands on each pixel, 0 where none does, and where one does.

    A pixel covers the nearest one, and both that it lands between where its surface continues to their side: so a
    surface that is stretched to twice its width has no cracks, and none grows.
    """
    height, width = disparity.shape
    at = np.arange(width, dtype=np.float32) + np.float32(share) * disparity
    goes_on = np.abs(np.diff(disparity, axis=1) * np.float32(share)) <= _SAME_SURFACE
    floor, ceil = np.floor(at), np.ceil(at)
    floor[:, 1:][~goes_on], ceil[:, :-1][~goes_on] = np.nan, np.nan
    floor[:, 0], ceil[:, -1] = np.nan, np.nan
    # A column on each side takes what leaves the image.
    landed = np.full((height, width + 2), -np.inf, np.float32)
    begin = np.arange(0, landed.size, width + 2)[:, None]
    for column in (np.rint(at), floor, ceil):
        place = np.clip(np.nan_to_num(column, nan=-1.0, copy=False) + 1, 0, width + 1).astype(np.int64) + begin
        np.maximum.at(landed.reshape(-1), place.ravel(), disparity.ravel())
    nearest = landed[:, 1:-1]
    covered = np.isfinite(nearest)
    return np.where(covered, nearest, np.float32(0)), covered


def _background(
    nearest: Float32[np.ndarray, "h w"],
    covered: Bool[np.ndarray, "h w"],
    y: Int64[np.ndarray, "n"],
    x: Int64[np.ndarray, "n"],
) -> Int64[np.ndarray, "n"]:
    """The column that fills each hole: the background beside it mirrored into it, the edge itself where that ends."""
    width = covered.shape[1]
    column = np.arange(width, dtype=np.int32)
    left = np.maximum.accumulate(np.where(covered, column, -1), axis=1)[y, x]
    right = np.minimum.accumulate(np.where(covered, column, width)[:, ::-1], axis=1)[:, ::-1][y, x]
    depth_left = np.where(left >= 0, nearest[y, left], np.inf)
    depth_right = np.where(right < width, nearest[y, np.minimum(right, width - 1)], np.inf)
    is_left = depth_left <= depth_right
    edge = np.clip(np.where(is_left, left, right), 0, width - 1)
    mirrored = np.clip(2 * edge - x + np.where(is_left, 1, -1), 0, width - 1)
    fits = covered[y, mirrored] & (np.abs(nearest[y, mirrored] - nearest[y, edge]) <= _SAME_SURFACE)
    return np.where(fits, mirrored, edge)
