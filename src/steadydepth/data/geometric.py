"""One draw of geometry for a clip: the camera zooms, turns about its axis, and a part of its image is kept."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor

from steadydepth.data.clips import Sample


@dataclass(frozen=True)
class View:
    """How far the camera zooms in, how far it turns about its axis, and where in the zoomed image the frame lies."""

    zoom: float = 1.0
    turn_rad: float = 0.0
    left: float = 0.5  # share of the room that the zoom leaves, 0 to 1
    top: float = 0.5


def draw_view(generator: np.random.Generator, *, max_zoom: float, max_rotation_deg: float) -> View:
    """A zoom of 1 to `max_zoom`, evenly in its logarithm, a turn of up to that angle both ways, and a place.

    Args:
        generator: draws zoom, turn and place.
        max_zoom: 1 or more.
        max_rotation_deg: the largest angle, to either side.
    """
    zoom = float(np.exp(generator.random() * np.log(max_zoom)))
    turn_rad = float(np.deg2rad(max_rotation_deg) * generator.uniform(-1, 1))
    return View(zoom, turn_rad, float(generator.random()), float(generator.random()))


def mirror(name: str, part: Shaped[Tensor, "..."], columns: int) -> Shaped[Tensor, "..."]:
    """A part of a sample or of a batch, mirrored from left to right.

    Args:
        name: of the part; one whose name ends in motion (..., 2), pixels (x, y), turns its sign across.
        part: frames, labels or motion.
        columns: the number of its axis of columns.
    """
    turned = part.flip(columns)
    return turned * torch.tensor([-1.0, 1.0], device=part.device) if name.endswith("motion") else turned


def view_sample(sample: Sample, view: View) -> Sample:
    """The sample as the camera of `view` would have shown it; size, depth and time stay.

    The camera turns about its own axis, so that depth keeps its value; K, poses, flow and motion follow. Frames are
    interpolated, all else takes the nearest pixel. What the camera did not see is mirrored in the frames, and neither
    valid nor visible.
    """
    clip = sample.clip
    height, width = clip.frames.shape[1:3]
    centred = np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1]], np.float64)
    before = centred if clip.K is None else clip.K
    after, turn = _zoomed(before, view, height, width), _turn(view.turn_rad)
    there = after @ turn @ np.linalg.inv(before)
    y, x = np.mgrid[:height, :width]
    source = np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(there).T
    at = source[..., :2].astype(np.float32)
    # To the outer edges of the pixels.
    inside = ((at >= -0.5) & (at <= [width - 0.5, height - 0.5])).all(axis=-1)

    def nearest(images: np.ndarray | None) -> np.ndarray | None:
        if images is None:
            return None
        column, row = (np.clip(np.rint(at[..., i]).astype(int), 0, side - 1) for i, side in ((0, width), (1, height)))
        return images[:, row, column]

    def moved(flow: np.ndarray | None) -> np.ndarray | None:
        taken = nearest(flow)
        return None if taken is None else (taken @ there[:2, :2].T).astype(np.float32)

    def known(mask: np.ndarray | None) -> np.ndarray | None:
        taken = nearest(mask)
        return None if taken is None else taken & inside

    frames = [cv2.remap(frame, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101) for frame in clip.frames]
    depth, poses, motion, visible = nearest(clip.depth), clip.cam_to_world, moved(sample.motion), known(sample.visible)
    if motion is not None and visible is not None:
        visible = visible & _stays(motion, height, width)
    viewed = replace(
        clip,
        frames=np.stack(frames),
        depth=None if depth is None else depth * inside,
        valid=known(clip.valid),
        objects=nearest(clip.objects),
        flow=moved(clip.flow),
        flow_valid=known(clip.flow_valid),
        motion=None,
        visible=None,
        K=None if clip.K is None else after,
        cam_to_world=None if poses is None else poses @ _homogeneous(turn.T),
    )
    return replace(sample, clip=viewed, motion=motion, visible=visible)


def _zoomed(K: Float64[np.ndarray, "3 3"], view: View, height: int, width: int) -> Float64[np.ndarray, "3 3"]:
    """The camera matrix after the zoom, around the outer edge, and after the cut."""
    zoomed = K.copy()
    zoomed[:2] *= view.zoom
    room = (view.zoom - 1) * np.array([width * view.left, height * view.top])
    zoomed[:2, 2] += (view.zoom - 1) / 2 - room
    return zoomed


def _turn(angle_rad: float) -> Float64[np.ndarray, "3 3"]:
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])


def _homogeneous(rotation: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "4 4"]:
    pose = np.eye(4)
    pose[:3, :3] = rotation
    return pose


def _stays(motion: np.ndarray, height: int, width: int) -> np.ndarray:
    """True where a pixel comes from inside the frame before."""
    y, x = np.mgrid[:height, :width]
    column, row = x + motion[..., 0], y + motion[..., 1]
    return (column >= 0) & (row >= 0) & (column <= width - 1) & (row <= height - 1)
