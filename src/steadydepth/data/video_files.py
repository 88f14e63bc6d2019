"""Decode and encode video: 8-bit colour in any container, 16-bit depth without loss; one frame in memory at a time."""

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace
from jaxtyping import Float64, UInt8, UInt16

from steadydepth.files.image_files import write_png
from steadydepth.files.whole_files import check_name, new_file, new_folder
from steadydepth.types import InputError

LOG = logging.getLogger(__name__)
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v")
_PATIENCE_S = 10.0  # with a server, when connecting and for each packet
_MP4_SOUND = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")


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
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        first = next(container.decode(stream), None)
        if first is None or not rate:
            raise InputError(f"{path}: no frame can be decoded; a video has at least one: encode or copy it again")
        height, width = _upright(first).shape[:2]
        n_frames = stream.frames if _says_its_length(container, stream) else 0
    if isinstance(path, Path):
        n_frames = n_frames or _scan_file(path)[0]
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
    times = _scan_file(path)[1]
    with _opened(path) as (_, stream):
        return np.zeros(0) if times is None else times * float(stream.time_base)


def read_depth_video(path: Path) -> Iterator[UInt16[np.ndarray, "h w"]]:
    """The 16-bit codes that `write_depth_video` wrote, exactly; InputError for a video of another kind."""
    for frame in _frames_from(path, 0, None):
        if frame.format.name != "gray16le":
            raise InputError(f"{path}: pixels are {frame.format.name}; depth video is gray16le, written by predict")
        yield frame.to_ndarray()


def write_video(
    path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, *, like: Path | None = None
) -> None:
    """Write RGB frames as H.264 in yuv420p, which browsers play; lossy.

    H.264 takes even sizes only: the last row or column of an odd size is repeated once. Appears whole or not at all.
    With `like`, a video of as many frames, each is shown when its own is, at whatever rate, and the sound is copied.
    """
    options = {"crf": "18", "preset": "veryfast"}
    _encode(path, frames, fps, codec="libx264", options=options, to_video_frame=_to_yuv, like=like)


def write_depth_video(path: Path, depth_codes: Iterable[UInt16[np.ndarray, "h w"]], fps: float) -> None:
    """Write 16-bit codes without loss: FFV1, gray16le, Matroska, a checksum in every slice. Whole or not at all."""
    options = {"level": "3", "slicecrc": "1"}
    _encode(path, depth_codes, fps, codec="ffv1", options=options, to_video_frame=_to_grey)


def recode(frames: UInt8[np.ndarray, "t h w 3"], *, crf: int) -> UInt8[np.ndarray, "t h w 3"]:
    """The same frames after H.264 at constant rate factor `crf` (0 to 51, 23 is usual): blocks, and detail that pumps.

    In memory; an odd last row or column is coded twice and cut again.
    """
    _, height, width, _ = frames.shape
    held = io.BytesIO()
    with av.open(held, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "ultrafast"})
        stream.codec_context.thread_count = 1
        _mux(container, stream, map(_to_yuv, frames))
    held.seek(0)
    with av.open(held, "r") as written:
        decoded = [frame.to_ndarray(format="rgb24") for frame in written.decode(video=0)]
    return np.stack(decoded)[:, :height, :width]


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
        n_written = 0
        for number, frame in enumerate(read_video(video, start, stop)):
            if number % stride == 0:
                write_png(part / "rgb" / f"{n_written:04d}.png", _shrink(frame, max_side))
                n_written += 1
        if n_written == 0:
            raise InputError(f"{video}: no frame from {start} to {stop}; it has {info.n_frames}: choose others")
        meta = {"fps": info.fps / stride, "source": video.name}
        (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return target


def _shrink(frame: UInt8[np.ndarray, "h w 3"], max_side: int | None) -> UInt8[np.ndarray, "i j 3"]:
    size = shrunk_size(frame.shape[0], frame.shape[1], max_side)
    return frame if size == frame.shape[:2] else cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def shrunk_size(height: int, width: int, max_side: int | None) -> tuple[int, int]:
    """Height and width with no side above `max_side`, even when they are changed at all."""
    if max_side is None or max(height, width) <= max_side:
        return height, width
    factor, most = max_side / max(height, width), max_side - max_side % 2
    height, width = (min(most, max(2, 2 * int(side * factor / 2 + 0.5))) for side in (height, width))
    return height, width


@contextmanager
def _opened(path: Path | str) -> Iterator[tuple[Any, Any]]:
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
        n_frames, times = _scan_file(path)
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
    with _opened(path) as (container, stream):
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
    with _opened(path) as (container, stream):
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


def _scan_file(path: Path) -> tuple[int, np.ndarray | None]:
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


def _encode(
    path: Path,
    images: Iterable[np.ndarray],
    fps: float,
    *,
    codec: str,
    options: dict[str, str],
    to_video_frame: Callable[[np.ndarray], Any],
    like: Path | None = None,
) -> None:
    images = iter(images)
    first = next(images, None)
    if first is None:
        raise InputError(f"{path}: no frame to write; a video has at least one")
    times, time_base = (None, Fraction(1)) if like is None else _times(like)
    with (
        new_file(path) as part,
        _sound_of(like) as (template, sound),
        av.open(str(part), "w", options=_container_options(path)) as container,
    ):
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        if times is not None:
            stream.codec_context.time_base = time_base
        copied: Any = None if template is None else container.add_stream_from_template(template)

        def checked() -> Iterator[Any]:
            for number, image in enumerate(chain([first], images)):
                if image.shape != first.shape:
                    raise InputError(
                        f"{path}: frame {number} is {image.shape}, the first is {first.shape}; one size a video"
                    )
                frame = to_video_frame(image)
                if times is not None:
                    frame.pts, frame.time_base = _time_of(number, times, round(1 / (fps * time_base))), time_base
                yield frame

        _mux(container, stream, _with_sound(container, copied, checked(), sound))


def _mux(container: Any, stream: Any, frames: Iterator[Any]) -> None:
    """Encode all frames; the first one says the size and the colours."""
    for number, frame in enumerate(frames):
        if number == 0:
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
            stream.codec_context.colorspace = frame.colorspace
            stream.codec_context.color_range = frame.color_range
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _times(path: Path) -> tuple[np.ndarray, Fraction]:
    """When frames are shown, in the time base beside it; that of the first alone where the file does not say."""
    times = _scan_file(path)[1]
    if times is None:
        return np.zeros(1, np.int64), Fraction(1, 90000)
    with _opened(path) as (_, stream):
        return times, stream.time_base


def _time_of(number: int, times: np.ndarray, step: int) -> int:
    """The time of a frame; beyond those that are known, one step after another."""
    return int(times[min(number, len(times) - 1)]) + max(0, number - len(times) + 1) * step


@contextmanager
def _sound_of(path: Path | None) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The first sound of a video that an MP4 can hold, and its packets; (None, none) when there is not one."""
    if path is None:
        yield None, iter(())
        return
    with av.open(str(path)) as container:
        streams = container.streams.audio
        if streams and streams[0].codec_context.name not in _MP4_SOUND:
            LOG.warning("%s: its sound, %s, does not fit in MP4: left out", path, streams[0].codec_context.name)
            streams = ()
        yield (streams[0], container.demux(streams[0])) if streams else (None, iter(()))


def _with_sound(container: Any, copied: Any, frames: Iterator[Any], sound: Iterator[Any]) -> Iterator[Any]:
    """The frames as they are; after each, the sound up to it is written, so that a player finds both close by."""
    packets = (packet for packet in sound if packet.size)
    packet = next(packets, None)
    for frame in frames:
        yield frame
        while packet is not None and (packet.dts or 0) * packet.time_base <= frame.pts * frame.time_base:
            packet = _copy_packet(container, copied, packet, packets)
    while packet is not None:
        packet = _copy_packet(container, copied, packet, packets)


def _copy_packet(container: Any, copied: Any, packet: Any, packets: Iterator[Any]) -> Any:
    packet.stream = copied
    container.mux(packet)
    return next(packets, None)


def _container_options(path: Path) -> dict[str, str]:
    # The index first, so that a browser plays while it loads.
    return {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov", ".m4v") else {}


def _to_yuv(image: UInt8[np.ndarray, "h w 3"]) -> Any:
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    # Said in the file as well: players guess BT.601 or BT.709 by the size of what says nothing.
    return frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def _to_grey(codes: UInt16[np.ndarray, "h w"]) -> Any:
    return av.VideoFrame.from_ndarray(codes, format="gray16le")
