"""One draw of geometry for a clip: the camera zooms, turns about its axis, and a part of its image is kept."""

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Shaped
from torch import Tensor

from steadydepth.data.clips import Sample


@dataclass(frozen=True)
class View:
    """How far the camera zooms in, how far it turns about its axis, and where in the zoomed image the frame lies."""

    zoom: float = 1.0
    turn_rad: float = 0.0
    left: float = 0.5  # share of the room that the zoom leaves, 0 to 1
    top: float = 0.5


def mirror(name: str, part: Shaped[Tensor, "..."], columns: int) -> Shaped[Tensor, "..."]:
    """A part of a sample or of a batch, mirrored from left to right.

    Args:
        name: of the part; one whose name ends in motion (..., 2), pixels (x, y), turns its sign across.
        part: frames, labels or motion.
        columns: the number of its axis of columns.
    """
    turned = part.flip(columns)
    return turned * torch.tensor([-1.0, 1.0], device=part.device) if name.endswith("motion") else turned


@dataclass(frozen=True)
class Lookup:
    """What the camera of a view shows of frames that another one took, all of one size."""

    there: Float64[np.ndarray, "3 3"]  # from the pixels of a frame to those of the view
    at: Float32[np.ndarray, "h w 2"]  # where each pixel of the view lies in a frame, pixels (x, y)
    inside: Bool[np.ndarray, "h w"]  # True where that is within the frame

    def frames(self, images: Shaped[np.ndarray, "t h w 3"]) -> Shaped[np.ndarray, "t h w 3"]:
        """Images, interpolated; what the camera did not see is mirrored."""
        border = cv2.BORDER_REFLECT_101
        return np.stack([cv2.remap(image, self.at, None, cv2.INTER_LINEAR, borderMode=border) for image in images])

    def nearest(self, images: Shaped[np.ndarray, "t h w *c"]) -> Shaped[np.ndarray, "t h w *c"]:
        """The nearest pixel of each image; what the camera did not see is that of its edge."""
        sides = self.inside.shape[::-1]
        column, row = (np.clip(np.rint(self.at[..., i]).astype(int), 0, side - 1) for i, side in enumerate(sides))
        return images[:, row, column]

    def known(self, mask: Bool[np.ndarray, "t h w"]) -> Bool[np.ndarray, "t h w"]:
        """The nearest pixel of a mask; False where the camera did not see it."""
        return self.nearest(mask) & self.inside

    def moved(self, flow: Float32[np.ndarray, "p h w 2"]) -> Float32[np.ndarray, "p h w 2"]:
        """Flow or motion, in pixels (x, y) of the view."""
        return (self.nearest(flow) @ self.there[:2, :2].T).astype(np.float32)

    def motion(
        self, motion: Float32[np.ndarray, "p h w 2"], visible: Bool[np.ndarray, "p h w"]
    ) -> tuple[Float32[np.ndarray, "p h w 2"], Bool[np.ndarray, "p h w"]]:
        """Motion to the frame before as the view has it, and where that frame saw the pixel inside the view.

        Args:
            motion: (x, y) in pixels of the frames.
            visible: whether the frame before saw the pixel.

        Returns: both for the pixels of the view, motion in its pixels.
        """
        moved = self.moved(motion)
        return moved, self.known(visible) & _stays(moved, *self.inside.shape)


def look(view: View, height: int, width: int, K: Float64[np.ndarray, "3 3"] | None = None) -> Lookup:
    """Where the camera of `view` finds each of its pixels.

    Args:
        view: what it does.
        height: rows of the frames, and of the view.
        width: columns.
        K: of the camera that took the frames; without it the view turns about the middle of the image.
    """
    before = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]]) if K is None else K
    there = _zoomed(before, view, height, width) @ _turn(view.turn_rad)[:3, :3] @ np.linalg.inv(before)
    y, x = np.mgrid[:height, :width]
    source = np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(there).T
    at = source[..., :2].astype(np.float32)
    # To the outer edges of the pixels.
    inside = np.asarray(((at >= -0.5) & (at <= [width - 0.5, height - 0.5])).all(axis=-1))
    return Lookup(there, at, inside)


def view_sample(sample: Sample, view: View) -> Sample:
    """The sample as the camera of `view` would have shown it; size, depth and time stay.

    The camera turns about its own axis, so that depth keeps its value; K, poses, flow and motion follow. Frames are
    interpolated, all else takes the nearest pixel. What the camera did not see is mirrored in the frames, and neither
    valid nor visible.
    """
    clip = sample.clip
    height, width = clip.frames.shape[1:3]
    seen, poses = look(view, height, width, clip.K), clip.cam_to_world

    takes: dict[str, Any] = {"valid": seen.known, "objects": seen.nearest, "flow": seen.moved, "flow_valid": seen.known}
    shown = {name: take(getattr(clip, name)) for name, take in takes.items() if getattr(clip, name) is not None}
    viewed = replace(
        clip,
        frames=seen.frames(clip.frames),
        depth=None if clip.depth is None else seen.nearest(clip.depth) * seen.inside,
        motion=None,
        visible=None,
        K=None if clip.K is None else _zoomed(clip.K, view, height, width),
        cam_to_world=None if poses is None else poses @ _turn(view.turn_rad).T,
        **shown,
    )
    if sample.motion is None or sample.visible is None:
        return replace(sample, clip=viewed)
    motion, visible = seen.motion(sample.motion, sample.visible)
    return replace(sample, clip=viewed, motion=motion, visible=visible)


def _zoomed(K: Float64[np.ndarray, "3 3"], view: View, height: int, width: int) -> Float64[np.ndarray, "3 3"]:
    """The camera matrix after the zoom, around the outer edge, and after the cut."""
    zoomed = K.copy()
    zoomed[:2] *= view.zoom
    room = (view.zoom - 1) * np.array([width * view.left, height * view.top])
    zoomed[:2, 2] += (view.zoom - 1) / 2 - room
    return zoomed


def _turn(angle_rad: float) -> Float64[np.ndarray, "4 4"]:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0, 0], [sin, cos, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def _stays(motion: np.ndarray, height: int, width: int) -> np.ndarray:
    """True where a pixel comes from inside the frame before."""
    y, x = np.mgrid[:height, :width]
    column, row = x + motion[..., 0], y + motion[..., 1]
    return (column >= 0) & (row >= 0) & (column <= width - 1) & (row <= height - 1)
