"""What libraries raise for a file that is damaged or of another kind becomes one message about that file."""

import csv
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from steadydepth.errors import InputError

_MOST_LETTERS = 200
# Of NumPy, Pillow, json, zipfile, zlib, h5py and SciPy.
UNREADABLE = (
    *(OSError, TypeError, ValueError, AttributeError, RuntimeError, EOFError, LookupError, UnboundLocalError),
    *(SyntaxError, ArithmeticError, MemoryError, tokenize.TokenError, struct.error, zipfile.BadZipFile),
    *(csv.Error, zlib.error),
)


def short(what: object) -> str:
    """What an error or a damaged header says, on one line, its beginning."""
    text = " ".join(str(what).split()) or type(what).__name__
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]}..."


def refuse_pipe(path: object) -> None:
    """Refuse a path at which there is something else than a file or a folder: what reads it may wait without end.

    Raises:
        InputError: a pipe, a socket or a device is there.
    """
    if not isinstance(path, Path):
        return
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # nothing is there, or it may not be seen: what reads it says so
        return
    if not (S_ISREG(mode) or S_ISDIR(mode)):
        raise InputError(f"{path}: is a pipe, a socket or a device: remove it, or put a file in its place")


@contextmanager
def reading(where: object, kind: str, way_out: str = "copy it again", *more: type[Exception]) -> Iterator[None]:
    """What is raised inside because a file is missing, damaged or of another kind becomes an InputError.

    Args:
        where: the file, as the error names it; a path is refused before it is opened where no file is there.
        kind: what it cannot be read as, such as: as text.
        way_out: what to do.
        more: further errors of the library that reads it.

    Raises:
        InputError: the file cannot be read, or is a pipe, a socket or a device; one that is raised inside passes as it
            is.
    """
    faults: tuple[type[Exception], ...] = (*UNREADABLE, *more)
    try:
        refuse_pipe(where)
        yield
    except InputError:
        raise
    except faults as error:
        raise InputError(f"{where}: cannot be read {kind} ({short(error)}): {way_out}") from error
