"""Videos written complete or not at all: 8-bit colour for players, 16-bit depth without loss; one frame at a time."""

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from jaxtyping import UInt8, UInt16

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import new_file
from steadydepth.files.video_read import FROM_ZERO, open_container, opened_video, scan_video

LOG = logging.getLogger(__name__)
H264_SIDE = 16384
_MP4_SOUND = ("aac", "ac3", "alac", "eac3", "flac", "mp3", "opus")


# Numbers of slices that FFV1 takes, and pixels of 16 bits that FFmpeg takes in one (134 million bits).
_SLICES, _SLICE_PIXELS = (4, 6, 9, 12, 16, 20, 24, 30), 7_000_000


def write_video(
    path: Path,
    frames: Iterable[UInt8[np.ndarray, "h w 3"]],
    fps: float,
    *,
    like: Path | None = None,
    preset: str = "veryfast",
) -> None:
    """Write RGB frames as H.264 in yuv420p, which browsers play; lossy, complete or not at all.

    The file states BT.709 as its primaries, transfer and matrix, in limited range, so that no player guesses.
    H.264 takes even sizes only: the last row or column of an odd size is repeated once.

    Args:
        path: replaced where it exists.
        frames: of one size.
        fps: frames a second, where `like` gives no times.
        like: a video of as many frames: each is shown when its own is, at whatever rate, and the sound is copied.
        preset: x264's; "ultrafast" takes a third of the time for a file half as large again.
    """
    _encode(path, frames, fps, like, codec="libx264", options=lambda first: {"crf": "18", "preset": preset})


def write_depth_video(
    path: Path, depth_codes: Iterable[UInt16[np.ndarray, "h w"]], fps: float, *, like: Path | None = None
) -> None:
    """Write 16-bit codes without loss: FFV1, gray16le, Matroska, a checksum in every slice. Complete or not at all.

    Args:
        path: replaced where it exists.
        depth_codes: of one size.
        fps: frames a second, where `like` gives no times.
        like: a video of as many frames: each is shown when its own is, to the millisecond.
    """

    def options(first: np.ndarray) -> dict[str, str]:
        # Slices are coded side by side; a frame in four of them is no larger. FFmpeg refuses large slices.
        slices = next((number for number in _SLICES if first.size <= number * _SLICE_PIXELS), _SLICES[-1])
        return {"level": "3", "slicecrc": "1", "slices": str(slices if min(first.shape) >= _SLICES[0] else 1)}

    _encode(path, depth_codes, fps, like, codec="ffv1", options=options)


def recode(frames: UInt8[np.ndarray, "t h w 3"], *, crf: int) -> UInt8[np.ndarray, "t h w 3"]:
    """The same frames after H.264 at constant rate factor `crf` (0 to 51, 23 is usual): blocks, and detail that pumps.

    In memory; an odd last row or column is coded twice and cut again.
    """
    _, height, width, _ = frames.shape
    held = io.BytesIO()
    with open_container(held, "w", format="matroska") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"crf": str(crf), "preset": "ultrafast"})
        stream.codec_context.thread_count = 1
        _mux(container, stream, map(_to_yuv, frames))
    held.seek(0)
    with open_container(held) as written:
        decoded = [frame.to_ndarray(format="rgb24") for frame in written.decode(video=0)]
    return np.stack(decoded)[:, :height, :width]


def _encode(
    path: Path,
    images: Iterable[np.ndarray],
    fps: float,
    like: Path | None,
    *,
    codec: Literal["libx264", "ffv1"],
    options: Callable[[np.ndarray], dict[str, str]],
) -> None:
    """Colour with the sound of `like`, or depth; `options` are those of the codec for the first image."""
    images, is_colour = iter(images), codec == "libx264"
    first = next(images, None)
    if first is None:
        raise InputError(f"{path}: no frame to write; a video has at least one")
    if is_colour and max(first.shape) > H264_SIDE:
        height, width = first.shape[:2]
        raise InputError(
            f"{path}: {width} x {height} is more than H.264 takes, {H264_SIDE} a side: shrink the input, or write "
            "npz, png16, exr or mkv"
        )
    times, time_base, begin_s = (None, Fraction(1), Fraction(0)) if like is None else _times(like)
    # The index first, so that a browser plays while it loads.
    in_container = {"movflags": "+faststart"} if path.suffix.lower() in (".mp4", ".mov", ".m4v") else {}
    with (
        new_file(path) as part,
        _sound_of(like if is_colour else None, begin_s) as (template, packets),
        open_container(str(part.absolute()), "w", options=in_container) as container,
    ):
        # As a broadcaster writes it, 30000/1001; a frame in an hour as it is.
        rate = Fraction(fps).limit_denominator(1001 if fps >= 1 else 10**6)
        stream: Any = container.add_stream(codec, rate=rate, options=options(first))
        stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
        if times is not None:
            stream.codec_context.time_base = time_base
        copied: Any = None if template is None else container.add_stream_from_template(template)

        def checked() -> Iterator[Any]:
            for number, image in enumerate(chain([first], images)):
                if image.shape != first.shape:
                    raise InputError(
                        f"{path}: frame {number} is {image.shape}, the first is {first.shape}; one size a video"
                    )
                frame = _to_yuv(image) if is_colour else _to_grey(image)
                if times is not None:
                    frame.pts, frame.time_base = _time_of(number, times, round(1 / (fps * time_base))), time_base
                yield frame

        _mux(container, stream, _with_sound(container, copied, checked(), packets))


def _mux(container: Any, stream: Any, frames: Iterator[Any]) -> None:
    """Encode all frames; the first one says the size and the colours."""
    for number, frame in enumerate(frames):
        if number == 0:
            stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
            stream.codec_context.colorspace = frame.colorspace
            stream.codec_context.color_range = frame.color_range
            stream.codec_context.color_primaries = frame.color_primaries
            stream.codec_context.color_trc = frame.color_trc
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _times(path: Path) -> tuple[np.ndarray, Fraction, Fraction]:
    """When frames are shown, in the time base beside it, and what of the clock of the file is 0 there, in seconds.

    That of the first alone where the file does not say.
    """
    times = scan_video(path)[1]
    with opened_video(path) as (_, stream):
        unit_s = Fraction(stream.time_base)  # PyAV 19 has a type of its own
        begin = 0 if times is not None and path.suffix.lower() in FROM_ZERO else stream.start_time or 0
    if times is None:
        return np.zeros(1, np.int64), Fraction(1, 90000), begin * unit_s
    return times - begin, unit_s, begin * unit_s


def _time_of(number: int, times: np.ndarray, step: int) -> int:
    """The time of a frame; beyond those that are known, one step after another."""
    return int(times[min(number, len(times) - 1)]) + max(0, number - len(times) + 1) * step


@contextmanager
def _sound_of(path: Path | None, begin_s: Fraction) -> Iterator[tuple[Any, Iterator[Any]]]:
    """The first sound of a video that an MP4 can hold, and its packets `begin_s` sooner; (None, none) without one."""
    if path is None:
        yield None, iter(())
        return
    with open_container(str(path.absolute())) as container:
        streams = container.streams.audio
        context = streams[0].codec_context if streams else None  # None of a codec that FFmpeg does not know
        # Not the name of the decoder: that of MP3 is mp3float.
        kind = context.codec.canonical_name if context else "of an unknown kind"
        if streams and kind not in _MP4_SOUND:
            LOG.warning("%s: its sound, %s, does not fit in MP4: left out", path, kind)
            streams = ()
        if not streams:
            yield None, iter(())
            return
        yield streams[0], (_earlier(packet, begin_s) for packet in container.demux(streams[0]) if packet.size)


def _earlier(packet: Any, seconds: Fraction) -> Any:
    """The packet, so much sooner."""
    if seconds and packet.pts is not None:
        shift = round(seconds / Fraction(packet.time_base))
        packet.pts, packet.dts = packet.pts - shift, None if packet.dts is None else packet.dts - shift
    return packet


def _with_sound(container: Any, copied: Any, frames: Iterator[Any], sound: Iterator[Any]) -> Iterator[Any]:
    """The frames as they are; after each, the sound up to it is written, so that a player finds both close by."""
    packet = next(sound, None)
    for frame in frames:
        yield frame
        while packet is not None and (packet.dts or 0) * packet.time_base <= frame.pts * frame.time_base:
            packet = _copy_packet(container, copied, packet, sound)
    while packet is not None:
        packet = _copy_packet(container, copied, packet, sound)


def _copy_packet(container: Any, copied: Any, packet: Any, packets: Iterator[Any]) -> Any:
    packet.stream = copied
    container.mux(packet)
    return next(packets, None)


def _to_yuv(image: UInt8[np.ndarray, "h w 3"]) -> Any:
    height, width = image.shape[:2]
    even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(even, format="rgb24")
    # Written into the file as well: players guess BT.601 or BT.709 by the size of what says nothing. RGB is taken as
    # that of BT.709 in primaries and transfer too, as nearly all video is and `read_video` gives it without a change.
    return frame.reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG,
        dst_color_primaries=ColorPrimaries.BT709, dst_color_trc=ColorTrc.BT709,
    )  # fmt: skip


def _to_grey(codes: UInt16[np.ndarray, "h w"]) -> Any:
    return av.VideoFrame.from_ndarray(codes, format="gray16le")
