"""Stray Scanner, of iPhones with LiDAR: <recording>/{rgb.mp4, depth/, confidence/, odometry.csv, camera_matrix.csv}.

Depth is 16-bit PNG in millimetres, 256 x 192, named by the number of its frame; colour, mostly 1920 x 1440, is resized
to it, and so is K. Pixels of low confidence were not measured. Poses are camera to world, OpenCV axes, y of the world
up; images are written upright. The app gives the first frame a time before the video begins (-1/60 s), so that an edit
list hides it: the video has a frame less than odometry.csv has lines, and its first is that of the second line.
Source: github.com/strayrobots/scanner (docs/format.md; DatasetEncoder, VideoEncoder and OdometryEncoder.swift).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from steadydepth.files.damage import reading
from steadydepth.files.video_read import probe_video, read_video
from steadydepth.layouts.arkit import quarters_to_upright, trusted, turned, turned_camera
from steadydepth.layouts.recording import (
    Found,
    Frame,
    Recording,
    each,
    numbered,
    places,
    quaternion_poses,
    read_csv,
    read_table,
    resized_camera,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

_UP = np.array([0.0, 1, 0])
_COLUMNS = ("timestamp", "x", "y", "z", "qx", "qy", "qz", "qw")
_MOST_APART = 2  # frames of the video and lines of odometry.csv


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Recordings in `folder`, or `folder` itself."""
    yield from each(places(folder, "odometry.csv"), _parts)


def _parts(place: Path) -> Iterator[Recording]:
    video = probe_video(place / "rgb.mp4")
    with reading(place / "odometry.csv", "as lines of numbers"):
        table = np.array(read_csv(place / "odometry.csv", _COLUMNS), np.float64).reshape(-1, len(_COLUMNS))
    if len(table) == 0 or abs(len(table) - video.n_frames) > _MOST_APART:
        raise InputError(
            f"{place}: rgb.mp4 has {video.n_frames} frames, odometry.csv {len(table)} lines; they belong together one "
            "by one: copy the recording again"
        )
    hidden = int(len(table) > video.n_frames)
    table = table[hidden : hidden + video.n_frames]
    depths, confidences = (
        {number - hidden: path for number, path in numbered(place / kind, "", ".png").items()}
        for kind in ("depth", "confidence")
    )
    if not depths:
        raise InputError(f"{place / 'depth'}: no images; its size is taken from them: copy the recording again")
    times, poses = table[:, 0], quaternion_poses(table[:, 1:])
    steps = np.diff(times)
    if not (np.isfinite(times).all() and (steps > 0).all()):
        raise InputError(f"{place / 'odometry.csv'}: times out of order, or no numbers: copy the recording again")
    height, width = scaled(0.001)(next(iter(depths.values()))).shape
    size, shown = (height, width), (video.height, video.width)
    if (size[0] > size[1]) != (shown[0] > shown[1]):
        raise InputError(f"{place}: rgb.mp4 is shown as {shown}, depth is {size}; both lie the same way: turn one")
    K = read_table(place / "camera_matrix.csv", 3)
    if K.shape != (3, 3):
        raise InputError(f"{place / 'camera_matrix.csv'}: {len(K)} lines; a camera has 3: copy the recording again")
    step_s = float(np.median(steps)) if len(steps) else 1 / video.fps
    quarters = quarters_to_upright(poses, _UP)
    K, poses = turned_camera(resized_camera(K, shown, size), poses, quarters, size)
    recorded = Recording(
        name=place.name,
        fps=1 / step_s,
        n_frames=len(times),
        read=_reader(place / "rgb.mp4", depths, confidences, size, quarters),
        depth_scale_m=0.001,
        source="Stray Scanner",
        licence="",
        K=K,
        cam_to_world=poses,
    )
    yield from unbroken_parts(recorded, steps < 1.5 * step_s)


def _reader(
    video: Path, depths: dict[int, Path], confidences: dict[int, Path], size: tuple[int, int], quarters: int
) -> Callable[[int], Frame]:
    frames = _Frames(video)

    def read(number: int) -> Frame:
        image = cv2.resize(frames.read(number), size[::-1], interpolation=cv2.INTER_AREA)
        if number not in depths:
            return turned(image, quarters), None
        depth = trusted(scaled(0.001)(depths[number]), confidences.get(number))
        return turned(image, quarters), turned(depth, quarters)

    return read


class _Frames:
    """Frames of a video by number; asked for one after another, the video is decoded once."""

    def __init__(self, path: Path) -> None:
        self._path, self._next = path, -1
        self._frames: Iterator[UInt8[np.ndarray, "h w 3"]] = iter(())

    def read(self, number: int) -> UInt8[np.ndarray, "h w 3"]:
        """Frame `number`; InputError when it is damaged, or the video ends before it."""
        if number != self._next:
            self._frames = read_video(self._path, number)
        self._next = -1
        frame = next(self._frames, None)
        if frame is None:
            raise InputError(f"{self._path}: ends before frame {number}: copy the recording again")
        self._next = number + 1
        return frame
