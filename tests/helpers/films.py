"""Films of the tests: what a camera sees that moves along a wall, and videos as encoders of all kinds write them."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np


def pan(seed: int, n_frames: int, height: int, width: int, *, step: int = 2) -> np.ndarray:
    """A camera that moves `step` pixels a frame along a blurred random wall."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 24, 3), dtype=np.uint8)
    wall = cv2.resize(small, (4 * width, height), interpolation=cv2.INTER_CUBIC)
    return np.stack([wall[:, step * number : step * number + width] for number in range(n_frames)])


def encode(
    path: Path,
    frames: Sequence[np.ndarray] | np.ndarray,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    rate: int = 25,
    times: Sequence[int] | None = None,
    unit: Fraction | None = None,
    format: str | None = None,
    movflags: str = "",
    prepare: Callable[[av.VideoStream], None] = lambda stream: None,
    **options: str,
) -> Path:
    """RGB frames as a video, `rate` a second, or each at one of `times` in `unit` seconds; `options` of the codec."""
    unit = unit or Fraction(1, rate)
    with av.open(str(path), "w", format=format, options={"movflags": movflags} if movflags else {}) as file:
        stream = file.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pix_fmt
        stream.codec_context.time_base = unit
        prepare(stream)
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = number if times is None else times[number], unit
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def set_display_matrix(video: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write (a b; c d) into the track header of an MP4, as a phone does that is held in another way."""
    data = video.read_bytes()
    at = data.index(b"tkhd") + 44
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    video.write_bytes(data[:at] + b"".join(part.to_bytes(4, "big", signed=True) for part in matrix) + data[at + 36 :])
    return video


def write_turned(path: Path) -> Path:
    """Six frames of 48 x 64, then six of 64 x 48, as a phone sends them that is turned."""
    raw = path.with_suffix(".h264")
    frames = pan(1, 6, 48, 64)
    parts = [encode(raw, part, bf="0").read_bytes() for part in (frames, frames.swapaxes(1, 2))]
    raw.write_bytes(b"".join(parts))
    with av.open(str(raw)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(one for one in old.demux(video=0) if one.size):
            packet.pts = packet.dts = 40 * number
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            new.mux(packet)
    raw.unlink()
    return path
