"""Bytes by offset: of files on a disk, and behind a URL through fsspec."""

import os
import re
import sys
import threading
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from steadydepth.errors import InputError
from steadydepth.files.damage import refuse_pipe

# A path writes the // of a URL as one; a letter alone before the colon is a drive.
_URL = re.compile(r"^([a-z][a-z0-9+.-]+):/(?=[^/])")
# Behind a URL a request costs more than the bytes of a clip: those around it come along, and up to 64 MiB are kept.
_BLOCK = 2**22
_MOST_BLOCKS = 16
_MOST_OPEN = 64


def url_of(path: PurePath) -> str | None:
    """The URL that `path` was made from, such as s3://bucket/data; None when it is a plain path."""
    url, found = _URL.subn(r"\1://", path.as_posix())
    return url if found else None


def read_whole(path: Path) -> bytes:
    """All bytes of a file; FileNotFoundError when there is none, InputError when it is a pipe or a device."""
    url = url_of(path)
    if url is None:
        refuse_pipe(path)
        return path.read_bytes()
    file_system, there = _file_system(url)
    return file_system.cat_file(there)


def read_range(path: Path, start: int, size: int, *, version: int | None = None) -> bytes:
    """The bytes of a part of a file or URL, or as many of them as there are.

    Args:
        path: a file, or a URL as `url_of` knows it.
        start: the first byte.
        size: number of bytes.
        version: of the file, which stays open; another one opens what is there now.

    Raises:
        FileNotFoundError: there is no file.
        InputError: it is a pipe, a socket or a device.
    """
    url, process = url_of(path), os.getpid()
    if url is None:
        return _opened(path, version, process).read(start, size)
    first, last = start // _BLOCK, (start + size - 1) // _BLOCK
    blocks = b"".join(_block(url, number, process) for number in range(first, last + 1))
    return blocks[start - first * _BLOCK :][:size]


class _Opened:
    """A file that stays open as long as somebody holds this; reading at an offset moves nothing that others share."""

    def __init__(self, path: Path) -> None:
        refuse_pipe(path)
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))  # Windows ends text at a byte 26
        self._turn = threading.Lock()

    def read(self, start: int, size: int) -> bytes:
        if sys.platform != "win32":
            return os.pread(self.number, size, start)
        with self._turn:  # a seek and a read, which threads must not mix
            os.lseek(self.number, start, os.SEEK_SET)
            return os.read(self.number, size)

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


@lru_cache(maxsize=_MOST_OPEN)
def _opened(path: Path, version: int | None, process: int) -> _Opened:
    return _Opened(path)


# The process is a part of the key: connections do not survive a fork.
@lru_cache(maxsize=_MOST_BLOCKS)
def _block(url: str, number: int, process: int) -> bytes:
    file_system, there = _file_system(url)
    block: bytes = file_system.cat_file(there, start=number * _BLOCK, end=(number + 1) * _BLOCK)
    if len(block) > _BLOCK:
        raise InputError(
            f"{url}: the server sends complete files where a range is asked for: use one that serves ranges"
        )
    return block


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    try:
        file_system, there = url_to_fs(url)
    except (ImportError, ValueError) as error:  # the package of a protocol is missing, or nobody knows the protocol
        raise InputError(f"{url}: cannot be opened ({error}): install what it names, or check the address") from error
    return file_system, there
