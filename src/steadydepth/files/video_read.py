"""Videos read strictly: what a file holds, and its frames, 8-bit colour or 16-bit depth, one in memory at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float64, UInt8, UInt16

from steadydepth.types import InputError

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
_PATIENCE_S = 10.0  # with a server, when connecting and for each packet


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds, the size as it is shown (after its display rotation)."""

    fps: float
    n_frames: int
    height: int
    width: int


def probe_video(path: Path | str) -> VideoInfo:
    """Rate, number of frames and size of a video; InputError when it is missing, no video, empty or truncated.

    The frames are counted, without decoding, unless the header of an MP4 says how many there are; of a URL, which is
    text, they are 0 then.
    """
    with opened_video(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        first = next(container.decode(stream), None)
        if first is None or not rate:
            raise InputError(f"{path}: no frame can be decoded; a video has at least one: encode or copy it again")
        height, width = _upright(first).shape[:2]
        n_frames = stream.frames if _says_its_length(container, stream) else 0
    if isinstance(path, Path):
        n_frames = n_frames or scan_video(path)[0]
    return VideoInfo(float(rate), n_frames, height, width)


def read_video(path: Path | str, start: int = 0, stop: int | None = None) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """RGB frames [start, stop) of a file or URL in the order they are shown, turned as its display rotation says.

    A later `start` is found by seeking, checked to be that very frame. InputError when the source is missing, no video
    or damaged, and at its end when it ends before its header said.
    """
    for frame in _frames_from(path, start, stop):
        yield _upright(frame)


def frame_times_s(path: Path) -> Float64[np.ndarray, "t"]:
    """When each frame of a file is shown, in seconds and in order; none where the container does not say."""
    times = scan_video(path)[1]
    with opened_video(path) as (_, stream):
        return np.zeros(0) if times is None else times * float(stream.time_base)


def read_depth_video(path: Path) -> Iterator[UInt16[np.ndarray, "h w"]]:
    """The 16-bit codes that `write_depth_video` wrote, exactly; InputError for a video of another kind."""
    for frame in _frames_from(path, 0, None):
        if frame.format.name != "gray16le":
            raise InputError(f"{path}: pixels are {frame.format.name}; depth video is gray16le, written by predict")
        yield frame.to_ndarray()


@contextmanager
def opened_video(path: Path | str) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; what FFmpeg reports becomes the InputError of this file."""
    try:
        # Of a URL only: a server that says nothing more would be waited for without end.
        with av.open(str(path), timeout=_PATIENCE_S if isinstance(path, str) else None) as container:
            if not container.streams.video:
                raise InputError(f"{path}: no video stream in it; give a video, or encode it again")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.ExitError as error:
        raise InputError(f"{path}: no answer for {_PATIENCE_S:g} s: check the address, and that it sends") from error
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: cannot be read as video ({error.strerror}); a video is a whole "
            f"{', '.join(VIDEO_SUFFIXES)}: encode or copy it again"
        ) from error


def _frames_from(path: Path | str, start: int, stop: int | None) -> Iterator[Any]:
    """Decoded frames [start, stop), by seeking when every frame of a file has a time of its own."""
    frames, to_skip = _decoded(path), start
    if start > 0 and isinstance(path, Path):
        n_frames, times = scan_video(path)
        if start >= n_frames:
            return
        if times is not None:
            after_seek = _decoded(path, from_time=int(times[start]))
            first = next(after_seek, None)
            # Some containers seek past the frame asked for; then everything before it is decoded.
            if first is not None and first.pts == times[start]:
                frames, to_skip = chain([first], after_seek), 0
    n_taken = None if stop is None else max(stop - start, 0)
    for n_yielded, frame in enumerate(islice(frames, to_skip, None)):
        if n_yielded == n_taken:
            return
        yield frame


def _decoded(path: Path | str, from_time: int | None = None) -> Iterator[Any]:
    """Every decoded frame, or those from `from_time` (in the stream's time base) on; checked to be whole at the end."""
    with opened_video(path) as (container, stream):
        if from_time is not None:
            container.seek(from_time, stream=stream, backward=True)
        n_packets, end = 0, 0
        for packet in container.demux(stream):
            if packet.size:
                n_packets += 1
                end = max(end, _end_of(path, packet))
            for frame in packet.decode():
                if from_time is None or (frame.pts is not None and frame.pts >= from_time):
                    yield frame
        _check_end(path, container, stream, None if from_time is not None else n_packets, end)


@lru_cache(maxsize=64)
def _scan(path: Path, _size: int, _changed: int) -> tuple[int, np.ndarray | None]:
    times, end, n_packets = [], 0, 0
    with opened_video(path) as (container, stream):
        for packet in container.demux(stream):
            if packet.size:
                n_packets += 1
                end = max(end, _end_of(path, packet))
                if not packet.is_discard:
                    times.append(packet.pts)
        _check_end(path, container, stream, n_packets, end)
        # AVI keeps no time of showing: FFmpeg guesses it, and differently after a seek when there are B-frames.
        has_times = any(name in container.format.name for name in ("mp4", "matroska"))
    if not has_times or None in times or len(set(times)) < len(times):
        return len(times), None
    return len(times), np.sort(np.array(times, np.int64))


def scan_video(path: Path) -> tuple[int, np.ndarray | None]:
    """Number of frames shown and their times in order, None when they have none; the file is read but not decoded.

    Kept for the last files asked for: clips are read from one file many times.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; a video is a file: check the path")
    status = path.stat()
    return _scan(path, status.st_size, status.st_mtime_ns)


def _end_of(path: Path | str, packet: Any) -> int:
    if packet.is_corrupt:
        raise InputError(f"{path}: truncated or damaged at frame time {packet.pts}: encode or copy it again")
    return (packet.pts or 0) + (packet.duration or 0)


def _says_its_length(container: Any, stream: Any) -> bool:
    """Whether the header's number of frames can be trusted: an edit list hides frames that it counts."""
    if "mp4" not in container.format.name or not stream.frames or not stream.duration:
        return False
    return abs(float(stream.duration * stream.time_base * stream.average_rate) - stream.frames) < 1.5


def _check_end(path: Path | str, container: Any, stream: Any, n_packets: int | None, end: int) -> None:
    """InputError when less came out of the file than its header says; FFmpeg itself ends without a word.

    `n_packets` is None when the file was not read from its beginning; `end` is in the stream's time base.
    """
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    if "mp4" in container.format.name:
        promised_s = float((stream.duration or 0) * stream.time_base)
    else:
        promised_s = _seconds(stream.metadata.get("DURATION", "")) or stream.frames * frame_s
    is_short = n_packets is not None and _says_its_length(container, stream) and n_packets < stream.frames
    if is_short or float(end * stream.time_base) < promised_s - 2 * frame_s:
        raise InputError(f"{path}: truncated; it ends before its header says: copy or encode it again")


def _seconds(clock: str) -> float:
    """Seconds of Matroska's 00:00:02.000000000, 0 when there is none."""
    hours, minutes, seconds = clock.split(":") if clock.count(":") == 2 else ("0", "0", "0")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _upright(frame: Any) -> UInt8[np.ndarray, "h w 3"]:
    image = frame.to_ndarray(format="rgb24")
    # The display matrix turns by `rotation` degrees counter-clockwise; a phone held upright writes -90.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4))
