"""Public data sets and folders of videos become sequence folders, one frame in memory at a time."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from steadydepth.data.clips import fit_clip
from steadydepth.data.cuts import find_shots
from steadydepth.data.sequence_listing import is_sequence
from steadydepth.data.sequence_meta import check_meta
from steadydepth.errors import InputError, failure
from steadydepth.files.atomic_writes import check_name
from steadydepth.files.damage import short
from steadydepth.files.listing import visible
from steadydepth.files.sequence_writer import write_clips
from steadydepth.files.video_read import VIDEO_SUFFIXES, probe_video, read_video
from steadydepth.layouts import find_recordings
from steadydepth.layouts.recording import Recording, Unreadable
from steadydepth.ops.resize import shrink_image, shrunk_size
from steadydepth.types import Clip

LOG = logging.getLogger(__name__)
_MOST_LOST = 0.01  # share of the measured depth that may be lost without a word


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
    """Write every recording of a data set as a sequence folder; each is given when it is complete.

    A sequence that is there already is left as it is, so that an interrupted conversion resumes; one without such
    frames is left out. A frame that cannot be read is a gap: the frames before and after it become sequences of their
    own, named after their first.

    Args:
        layout: a key of `layouts.LAYOUTS`.
        source: where the data set was extracted.
        root: folder of the sequences.
        split: part of the data set; None is all of it.
        start: first frame of each recording.
        stop: the frame after the last; None goes to the end.
        max_side: pixels; longer sides are shrunk to it: frames by area, depth to the nearest pixel.

    Raises:
        InputError: the numbers do not fit, or nothing could be read.
        SomeFailedError: at the end, with the names of all that could not be read.
    """
    if start < 0 or (stop is not None and stop <= start) or (max_side is not None and max_side < 2):
        raise InputError(f"start {start}, stop {stop}, max_side {max_side}: give 0 <= start < stop, side >= 2")
    outcome = _Outcome()
    for recording in find_recordings(layout, source, split):
        if isinstance(recording, Unreadable):
            outcome.failed[recording.name] = recording.why
            continue
        numbers = range(start, recording.n_frames if stop is None else min(stop, recording.n_frames))
        try:
            target = root / check_name(recording.name, root)
        except InputError as error:
            outcome.failed[recording.name] = str(error)
            continue
        if is_sequence(target):
            outcome.keep(target)
        elif not numbers:
            LOG.warning("%s: has %d frames, none from %d on: left out", recording.name, recording.n_frames, start)
        else:
            yield from _write_parts(root, recording, numbers, max_side, outcome)
    if outcome.bare and layout != "pairs":  # whose list says which images have depth
        LOG.warning(
            "no depth in %d of the %d sequences written: %s: docs/data.md says where its files lie",
            len(outcome.bare), len(outcome.written), short(", ".join(outcome.bare)),
        )  # fmt: skip
    outcome.close()


@dataclass
class _Outcome:
    """What a conversion of many has done, and what it could not do."""

    written: list[Path] = field(default_factory=list)
    n_kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    bare: list[str] = field(default_factory=list)  # names of those written without any depth

    def keep(self, target: Path) -> None:
        """Leave what is there already."""
        LOG.info("%s: there already, left as it is", target)
        self.n_kept += 1

    def close(self) -> None:
        """Raise what names all that failed, if anything did."""
        if self.failed:
            raise failure(self.failed, len(self.written) + self.n_kept, self.written)


def _write_parts(
    root: Path, recording: Recording, numbers: range, max_side: int | None, outcome: _Outcome
) -> Iterator[Path]:
    """Sequences of the frames between those that cannot be read; all of a recording has its name, a part another."""
    first = numbers.start
    while first < numbers.stop:
        target = root / _name_of_part(recording, first)
        if is_sequence(target):
            outcome.keep(target)
            first += len(visible(target / "rgb"))
            continue
        clips = _UntilUnreadable(recording, range(first, _next_part(root, recording, numbers, first)), max_side)
        try:
            path = write_clips(
                root,
                target.name,
                clips,
                depth_scale_m=recording.depth_scale_m,
                source=recording.source,
                licence=recording.licence or None,
                rename=partial(_name_when_written, recording, numbers, first),
            )
        except InputError as error:
            # Without a single frame that can be read; or what can be read cannot be written.
            if clips.fault is None:
                outcome.failed[recording.name] = str(error)
                return
        else:
            outcome.written.append(path)
            outcome.bare += [] if clips.n_measured else [path.name]
            yield path
        clips.report()
        if clips.fault is not None:
            outcome.failed[f"{recording.name}, frame {clips.number}"] = clips.fault
        first = clips.number + 1


def _name_of_part(recording: Recording, first: int) -> str:
    return f"{recording.name}_{first:05d}"


def _next_part(root: Path, recording: Recording, numbers: range, first: int) -> int:
    """Where the next part that an earlier call wrote begins; the end of the recording without one."""
    later = range(first + 1, numbers.stop) if first > numbers.start else ()
    return next((number for number in later if is_sequence(root / _name_of_part(recording, number))), numbers.stop)


def _name_when_written(recording: Recording, numbers: range, first: int, n_frames: int) -> str:
    return recording.name if n_frames == len(numbers) else _name_of_part(recording, first)


class _UntilUnreadable:
    """The frames of a recording as clips, up to the first that cannot be read: its number, and why, are kept."""

    def __init__(self, recording: Recording, numbers: range, max_side: int | None) -> None:
        self.recording, self.numbers, self.max_side = recording, numbers, max_side
        self.number = numbers.start
        self.n_measured = self.n_lost = 0
        self.fault: str | None = None

    def __iter__(self) -> Iterator[Clip]:
        for number in self.numbers:
            self.number = number
            try:
                clip = self._clip()
            except InputError as error:
                self.fault = str(error)
                return
            yield clip

    def _clip(self) -> Clip:
        """The frame whose turn it is, no side of it above `max_side`."""
        recording, number = self.recording, self.number
        frame, depth = recording.read(number)
        if depth is not None and depth.shape != frame.shape[:2]:
            raise InputError(
                f"{recording.name}, frame {number}: the image is {frame.shape[:2]}, its depth {depth.shape}; both have "
                "one size: check that they belong together"
            )
        poses = None if recording.cam_to_world is None else recording.cam_to_world[number : number + 1]
        camera: dict[str, Any] = {"K": recording.K, "cam_to_world": poses}
        given = {name: array.tolist() for name, array in camera.items() if array is not None}
        _, faults = check_meta({"fps": float(recording.fps), **given}, f"{recording.name}, frame {number}")
        if faults:
            raise InputError("\n".join(f"{fault}: copy the files that it is from again" for fault in faults))
        fitting = None if depth is None else self._fitting(depth)[None]
        clip = Clip(recording.name, frame[None], recording.fps, depth=fitting, **camera)
        return fit_clip(clip, *shrunk_size(frame.shape[0], frame.shape[1], self.max_side))

    def _fitting(self, depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
        """The depth that 16 bits hold, 0 elsewhere."""
        measured = np.isfinite(depth) & (depth > 0)
        steps = np.where(measured, depth, 0).astype(np.float64) / self.recording.depth_scale_m
        fits = (steps >= 0.5) & (steps < 65535.5)
        self.n_measured += int(measured.sum())
        self.n_lost += int((measured & ~fits).sum())
        return np.where(fits, depth, np.float32(0))

    def report(self) -> None:
        """Say how much of the measured depth the 16 bits could not hold, where that is more than a little."""
        if self.n_lost > _MOST_LOST * self.n_measured:
            step = self.recording.depth_scale_m
            LOG.warning(
                "%s: %.0f %% of the measured depth is outside %.3g to %.4g m, what 16 bits hold, and left out as not "
                "measured: check its unit",
                self.recording.name, 100 * self.n_lost / self.n_measured, step, 65535 * step,
            )  # fmt: skip


def convert_videos(
    folder: Path,
    root: Path,
    *,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
    split_shots: bool = False,
) -> Iterator[Path]:
    """Convert every video in a folder; what is there already is left as it is.

    Args:
        folder: of the video files.
        root: folder of the sequences.
        start: first frame of each video.
        stop: the frame after the last; None goes to the end.
        max_side: pixels; longer sides are shrunk to it by area.
        split_shots: a sequence for each shot.

    Raises:
        InputError: there is no video, or none could be read.
        SomeFailedError: at the end, with the videos that could not be read, and why.
    """
    videos = [path for path in sorted(visible(folder)) if not path.is_dir() and is_sequence(path)]
    if not videos:
        raise InputError(f"{folder}: holds no video ({', '.join(VIDEO_SUFFIXES)}): give the folder they lie in")
    outcome = _Outcome()
    first: dict[str, Path] = {}
    for video in videos:
        if (other := first.setdefault(video.stem, video)) != video:
            outcome.failed[str(video)] = f"{video}: would be {root / video.stem}, as {other.name} is: rename one"
            continue
        part: dict[str, Any] = {"start": start, "stop": stop, "max_side": max_side, "split_shots": split_shots}
        n_before = len(outcome.written)
        try:
            for path in convert_parts(video, root, name=video.stem, **part):
                outcome.written.append(path)
                yield path
        except InputError as error:
            outcome.failed[str(video)] = str(error)
        else:
            outcome.n_kept += len(outcome.written) == n_before
    outcome.close()


def convert_video(
    video: Path, root: Path, *, name: str, start: int = 0, stop: int | None = None, max_side: int | None = None
) -> Path:
    """Write frames of a video as the sequence folder ROOT/<name>.

    Args:
        video: the file.
        root: folder of the sequences.
        name: of the sequence.
        start: first frame.
        stop: the frame after the last; None goes to the end.
        max_side: pixels; a frame with a longer side is shrunk to it by area.

    Returns: the folder of the sequence.

    Raises:
        InputError: the folder exists, the name climbs out, the video cannot be read or no frame is left.
    """
    if start < 0 or (max_side is not None and max_side < 2):
        raise InputError(f"start {start}, max_side {max_side}: give start >= 0, side >= 2")
    info = probe_video(video)
    if start >= min(stop or info.n_frames, info.n_frames):
        end = stop or "its end"
        raise InputError(f"{video}: no frame from {start} to {end}; it has {info.n_frames}: choose others")

    def clips() -> Iterator[Clip]:
        first = None
        for number, frame in enumerate(read_video(video, start, stop), start):
            first = frame.shape if first is None else first
            if frame.shape != first:
                raise InputError(
                    f"{video}: frame {number} is {frame.shape[0]} x {frame.shape[1]}, those before it "
                    f"{first[0]} x {first[1]}; a sequence has one size: convert it with --split-shots"
                )
            yield Clip(name, shrink_image(frame, max_side)[None], info.fps)

    return write_clips(root, name, clips(), depth_scale_m=None, source=video.name, licence=None)


def convert_parts(
    video: Path,
    root: Path,
    *,
    name: str,
    start: int = 0,
    stop: int | None = None,
    max_side: int | None = None,
    split_shots: bool = False,
) -> Iterator[Path]:
    """Write a video as `convert_video` does; a sequence that is there already is left as it is.

    Args:
        video: the file.
        root: folder of the sequences.
        name: of the sequence.
        start: first frame.
        stop: the frame after the last; None goes to the end.
        max_side: pixels; a frame with a longer side is shrunk to it by area.
        split_shots: of several shots each becomes ROOT/<name>_<its first frame>; the video is decoded twice.

    Raises:
        InputError: as of `convert_video`.
    """
    parts = {name: (start, stop)}
    if split_shots and len(shots := find_shots(read_video(video, start, stop))) > 1:
        parts = {f"{name}_{start + shot.start:05d}": (start + shot.start, start + shot.stop) for shot in shots}
    for part, (first, after) in parts.items():
        if is_sequence(root / check_name(part, root)):
            LOG.info("%s: there already, left as it is", root / part)
        else:
            yield convert_video(video, root, name=part, start=first, stop=after, max_side=max_side)
