"""Whether a video file holds all that it promises: FFmpeg ends a truncated one without a word."""

from pathlib import Path
from typing import Any

from steadydepth.errors import InputError


class PacketCheck:
    """Sees the packets of a stream, and says at the end whether all were there that the file promises.

    Args:
        path: the video, for messages; a URL as text.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path
        self.n_packets = 0
        self.first, self.last, self.end = 0, 0, 0  # in the time base of the stream

    def see(self, packet: Any) -> None:
        """The next packet.

        Raises:
            InputError: it is damaged.
        """
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
        """See that all came.

        Args:
            container: of PyAV, that was read to its end.
            stream: of the packets.
            is_from_start: whether its first packet was seen.

        Raises:
            InputError: less came out of the file than it promises.
        """
        unit_s = float(stream.time_base)
        frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
        if "mp4" in container.format.name:
            promised_s = float((stream.duration or 0) * unit_s)
        else:
            promised_s = _seconds(stream.metadata.get("DURATION", "")) or stream.frames * frame_s
        if self.n_packets > 1:  # the rate of the header may be the tick of a clock
            frame_s = max(frame_s, (self.last - self.first) * unit_s / (self.n_packets - 1))
        is_short = is_from_start and says_its_length(container, stream) and self.n_packets < stream.frames
        if container.format.name == "gif" and isinstance(self.path, Path):
            # It promises no length, but ends with a semicolon, and perhaps zeros.
            with self.path.open("rb") as file:
                file.seek(max(0, self.path.stat().st_size - 64))
                is_short = not file.read().rstrip(b"\0").endswith(b";")
        if is_short or self.end * unit_s < promised_s - 2 * frame_s:
            raise InputError(f"{self.path}: truncated; it ends too early: copy or encode it again")


def says_its_length(container: Any, stream: Any) -> bool:
    """Whether the header's number of frames can be trusted: an edit list hides frames that it counts.

    Args:
        container: of PyAV, open.
        stream: of video, in it.
    """
    if "mp4" not in container.format.name or not stream.frames or not stream.duration or not stream.average_rate:
        return False
    return abs(float(stream.duration * stream.time_base * stream.average_rate) - stream.frames) < 0.5


def _seconds(clock: str) -> float:
    """Seconds of Matroska's 00:00:02.000000000, 0 when there is none."""
    try:
        hours, minutes, seconds = clock.split(":") if clock.count(":") == 2 else ("0", "0", "0")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0
