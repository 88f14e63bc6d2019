"""ARKitScenes, raw or 3dod: <Training|Validation>/<id>/(<id>_frames/){lowres_wide,lowres_depth,lowres_wide.traj, ...}.

Files are named <id>_<seconds>. Depth is that of the LiDAR, 16-bit PNG in millimetres, of the size of lowres_wide; where
confidence/ is there, what it calls low was not measured. lowres_wide_intrinsics has a line `width height fx fy cx cy`
for each image, lowres_wide.traj lines `seconds, rotation as axis times angle, metres` from world to camera, OpenCV
axes, z of the world up. Images are written upright, as the authors' rectify_im does by the poses.
Source: github.com/apple/ARKitScenes (DATA.md, raw/README.md, threedod/benchmark_scripts).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64

from steadydepth.files.images import read_colour
from steadydepth.files.listing import unbroken, visible
from steadydepth.layouts.arkit import quarters_to_upright, trusted, turned, turned_camera
from steadydepth.layouts.recording import (
    Found,
    Frame,
    Recording,
    each,
    inverted,
    part_name,
    pinhole,
    read_table,
    rigid,
    scaled,
)
from steadydepth.layouts.tum import nearest
from steadydepth.types import InputError

SPLITS = ("Training", "Validation")
_UP = np.array([0.0, 0, 1])
# What belongs together is named to a millisecond; for poses the authors' loader allows five.
_SAME_S, _POSE_S = 0.0025, 0.005
# Images of the raw set come six times as often as poses: between two of them that are no farther apart.
_LONGEST_S = 0.25


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Videos in `folder`, one, two, three or four folders down, or `folder` itself."""
    places = sorted(path.parent for depth in range(5) for path in folder.glob("*/" * depth + "lowres_wide"))
    if split is not None:
        places = [place for place in places if split in (folder.name, *place.relative_to(folder).parts)]
    yield from each(places, _parts)


def _parts(place: Path) -> Iterator[Recording]:
    times, images = _timed(place / "lowres_wide", ".png")
    camera_times, cameras = _timed(place / "lowres_wide_intrinsics", ".pincam")
    if len(images) == 0 or len(cameras) == 0:
        raise InputError(
            f"{place}: no images in lowres_wide, or no camera in lowres_wide_intrinsics: download and extract both"
        )
    depths, confidences = (_beside(times, place / kind) for kind in ("lowres_depth", "confidence"))
    camera_of = nearest(times, camera_times, _SAME_S)
    poses = _poses_at(times, place / "lowres_wide.traj")
    kept = np.flatnonzero((camera_of >= 0) & np.isfinite(poses).all(axis=(1, 2)))
    if len(kept) == 0:
        raise InputError(f"{place}: no image has a pose in lowres_wide.traj and a camera: download them again")
    step_s = float(np.median(np.diff(times))) if len(times) > 1 else 0.1
    quarters = quarters_to_upright(poses[kept], _UP)
    name = place.name.removesuffix("_frames")
    for stretch in unbroken(np.diff(times[kept]) < 1.5 * step_s, len(kept)):
        here = kept[stretch.start : stretch.stop]
        camera = read_table(cameras[camera_of[here[0]]], 6)[0]
        if not (np.isfinite(camera).all() and (camera[:4] > 0).all()):
            raise InputError(f"{cameras[camera_of[here[0]]]}: {camera} is no camera: download it again")
        size = round(camera[1]), round(camera[0])
        K, cam_to_world = turned_camera(pinhole(*camera[2:]), poses[here], quarters, size)
        yield Recording(
            name=part_name(name, stretch, len(kept)),
            fps=1 / step_s,
            n_frames=len(here),
            read=_reader([(images[n], depths[n], confidences[n]) for n in here], quarters),
            depth_scale_m=0.001,
            source="ARKitScenes",
            licence="CC-BY-NC-SA-4.0",
            K=K,
            cam_to_world=cam_to_world,
        )


def _timed(folder: Path, suffix: str) -> tuple[Float64[np.ndarray, "n"], list[Path]]:
    """Times in seconds and files <id>_<seconds>SUFFIX of `folder`, in order; none when it is missing."""
    found = {}
    for path in visible(folder):
        try:
            found[float(path.name.removesuffix(suffix).rpartition("_")[2])] = path
        except ValueError:
            continue  # of another kind
    times = sorted(found)
    return np.array(times), [found[time] for time in times]


def _beside(times: Float64[np.ndarray, "n"], folder: Path) -> list[Path | None]:
    """For each of `times` the PNG of `folder` that is named by it."""
    others, files = _timed(folder, ".png")
    return [files[number] if number >= 0 else None for number in nearest(times, others, _SAME_S)]


def _poses_at(times: Float64[np.ndarray, "n"], path: Path) -> Float64[np.ndarray, "n 4 4"]:
    """Camera to world at `times`, between the two poses around each: turned about one axis; NaN far from any."""
    table = read_table(path, 7)
    known = table[:, 0]
    if (np.diff(known) <= 0).any() or not np.isfinite(table).all():
        raise InputError(f"{path}: times out of order, or no numbers; each line is later than the one before: sort it")
    poses = inverted(np.stack([rigid(cv2.Rodrigues(line[1:4])[0], line[4:]) for line in table]), path)
    after = np.searchsorted(known, times).clip(min(1, len(known) - 1), len(known) - 1)
    before = np.maximum(after - 1, 0)
    apart = known[after] - known[before]
    share = ((times - known[before]) / np.where(apart > 0, apart, 1)).clip(0, 1)
    away = np.minimum(np.abs(times - known[before]), np.abs(times - known[after]))
    inside = (times >= known[before]) & (times <= known[after]) & (apart <= _LONGEST_S)
    found = np.full((len(times), 4, 4), np.nan)
    for number in np.flatnonzero(inside | (away <= _POSE_S)):
        first, last = poses[before[number]], poses[after[number]]
        turn = share[number] * cv2.Rodrigues(first[:3, :3].T @ last[:3, :3])[0]
        shift = (1 - share[number]) * first[:3, 3] + share[number] * last[:3, 3]
        found[number] = rigid(first[:3, :3] @ cv2.Rodrigues(turn)[0], shift)
    return found


def _reader(files: list[tuple[Path, Path | None, Path | None]], quarters: int) -> Callable[[int], Frame]:
    """Frames from the files of image, depth and confidence of each."""
    read_depth = scaled(0.001)

    def read(number: int) -> Frame:
        image, depth, confidence = files[number]
        shown = turned(read_colour(image), quarters)
        return shown, None if depth is None else turned(trusted(read_depth(depth), confidence), quarters)

    return read
