"""Files of MATLAB, version 5 to 7, looked at before SciPy reads them: a damaged type ends its process."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_HEADER_BYTES = 128
_MATRIX, _COMPRESSED = 14, 15
# miINT8 to miUINT32, miSINGLE, miDOUBLE, miINT64, miUINT64, miMATRIX and three of text (MAT-File Format, table 1-1).
_TYPES = {*range(1, 8), 9, 12, 13, _MATRIX, 16, 17, 18}

# Classes of arrays of text and of numbers, and the flag of complex ones.
_PLAIN, _IS_COMPLEX = {4, *range(6, 16)}, 0x800


def check_mat(path: Path, *, most_bytes: int) -> None:
    """See that the parts of the variables of a file have types that exist and end inside it.

    A file of version 4, which has no such parts, and one of another kind are left to who reads it.

    Args:
        path: the file.
        most_bytes: of a variable, unpacked.

    Raises:
        ValueError: one has not; of this and the two below `damage.reading` makes a message about the file.
        struct.error: the file is incomplete.
        zlib.error: a compressed variable is damaged.
    """
    data = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(data[126:_HEADER_BYTES])
    if order is None:
        return
    for kind, content in _elements(data[_HEADER_BYTES:], order):
        packed = _elements(_unpack(content, most_bytes), order) if kind == _COMPRESSED else [(kind, content)]
        for inner, matrix in packed:
            if inner != _MATRIX:
                raise ValueError("holds something else than variables")
            _check_parts(list(_elements(matrix, order)), order)


def _unpack(content: bytes, most_bytes: int) -> bytes:
    unpacking = zlib.decompressobj()
    unpacked = unpacking.decompress(content, most_bytes)
    if not unpacking.eof:
        raise ValueError("a variable is incomplete, or far too large")
    return unpacked


def _check_parts(parts: list[tuple[int, bytes]], order: str) -> None:
    if not all(kind in _TYPES for kind, _ in parts):
        raise ValueError("a variable has parts of types that do not exist")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1] if parts else b"")
    # Flags, sides, name and numbers, and of complex numbers a second part.
    if flags & 0xFF in _PLAIN and len(parts) != (5 if flags & _IS_COMPLEX else 4):
        raise ValueError("a variable has too few or too many parts")


def _elements(data: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """The type and the bytes of each element, one after another."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes stand in place of the size
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            after = at + 8
        else:
            start = at + 8
            # What is compressed is followed by the next variable without a gap.
            after = start + (size if kind == _COMPRESSED else -(-size // 8) * 8)
        if start + size > len(data) or (after - start < size):
            raise ValueError("a variable ends after the file")
        yield kind, data[start : start + size]
        at = after
