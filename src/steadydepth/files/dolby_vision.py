"""Whether a video file is Dolby Vision, and what its base layer is to a decoder that knows nothing of it."""

import re
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

from steadydepth.files.damage import refuse_pipe

# The record of a decoder's configuration: a box of an MP4, in Matroska the data after a type of that name.
_RECORD = re.compile(rb"dv[cvw]C(?:\x41\xed[\x80-\xff])?([\x01\x02].{4})", re.DOTALL)
_MOST_BOXES, _MOST_BYTES = 1000, 2**25
# What the base layer is, by the number of its compatibility in the record (Dolby Vision Streams Within the ISO Base
# Media File Format, 2.x); other numbers are what every decoder shows.
_LAYERS = {0: "own", 1: "PQ", 4: "HLG", 6: "PQ"}


def base_layer(path: Path) -> str | None:
    """What the base layer of a Dolby Vision file holds.

    Returns: `own` (profile 5: colours that only a decoder of Dolby Vision can show), `PQ`, `HLG` or `SDR`; None of any
        other file, or one that cannot be read.

    Raises:
        InputError: it is a pipe, a socket or a device.
    """
    refuse_pipe(path)
    try:
        stat = path.stat()
        return _base_layer(path, stat.st_size, stat.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _base_layer(path: Path, size: int, changed_ns: int) -> str | None:
    """Read once for each state of a file: training opens a video for every clip."""
    with path.open("rb") as file:
        record = _RECORD.search(_header(file))
    return None if record is None else _LAYERS.get(record[1][4] >> 4, "SDR")


def _header(file: BinaryIO) -> bytes:
    """What describes the streams: the box moov of an MP4, the beginning of a Matroska file."""
    start = file.read(12)
    if start[:4] == b"\x1aE\xdf\xa3":
        return start + file.read(2**20)
    if start[4:8] != b"ftyp":
        return b""
    at = 0
    for _ in range(_MOST_BOXES):
        file.seek(at)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        size = int.from_bytes(head[8:16], "big") if size == 1 else size
        if head[4:8] == b"moov":
            return file.read(min(size, _MOST_BYTES) if size else _MOST_BYTES)
        if size < 8:
            return b""
        at += size
    return b""
