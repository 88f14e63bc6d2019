"""TUM RGB-D, and Bonn RGB-D Dynamic, which has its form: rgb.txt, depth.txt and groundtruth.txt with time stamps.

Depth is 16-bit PNG registered to the colour image, 5000 a metre; poses are lines `time tx ty tz qx qy qz qw`. Images,
depth and poses are recorded at times of their own and paired by the nearest, at most 0.02 s away.
Sources: cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats, www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from steadydepth.files.damage import reading
from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    files_reader,
    listed_path,
    pinhole,
    places,
    quaternion_poses,
    read_table,
    rigid,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

# TUM recommends ROS' default camera where lens distortion was left in (freiburg 1 and 2); freiburg 3 is rectified.
_TUM_K = {"freiburg3": pinhole(535.4, 539.2, 320.1, 247.6), "": pinhole(525.0, 525.0, 319.5, 239.5)}
_BONN_K = pinhole(542.822841, 542.576870, 315.593520, 237.756098)
# Bonn's page: camera pose = inv(T_ROS) T T_ROS T_m, T being the markers' pose in groundtruth.txt.
_BONN_ROS = np.array([[-1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
_BONN_MARKERS = np.array(
    [[1.0157, 0.1828, -0.2389, 0.0113], [0.0009, -0.8431, -0.6413, -0.0098], [-0.3009, 0.6147, -0.8085, 0.0111]]
)
_NEAR_S = 0.02


def find_tum(folder: Path, split: str | None) -> Iterator[Found]:
    """Recordings of TUM RGB-D in `folder`, or `folder` itself."""

    def read(place: Path) -> Iterator[Recording]:
        K = _TUM_K["freiburg3" if "freiburg3" in place.name else ""]
        yield from _parts(place, K, np.eye(4), np.eye(4), "TUM RGB-D", "CC-BY-4.0")

    yield from each(places(folder, "rgb.txt"), read)


def find_bonn(folder: Path, split: str | None) -> Iterator[Found]:
    """Recordings of Bonn RGB-D Dynamic in `folder`, or `folder` itself; lens distortion (k1 = 0.04) is left in."""
    # As published it stretches by up to 6 %: the nearest rotation is taken.
    left, _, right = np.linalg.svd(_BONN_MARKERS[:, :3])
    markers = rigid(left @ right, _BONN_MARKERS[:, 3])

    def read(place: Path) -> Iterator[Recording]:
        yield from _parts(
            place,
            _BONN_K,
            np.linalg.inv(_BONN_ROS),
            _BONN_ROS @ markers,
            "Bonn RGB-D Dynamic",
            "see www.ipb.uni-bonn.de/data/rgbd-dynamic-dataset",
        )

    yield from each(places(folder, "rgb.txt"), read)


def _parts(
    place: Path,
    K: Float64[np.ndarray, "3 3"],
    before: Float64[np.ndarray, "4 4"],
    after: Float64[np.ndarray, "4 4"],
    source: str,
    licence: str,
) -> Iterator[Recording]:
    """A recording for each stretch without a gap: no step of over 1.5 frames, and a pose for every image."""
    times, images = _stamped(place / "rgb.txt")
    depth_times, depths = _stamped(place / "depth.txt")
    poses = read_table(place / "groundtruth.txt", 8)
    poses = poses[np.argsort(poses[:, 0], kind="stable")]
    depth_of, pose_of = nearest(times, depth_times), nearest(times, poses[:, 0])
    # An image may stand without depth, but not without a pose.
    kept = np.flatnonzero(pose_of >= 0)
    if len(kept) == 0:
        raise InputError(f"{place}: no pose of groundtruth.txt within {_NEAR_S} s of an image: copy the files again")
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    labels = [depths[depth_of[number]] if depth_of[number] >= 0 else None for number in kept]
    posed = Recording(
        name=place.name,
        fps=1 / step_s,
        n_frames=len(kept),
        read=files_reader([images[number] for number in kept], labels, scaled(1 / 5000)),
        depth_scale_m=1 / 5000,
        source=source,
        licence=licence,
        K=K,
        cam_to_world=before @ quaternion_poses(poses[pose_of[kept], 1:]) @ after,
    )
    yield from unbroken_parts(posed, np.diff(times[kept]) < 1.5 * step_s)


def _stamped(path: Path) -> tuple[Float64[np.ndarray, "n"], list[Path]]:
    """Times in seconds and files of a list; InputError when a line is no such pair, or the times are out of order."""
    with reading(path, "as lines of time and file"):
        lines = [line.split() for line in path.read_text(encoding="utf-8-sig").splitlines() if not line.startswith("#")]
        pairs = [(float(time), listed_path(path, name)) for time, name in filter(None, lines)]
    times = np.array([time for time, _ in pairs])
    if len(times) == 0 or (np.diff(times) <= 0).any():
        raise InputError(f"{path}: times are missing or out of order; each line is later than the one before: sort it")
    return times, [file for _, file in pairs]


def nearest(
    times: Float64[np.ndarray, "n"], others: Float64[np.ndarray, "m"], within: float = _NEAR_S
) -> Int[np.ndarray, "n"]:
    """For each time the number of the nearest of others, -1 when there is none, or it is too far or taken.

    One that two times are nearest to goes to the nearer of them.

    Args:
        times: seconds, in order.
        others: seconds, in order.
        within: seconds, the farthest that is taken.
    """
    if len(others) == 0:
        return np.full(len(times), -1)
    after = np.searchsorted(others, times).clip(1, max(1, len(others) - 1))
    before = after - 1
    after = np.minimum(after, len(others) - 1)
    found = np.where(np.abs(others[before] - times) <= np.abs(others[after] - times), before, after)
    away = np.abs(others[found] - times)
    owner: dict[int, int] = {}
    for number in np.argsort(away, kind="stable"):
        owner.setdefault(int(found[number]), int(number))
    is_owner = np.array([owner[int(other)] == number for number, other in enumerate(found)])
    return np.where(is_owner & (away <= within), found, -1)
