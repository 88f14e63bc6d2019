"""Lossless images that decode several times faster than PNG: rows less the row above, coded by Zstandard.

A file is a Zstandard stream: the header of the image in a skippable frame (RFC 8878), which every tool steps over, and
the rows. Files of before have the header alone in its place, and are read as well.
"""

import struct
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from steadydepth.errors import import_extra
from steadydepth.files.image_formats import MOST_PIXELS

_SIGNATURE = b"\x89SDR"
# Of Zstandard; 3 packs video frames no smaller, and unpacks them a third slower.
_LEVEL = 1
# Signature, bytes of a value, channels, whether the channels are differences to the middle one, height, width.
_HEADER = struct.Struct("<4sBB?xII")
_SKIPPABLE = struct.pack("<II", 0x184D2A50, _HEADER.size)


def is_packed(data: bytes) -> bool:
    """Whether bytes begin as those of `encode_image`, of now or of before."""
    return data.startswith((_SKIPPABLE + _SIGNATURE, _SIGNATURE))


def encode_image(image: np.ndarray) -> bytes:
    """`image`, uint8 or uint16 of shape (h, w) or (h, w, 3), in few bytes; `decode_image` gives back the same."""
    height, width = image.shape[:2]
    # A row of each channel after another: they lie in memory as they are decoded, row by row.
    rows = np.ascontiguousarray(np.atleast_3d(image).transpose(0, 2, 1))
    channels = rows.shape[1]
    coded = [(False, _compress(rows))]
    if channels == 3:
        # Colours change together, but for the noise of a sensor: what is shorter is kept.
        differences = np.stack((rows[:, 0] - rows[:, 1], rows[:, 1], rows[:, 2] - rows[:, 1]), axis=1)
        coded.append((True, _compress(differences)))
    differs, data = min(coded, key=lambda one: len(one[1]))
    return _SKIPPABLE + _HEADER.pack(_SIGNATURE, image.itemsize, channels, differs, height, width) + data


def decode_image(data: bytes) -> np.ndarray:
    """The image that was encoded; ValueError saying what is wrong with `data`."""
    itemsize, channels, differs, height, width = _header(data)
    rows = _decompress(memoryview(data)[_start(data) + _HEADER.size :], itemsize, (height, channels, width))
    for above, row in pairwise(rows):
        row += above
    if differs:
        rows[:, 0] += rows[:, 1]
        rows[:, 2] += rows[:, 1]
    return rows[:, 0] if channels == 1 else cv2.merge([rows[:, channel] for channel in range(3)])


def _start(data: bytes) -> int:
    """Where the header stands."""
    return len(_SKIPPABLE) if data.startswith(_SKIPPABLE) else 0


def _header(data: bytes) -> tuple[int, int, bool, int, int]:
    start = _start(data)
    if len(data) < start + _HEADER.size or not is_packed(data):
        raise ValueError("no header of such an image")
    _, itemsize, channels, differs, height, width = _HEADER.unpack_from(data, start)
    if itemsize not in (1, 2) or channels not in (1, 3):
        raise ValueError(f"says that it has {channels} channels of {itemsize} bytes; 1 or 3, of 1 or 2, can be read")
    if not 0 < height * width <= MOST_PIXELS:
        raise ValueError(f"says that it is {height} x {width} pixels, of which there are 1 to {MOST_PIXELS}")
    if differs and channels == 1:
        raise ValueError("says that its one channel is a difference of colours")
    return itemsize, channels, differs, height, width


def _compress(rows: np.ndarray) -> bytes:
    change = rows.copy()
    change[1:] -= rows[:-1]
    if change.itemsize == 2:
        # Small changes of both signs become small numbers, whose high bytes are zeros: those stand by themselves.
        signed = change.view(np.int16)
        folded = ((signed << 1) ^ (signed >> 15)).view(np.uint16)
        change = np.stack((folded & 255, folded >> 8)).astype(np.uint8)
    return _zstandard().ZstdCompressor(level=_LEVEL).compress(change.tobytes())


def _decompress(data: memoryview, itemsize: int, shape: tuple[int, int, int]) -> np.ndarray:
    """The changes from row to row, (h, c, w)."""
    zstd, size = _zstandard(), itemsize * int(np.prod(shape, dtype=np.int64))
    try:
        # What the stream promises is asked first: nothing is unpacked that is larger than the header says.
        if zstd.frame_content_size(data) != size:
            raise ValueError(f"unpacks to {zstd.frame_content_size(data)} bytes where its header says {size}")
        values = np.frombuffer(zstd.decompress(data), np.uint8)
    except zstd.ZstdError as error:
        raise ValueError(f"cannot be unpacked ({error})") from error
    if itemsize == 1:
        return values.reshape(shape).copy()
    # OpenCV puts the two bytes of a value side by side ten times as fast as shifting and adding them.
    folded = cv2.merge(list(values.reshape(2, -1, shape[2]))).view("<u2").reshape(shape)
    odd = folded & 1
    folded >>= 1
    folded ^= np.negative(odd, out=odd)
    return folded


def _zstandard() -> Any:
    return import_extra("zstandard", "shards", "images packed as zst need Zstandard")
