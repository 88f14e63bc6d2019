"""Public data sets and folders of videos become sequence folders, one frame in memory at a time."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from steadydepth.data.clips import fit_clip, shrunk_size
from steadydepth.data.cuts import find_shots
from steadydepth.data.layouts import find_recordings
from steadydepth.data.layouts.recording import Recording
from steadydepth.data.sequence_listing import is_sequence
from steadydepth.files.atomic_writes import check_name, new_folder
from steadydepth.files.images import write_png
from steadydepth.files.sequence_writer import write_clips
from steadydepth.files.video_read import VIDEO_SUFFIXES, probe_video, read_video
from steadydepth.types import Clip, InputError

LOG = logging.getLogger(__name__)


def convert_layout(
    layout: str,
    source: Path,
    root: Path,
    *,
    split: str | None = None,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
) -> Iterator[Path]:
    """Write the frames [start, stop) of every recording in `source` as ROOT/<name>; each folder when it is whole.

    A sequence that is there already is left as it is, so that a conversion that was cut goes on; one without such
    frames is left out. Sides above `max_side` are shrunk to it: frames by area, depth to the nearest pixel.
    """
    if start < 0 or (stop is not None and stop <= start) or (max_side is not None and max_side < 2):
        raise InputError(f"start {start}, stop {stop}, max_side {max_side}: give 0 <= start < stop, side >= 2")
    for recording in find_recordings(layout, source, split):
        target = root / check_name(recording.name, root)
        numbers = range(start, recording.n_frames if stop is None else min(stop, recording.n_frames))
        if is_sequence(target):
            LOG.info("%s: there already, left as it is", target)
        elif not numbers:
            LOG.warning("%s: has %d frames, none from %d on: left out", recording.name, recording.n_frames, start)
        else:
            yield write_clips(
                root,
                recording.name,
                (_clip(recording, number, max_side) for number in numbers),
                depth_scale_m=recording.depth_scale_m,
                source=recording.source,
                licence=recording.licence or None,
            )


def convert_videos(
    folder: Path,
    root: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
    split_shots: bool = False,
) -> Iterator[Path]:
    """`convert_video`, or `convert_shots`, of every video in `folder`; what is there already is left as it is."""
    videos = [path for path in sorted(folder.glob("*")) if path.is_file() and is_sequence(path)]
    if not videos:
        raise InputError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)}): give the folder they lie in")
    for video in videos:
        if split_shots:
            yield from convert_shots(video, root, name=video.stem, start=start, stop=stop, max_side=max_side)
        elif is_sequence(root / video.stem):
            LOG.info("%s: there already, left as it is", root / video.stem)
        else:
            yield convert_video(video, root, name=video.stem, start=start, stop=stop, max_side=max_side)


def convert_video(
    video: Path,
    root: Path,
    *,
    name: str,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
    stride: int = 1,
) -> Path:
    """Write every `stride`-th of the frames [start, stop) as the sequence folder ROOT/<name>, and return that folder.

    A frame with a side above `max_side` is shrunk to it by area, to even sizes; others stay as they are. InputError
    when the folder exists, the name climbs out, the video cannot be read or no frame is left.
    """
    if start < 0 or stride < 1 or (max_side is not None and max_side < 2):
        raise InputError(
            f"start {start}, stride {stride}, max_side {max_side}: give start >= 0, stride >= 1, side >= 2"
        )
    info = probe_video(video)
    target = root / check_name(name, root)
    with new_folder(target) as part:
        (part / "rgb").mkdir()
        n_written, first = 0, None
        for number, frame in enumerate(read_video(video, start, stop)):
            if first is not None and frame.shape != first.shape:
                raise InputError(
                    f"{video}: frame {start + number} is {frame.shape[0]} x {frame.shape[1]}, those before it "
                    f"{first.shape[0]} x {first.shape[1]}; a sequence has one size: convert it with --split-shots"
                )
            first = frame
            if number % stride == 0:
                write_png(part / "rgb" / f"{n_written:04d}.png", _shrink(frame, max_side))
                n_written += 1
        if n_written == 0:
            raise InputError(f"{video}: no frame from {start} to {stop}; it has {info.n_frames}: choose others")
        meta = {"fps": info.fps / stride, "source": video.name}
        (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return target


def convert_shots(
    video: Path, root: Path, *, name: str, start: int = 0, stop: int | None = None, max_side: int | None = None
) -> Iterator[Path]:
    """Write each shot of the frames [start, stop) as ROOT/<name>_<its first frame>, or ROOT/<name> when there is one.

    What is there already is left as it is. The video is decoded twice.
    """
    found = find_shots(read_video(video, start, stop))
    if not found:
        raise InputError(f"{video}: no frame from {start} to {stop}: choose others")
    for shot in found:
        first = start + shot.start
        shot_name = name if len(found) == 1 else f"{name}_{first:05d}"
        if is_sequence(root / check_name(shot_name, root)):
            LOG.info("%s: there already, left as it is", root / shot_name)
        else:
            yield convert_video(video, root, name=shot_name, start=first, stop=start + shot.stop, max_side=max_side)


def _shrink(frame: UInt8[np.ndarray, "h w 3"], max_side: int | None) -> UInt8[np.ndarray, "i j 3"]:
    size = shrunk_size(frame.shape[0], frame.shape[1], max_side)
    return frame if size == frame.shape[:2] else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def _clip(recording: Recording, number: int, max_side: int | None) -> Clip:
    """One frame, no side of it above `max_side`."""
    frame, depth = recording.read(number)
    if depth is not None:
        if depth.shape != frame.shape[:2]:
            raise InputError(
                f"{recording.name}, frame {number}: the image is {frame.shape[:2]}, its depth {depth.shape}; both have "
                "one size: check that they belong together"
            )
        depth = _fitting(depth, recording.depth_scale_m, f"{recording.name}, frame {number}")
    poses = None if recording.cam_to_world is None else recording.cam_to_world[number : number + 1]
    if not all(np.isfinite(numbers).all() for numbers in (recording.K, poses) if numbers is not None):
        raise InputError(
            f"{recording.name}, frame {number}: NaN or infinity in its camera or pose; copy the files they are in again"
        )
    clip = Clip(
        recording.name,
        frame[None],
        recording.fps,
        depth=None if depth is None else depth[None],
        K=recording.K,
        cam_to_world=poses,
        fixed_camera=recording.fixed_camera,
    )
    return fit_clip(clip, *shrunk_size(frame.shape[0], frame.shape[1], max_side))


def _fitting(depth: Float32[np.ndarray, "h w"], step_m: float, name: str) -> Float32[np.ndarray, "h w"]:
    """The depth that 16 bits of `step_m` hold, 0 elsewhere; a word when that is none of it, as in a wrong unit."""
    measured = np.isfinite(depth) & (depth > 0)
    steps = np.where(measured, depth, 0) / step_m
    fits = (steps >= 0.5) & (steps < 65535.5)
    if measured.any() and not fits.any():
        LOG.warning(
            "%s: all depth, from %.3g m on, is outside %.3g to %.3g m and left out: check its unit",
            name,
            depth[measured].min(),
            step_m,
            65535 * step_m,
        )
    return np.where(fits, depth, np.float32(0))
