"""Depth as points in space, in the axes of OpenCV's camera: x right, y down, z forward, in the units of the depth."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from steadydepth.errors import InputError, import_extra
from steadydepth.ops.camera import unproject
from steadydepth.ops.colours import is_measured

_VERTEX = np.dtype([("xyz", "<f4", 3), ("rgb", "u1", 3)])
_HEADER = """ply
format binary_little_endian 1.0
element vertex {n}
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
"""


@dataclass(frozen=True)
class Lens:
    """A camera that looks through the middle of its image: its focal length, or its angle of view from side to side.

    InputError unless one of the two is given, and is possible.
    """

    focal_px: float | None = None  # of the image at its own size
    fov_deg: float | None = None

    def __post_init__(self) -> None:
        if (self.focal_px is None) == (self.fov_deg is None):
            raise InputError("a camera has a focal length or a field of view: give one of the two")
        if self.focal_px is not None and not 0 < self.focal_px < math.inf:
            raise InputError(f"focal length {self.focal_px}: it is in pixels, above 0")
        if self.fov_deg is not None and not 0 < self.fov_deg < 180:
            raise InputError(f"field of view {self.fov_deg}: it is in degrees, between 0 and 180")

    def K(self, height: int, width: int) -> Float64[np.ndarray, "3 3"]:
        """The camera matrix of images of that size; pixel centres at integer coordinates."""
        focal = self.focal_px or width / 2 / math.tan(math.radians(self.fov_deg or 0) / 2)
        return np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])


def coloured_points(
    depth: Float[np.ndarray, "h w"], image: UInt8[np.ndarray, "h w 3"], K: Float64[np.ndarray, "3 3"]
) -> tuple[Float32[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
    """The point of every pixel that has a depth, and its colour, row by row.

    Args:
        depth: metres, or up to a factor.
        image: RGB.
        K: pixels, pixel centres at integer coordinates.

    Returns: points in the camera's axes (x right, y down, z ahead), in the unit of the depth; and RGB.
    """
    points = unproject(depth.astype(np.float32), K)
    shown = is_measured(depth)
    return points[shown], image[shown]


def write_ply(path: Path, points: Float32[np.ndarray, "n 3"], colours: UInt8[np.ndarray, "n 3"]) -> None:
    """A binary PLY of coloured points, as MeshLab, Blender, CloudCompare and Open3D read it.

    Args:
        path: replaced where it exists.
        points: x, y, z.
        colours: RGB.
    """
    vertices = np.empty(len(points), _VERTEX)
    vertices["xyz"], vertices["rgb"] = points, colours
    path.write_bytes(_HEADER.format(n=len(points)).encode() + vertices.tobytes())


def load_rerun() -> Any:
    """The module rerun; InputError where it is not installed."""
    return import_extra("rerun", "rerun", "rerun needs the package rerun-sdk", ", or choose ply")


def write_rerun(
    path: Path,
    frames: Iterable[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]],
    K: Float64[np.ndarray, "3 3"],
    *,
    name: str,
    fps: float,
) -> None:
    """A recording of camera, image, depth and points on the timelines `frame` and `time`, for the viewer of rerun.

    One frame is held at a time.

    Args:
        path: of the recording.
        frames: RGB and depth.
        K: pixels, pixel centres at integer coordinates.
        name: of the recording, in the viewer.
        fps: frames a second, for the timeline `time`.

    Raises:
        InputError: the package is not installed.
    """
    rerun = load_rerun()
    recording = rerun.RecordingStream("steadydepth", recording_id=name)
    recording.save(path)
    recording.log("world", rerun.ViewCoordinates.RDF, static=True)
    for number, (image, depth) in enumerate(frames):
        recording.set_time("frame", sequence=number)
        recording.set_time("time", duration=number / fps)
        if number == 0:
            height, width = depth.shape
            recording.log("world/camera", rerun.Pinhole(image_from_camera=K, width=width, height=height), static=True)
        recording.log("world/camera/image", rerun.Image(image).compress())
        recording.log("world/camera/depth", rerun.DepthImage(np.nan_to_num(depth), meter=1.0))
        points, colours = coloured_points(depth, image, K)
        recording.log("world/points", rerun.Points3D(points, colors=colours))
    recording.disconnect()
