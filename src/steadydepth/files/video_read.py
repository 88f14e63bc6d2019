"""Videos read strictly: what a file holds, and its frames, 8-bit colour or 16-bit depth, one in memory at a time."""

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.stream import Disposition
from jaxtyping import Float64, UInt8, UInt16

from steadydepth.errors import InputError
from steadydepth.files.damage import refuse_pipe
from steadydepth.files.dolby_vision import base_layer
from steadydepth.files.video_complete import PacketCheck, says_its_length
from steadydepth.files.video_display import as_shown, frame_faults

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".gif"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".mxf", ".3gp", ".flv", ".wmv", ".ogv"),
)
LOG = logging.getLogger(__name__)
# How far the rate of a header may be from that of the times, which have ticks.
_SAME_RATE = 0.01
# Containers, by FFmpeg's names, that keep when each frame is shown; and files of them that an index says where each
# lies, so that a seek is exact, and that begin at 0. The clock of others, as of a broadcast, begins at any time.
_WITH_TIMES = ("mp4", "matroska", "gif", "mpegts", "flv", "asf")
FROM_ZERO = (".mp4", ".mov", ".m4v", ".3gp", ".mkv", ".webm", ".gif")
_PATIENCE_S = 10.0  # with a server, when connecting and for each packet


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, the size as it is shown: upright, with square pixels."""

    fps: float
    n_frames: int
    height: int
    width: int


def probe_video(path: Path | str) -> VideoInfo:
    """Rate, number of frames and size of a video.

    The frames are those that `read_video` gives. They are counted, unless the header of an MP4 says how many there are;
    of a URL, which is text, they are 0 then. The rate is that of the times of the frames where the header's is another:
    that of a phone or a screen recorder may be the tick of its clock.

    Raises:
        InputError: it is missing, no video, empty or truncated.
    """
    with opened_video(path) as (container, stream):
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        first = next(container.decode(stream), None)
        if first is None or not rate:
            raise InputError(f"{path}: no frame can be decoded; a video has at least one: encode or copy it again")
        height, width = as_shown(first, stream).shape[:2]
        n_frames = stream.frames if says_its_length(container, stream) and _is_first(first, stream) else 0
        unit_s = float(stream.time_base)
    if isinstance(path, Path) and not n_frames:
        n_frames, times = scan_video(path)
        if times is not None and len(times) > 1:
            own = (len(times) - 1) / (float(times[-1] - times[0]) * unit_s)
            rate = rate if abs(rate / own - 1) < _SAME_RATE else own
    return VideoInfo(rate, n_frames, height, width)


def read_video(
    path: Path | str, start: int = 0, stop: int | None = None, *, report: Callable[[str], None] | None = None
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """RGB frames of a video in the order they are shown, as players show them.

    Mirrored and turned as the display matrix says, the pixels of a video that are not square stretched from left to
    right. Frames are numbered from the first that can be decoded: what a recording that begins between key frames has
    before it is no frame.

    Args:
        path: a file, or a URL as text.
        start: the first frame; a later one is found by seeking, checked to be that very frame.
        stop: the frame after the last; None reads to the end.
        report: called once for each way in which frames are damaged or not shown as meant (high dynamic range,
            interlaced fields); None warns.

    Raises:
        InputError: the source is missing, no video or damaged; or, at its end, it ends too early.
    """
    reported: set[str] = set()
    report = report or (lambda fault: _warn_once(f"{path}: {fault}"))
    base = base_layer(path) if isinstance(path, Path) else None
    for frame, stream in _frames_from(path, start, stop):
        for fault in frame_faults(frame, stream, base):
            if fault not in reported:
                reported.add(fault)
                report(fault)
        yield as_shown(frame, stream)


@lru_cache(maxsize=1024)
def _warn_once(fault: str) -> None:
    """Clips are read from one file many times."""
    LOG.warning("%s", fault)


def open_container(file: Any, mode: Literal["r", "w"] = "r", **options: Any) -> Any:
    """`av.open`, with FFmpeg's own messages left out, whoever has asked PyAV for them (torchvision 0.23 does).

    PyAV would hand them to Python from the threads that decode. Closing a file waits for those threads and holds the
    lock of Python that they wait for, so a damaged file, which has messages, would never be closed.

    Args:
        file: a path or URL as text, or a file object.
        mode: to read or to write.
        options: those of `av.open`.
    """
    av.logging.set_level(None)
    return av.open(file, mode, **options)


def frame_times_s(path: Path) -> Float64[np.ndarray, "t"]:
    """When each frame of a file is shown, in seconds and in order; none where the container does not say."""
    times = scan_video(path)[1]
    with opened_video(path) as (_, stream):
        return np.zeros(0) if times is None else times * float(stream.time_base)


def read_depth_video(path: Path) -> Iterator[UInt16[np.ndarray, "h w"]]:
    """The 16-bit codes that `write_depth_video` wrote, exactly.

    Raises:
        InputError: a video of another kind.
    """
    for frame, _ in _frames_from(path, 0, None):
        if frame.format.name != "gray16le":
            raise InputError(f"{path}: pixels are {frame.format.name}; depth video is gray16le, written by predict")
        yield frame.to_ndarray()


def leads_nowhere(path: Path) -> bool:
    """Whether `path` is a link to something that is not there."""
    return path.is_symlink() and not path.exists()


def names_a_file(path: Path) -> bool:
    """Whether `path` is a file, or a pipe, or a link to nothing: to be read, or to be refused by its name."""
    return not path.is_dir() and (path.exists() or path.is_symlink())


@contextmanager
def opened_video(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """The container and the video stream that players show.

    Raises:
        InputError: what FFmpeg reports, in words about this file; there is no video stream, or no answer.
    """
    refuse_pipe(path)
    if isinstance(path, Path) and leads_nowhere(path):
        raise InputError(f"{path}: a link to {path.readlink()}, which is not there: fetch that, or remove the link")
    try:
        # Of a URL only: a server that says nothing more would be waited for without end. What stands before the colon
        # of a relative path, as in 10:33.mp4, FFmpeg takes for a protocol.
        name, patience_s = (path, _PATIENCE_S) if isinstance(path, str) else (str(path.absolute()), None)
        if sys.platform == "win32":
            name = re.sub("^file:/+(?=[A-Za-z]:)", "file:", name)  # FFmpeg looks for a folder /C: otherwise
        with open_container(name, timeout=patience_s) as container:
            stream = _shown_stream(container)
            if stream is None:
                raise InputError(f"{path}: no video stream in it; give a video, or encode it again")
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.ExitError as error:
        raise InputError(f"{path}: no answer for {_PATIENCE_S:g} s: check the address, and that it sends") from error
    except av.error.FFmpegError as error:
        rule = f"; a video is a complete {', '.join(VIDEO_SUFFIXES)}: encode or copy it again"
        rule = ": check the address, and that it sends" if isinstance(path, str) else rule
        raise InputError(f"{path}: cannot be read as video ({error.strerror}){rule}") from error
    except UnicodeDecodeError as error:  # text in the file's own metadata
        raise InputError(f"{path}: cannot be read as video ({error}): encode or copy it again") from error


def _shown_stream(container: Any) -> Any:
    """FFmpeg's choice among the video streams; never a cover, nor a thumbnail of one frame beside a video."""
    videos = [one for one in container.streams.video if not one.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    if best not in videos or best.frames == 1:
        best = max(videos, key=lambda one: one.frames, default=None)
    return best


def _frames_from(path: Path | str, start: int, stop: int | None) -> Iterator[tuple[Any, Any]]:
    """Decoded frames [start, stop) and their stream, by seeking when every frame of a file has a time of its own."""
    frames, to_skip = _decoded(path), start
    if start > 0 and isinstance(path, Path):
        n_frames, times = scan_video(path)
        if start >= n_frames:
            return
        if times is not None and path.suffix.lower() in FROM_ZERO:
            after_seek = _decoded(path, from_time=int(times[start]))
            try:
                first = next(after_seek, None)
            except InputError:  # a container that cannot seek there; if it is damaged, reading on will say so
                first = None
            # Some containers seek past the frame asked for; then everything before it is decoded.
            if first is not None and first[0].pts == times[start]:
                frames, to_skip = chain([first], after_seek), 0
    n_taken = None if stop is None else max(stop - start, 0)
    for n_yielded, frame in enumerate(islice(frames, to_skip, None)):
        if n_yielded == n_taken:
            return
        yield frame


def _decoded(path: Path | str, from_time: int | None = None) -> Iterator[tuple[Any, Any]]:
    """Every decoded frame, or those from `from_time` (in the stream's time base) on; checked at the end."""
    with opened_video(path) as (container, stream):
        if from_time is not None:
            container.seek(from_time, stream=stream, backward=True)
        end = PacketCheck(path)
        for packet in container.demux(stream):
            end.see(packet)
            for frame in packet.decode():
                if from_time is None or (frame.pts is not None and frame.pts >= from_time):
                    yield frame, stream
        end.check(container, stream, is_from_start=from_time is None)


@lru_cache(maxsize=64)
def _scan(path: Path, _size: int, _changed: int) -> tuple[int, np.ndarray | None]:
    times: list[int | None] = []
    with opened_video(path) as (container, stream):
        end, keys = PacketCheck(path), []
        for packet in container.demux(stream):
            end.see(packet)
            if packet.size and not packet.is_discard:
                times.append(packet.pts)
                if packet.is_keyframe:
                    keys.append((len(times) - 1, packet.pts))
        end.check(container, stream, is_from_start=True)
        # AVI keeps no time of showing: FFmpeg guesses it, and differently after a seek when there are B-frames.
        has_times = any(name in container.format.name for name in _WITH_TIMES)
        # There the two fields of a frame may be packets of their own, each with its time.
        has_times &= container.format.name != "mpegts" or not _is_interlaced(path)
    if not keys or keys[0][0] > 0 or _shown_before(times, keys[0][1]):
        # What stands before the first key frame cannot be decoded, or not all of it: only decoding shows it.
        times = [frame.pts for frame, _ in _decoded(path)]
    if not has_times or None in times or len(set(times)) < len(times):
        return len(times), None
    return len(times), np.sort(np.array(times, np.int64))


def _is_interlaced(path: Path) -> bool:
    first = next(_decoded(path), None)
    return first is not None and bool(first[0].interlaced_frame)


def _shown_before(times: list[int | None], key: int | None) -> bool:
    """Whether a frame is shown before the first key frame: of an open group, whose beginning was cut away."""
    return key is not None and any(time is not None and time < key for time in times)


def scan_video(path: Path) -> tuple[int, np.ndarray | None]:
    """Number of frames shown and their times in order, None when they have none.

    The file is read but not decoded, unless it begins between key frames. Kept for the last files asked for: clips are
    read from one file many times.

    Raises:
        InputError: the file does not exist, or cannot be read as video.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; a video is a file: check the path")
    status = path.stat()
    return _scan(path, status.st_size, status.st_mtime_ns)


def _is_first(frame: Any, stream: Any) -> bool:
    """Whether the first frame that can be decoded is the first that there is."""
    return frame.pts is None or stream.start_time is None or frame.pts <= stream.start_time
