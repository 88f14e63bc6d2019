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
import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from jaxtyping import Float64, UInt8, UInt16

from steadydepth.errors import InputError
from steadydepth.files.damage import refuse_pipe
from steadydepth.files.dolby_vision import base_layer

VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".gif"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".mxf", ".3gp", ".flv", ".wmv", ".ogv"),
)
LOG = logging.getLogger(__name__)
# How far the rate of a header may be from that of the times, which have ticks.
_SAME_RATE = 0.01
_HDR = {16: "PQ, as of HDR10 and Dolby Vision", 18: "HLG"}  # transfer functions of ITU-T H.273
# Ratios of width to height that a pixel may have.
_WIDEST_PIXEL = 8.0
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
        height, width = _as_shown(first, stream).shape[:2]
        n_frames = stream.frames if _says_its_length(container, stream) and _is_first(first, stream) else 0
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
        for fault in _frame_faults(frame, stream, base):
            if fault not in reported:
                reported.add(fault)
                report(fault)
        yield _as_shown(frame, stream)


@lru_cache(maxsize=1024)
def _warn_once(fault: str) -> None:
    """Clips are read from one file many times."""
    LOG.warning("%s", fault)


def _frame_faults(frame: Any, stream: Any, base: str | None) -> list[str]:
    """What is wrong with how a decoded frame is shown, each with what to do; `base` is the `base_layer` of its file."""
    faults = []
    transfer = int(frame.color_trc or stream.codec_context.color_trc or 0)
    light = _HDR.get(transfer) or (f"{base}, as Dolby Vision has it" if base in ("PQ", "HLG") else None)
    if base == "own":
        faults.append(
            "Dolby Vision of profile 5, whose colours are none but its own: shown green and violet: convert it to "
            "BT.709 first (ffmpeg -vf libplacebo=colorspace=bt709:color_primaries=bt709:color_trc=bt709)"
        )
    elif light:
        faults.append(
            f"high dynamic range ({light}), shown without tone mapping, so darker and paler than it is meant: "
            "convert it to BT.709 first (ffmpeg -vf zscale,tonemap)"
        )
    if frame.interlaced_frame:
        faults.append("interlaced: moving edges are combs: deinterlace it first (ffmpeg -vf bwdif)")
    if frame.is_corrupt:
        faults.append("damaged: parts of some frames are made up by the decoder: encode or copy it again")
    return faults


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
        end = _End(path)
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
        end, keys = _End(path), []
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


class _End:
    """Sees the packets of a stream, and says at the end whether all were there that the file promises."""

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.n_packets = 0
        self.first, self.last, self.end = 0, 0, 0  # in the time base of the stream

    def see(self, packet: Any) -> None:
        """The next packet; InputError when it is damaged."""
        if not packet.size:
            return
        if packet.is_corrupt:
            where = "" if packet.pts is None else f" at {float(packet.pts * packet.time_base):.2f} s"
            raise InputError(f"{self.path}: truncated or damaged{where}: encode or copy it again")
        shown = packet.pts or 0
        self.first = min(self.first, shown) if self.n_packets else shown
        self.last = max(self.last, shown) if self.n_packets else shown
        self.end = max(self.end, shown + (packet.duration or 0))
        self.n_packets += 1

    def check(self, container: Any, stream: Any, *, is_from_start: bool) -> None:
        """InputError when less came out of the file than it promises; FFmpeg itself ends without a word."""
        unit_s = float(stream.time_base)
        frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
        if "mp4" in container.format.name:
            promised_s = float((stream.duration or 0) * unit_s)
        else:
            promised_s = _seconds(stream.metadata.get("DURATION", "")) or stream.frames * frame_s
        if self.n_packets > 1:  # the rate of the header may be the tick of a clock
            frame_s = max(frame_s, (self.last - self.first) * unit_s / (self.n_packets - 1))
        is_short = is_from_start and _says_its_length(container, stream) and self.n_packets < stream.frames
        if container.format.name == "gif" and isinstance(self.path, Path):
            # It promises no length, but ends with a semicolon, and perhaps zeros.
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - 64))
                is_short = not file.read().rstrip(b"\0").endswith(b";")
        if is_short or self.end * unit_s < promised_s - 2 * frame_s:
            raise InputError(f"{self.path}: truncated; it ends too early: copy or encode it again")


def _says_its_length(container: Any, stream: Any) -> bool:
    """Whether the header's number of frames can be trusted: an edit list hides frames that it counts."""
    if "mp4" not in container.format.name or not stream.frames or not stream.duration or not stream.average_rate:
        return False
    return abs(float(stream.duration * stream.time_base * stream.average_rate) - stream.frames) < 0.5


def _is_first(frame: Any, stream: Any) -> bool:
    """Whether the first frame that can be decoded is the first that there is."""
    return frame.pts is None or stream.start_time is None or frame.pts <= stream.start_time


def _seconds(clock: str) -> float:
    """Seconds of Matroska's 00:00:02.000000000, 0 when there is none."""
    try:
        hours, minutes, seconds = clock.split(":") if clock.count(":") == 2 else ("0", "0", "0")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _as_shown(frame: Any, stream: Any) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a decoded frame as players show it: with square pixels, mirrored and turned by its display matrix."""
    image = frame.to_ndarray(format="rgb24")
    wide = float(stream.sample_aspect_ratio or 1)
    if wide != 1 and 1 / _WIDEST_PIXEL <= wide <= _WIDEST_PIXEL:
        width = max(1, round(image.shape[1] * wide))
        how = cv2.INTER_AREA if wide < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, image.shape[0]), interpolation=how)
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    return np.ascontiguousarray(image if matrix is None else _displayed(image, bytes(matrix)))


def _displayed(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """The image through a display matrix: nine 32-bit numbers a b u c d v x y w, (x, y) shown at (ax + cy, bx + dy).

    Of any matrix, the nearest of the eight that mirror and turn by quarters.
    """
    if len(matrix) < 36:
        return image
    a, b, _, c, d = np.frombuffer(matrix, "i4", 5).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, (a, d) = image.swapaxes(0, 1), (c, b)
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
