"""Names that stay inside their folder, and files and folders that appear complete or not at all."""

import glob
import json
import os
import re
import shutil
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steadydepth.errors import InputError
from steadydepth.files.locks import open_locked

_LOCK = ".lock"
_TRIES = 10
_MOST_BYTES = 255  # of the name of a file, on every common file system
_NOT_ON_WINDOWS = re.compile(
    r'(con|prn|aux|nul|(com|lpt)[0-9\xb9\xb2\xb3])(\.|$)|.*([<>:"|?*\0-\x1f]|[. ]$)', re.I | re.S
)


def check_name(name: str, root: Path) -> str:
    """`name` itself when it names one thing inside `root`.

    Raises:
        InputError: it climbs out, is empty, hidden or too long.
    """
    is_drive = re.match(r"[A-Za-z]:", name) is not None
    if not name.strip() or any(letter in name for letter in "/\\\0") or name.startswith(".") or is_drive:
        raise InputError(
            f"{name!r} is no name for something inside {root}: a name is not empty, has no slash, names no drive (c:) "
            "and does not begin with a dot: give a plain name such as kitchen_01"
        )
    if sys.platform == "win32" and _NOT_ON_WINDOWS.match(name):
        raise InputError(
            f'{name!r}: Windows takes no such name in {root}: it has none of < > : " | ? *, does not end in a dot or a '
            "space, and is no device (CON, NUL, COM1): rename what it is of"
        )
    if (length := _length(name)) > _MOST_BYTES:
        raise InputError(f"{name[:40]}...: a name of {length} bytes; {_MOST_BYTES} are the most: give a shorter one")
    return name


def _length(name: str) -> int:
    """How long a file system takes a name to be: NTFS counts letters, others bytes."""
    return len(name.encode("utf-16-le", "surrogatepass")) // 2 if sys.platform == "win32" else len(os.fsencode(name))


def check_folder(path: Path) -> None:
    """See that files can be written into `path`, a folder or one that can be made.

    Raises:
        InputError: it, or what it is to be in, is a file.
    """
    there = next((each for each in (path, *path.absolute().parents) if each.exists()), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{there} is a file, and {path} is to be a folder: choose another name, or move it away")


def check_file(path: Path) -> None:
    """See that a file can be written at `path`.

    Raises:
        InputError: it is a folder, or what it is to be in is a file.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder, and a file is to be written: give the name of a file in it")
    check_folder(path.parent)


def _temporary(final: Path) -> Path:
    # A sibling, so that the rename stays on one disk; hidden, so that a listing in the meantime does not find it;
    # the suffix is kept because encoders choose the container by it.
    return final.with_name(f".{_shortened(final.stem)}.{uuid.uuid4().hex[:8]}.part{final.suffix}")


def _shortened(name: str) -> str:
    """The beginning of a long name: with what is put around it, no file system would take it."""
    return os.fsencode(name)[:100].decode("utf-8", "ignore")  # a letter that is cut in two is left out


@contextmanager
def hidden_folder(root: Path, name: str) -> Iterator[Path]:
    """Where files of the output `name` are made before they are moved into `root`; it is removed at the end.

    Those that a process which was killed has left there are removed at the beginning.
    """
    root.mkdir(parents=True, exist_ok=True)
    for lock in root.glob(f".{glob.escape(_shortened(name))}.{'[0-9a-f]' * 8}.part{_LOCK}"):
        with _locked(lock) as is_free:
            if is_free:
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
        if is_free:
            _remove_lock(lock)
    folder = root / f".{_shortened(name)}.{uuid.uuid4().hex[:8]}.part"
    lock = folder.with_name(folder.name + _LOCK)
    try:
        with _locked(lock):  # before the folder is there, so that nobody takes it for one that was left
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_lock(lock)


def _remove_lock(lock: Path) -> None:
    """Remove a lock that is closed, unless its folder is still there: then whoever comes next removes both.

    Windows keeps files that are open somewhere: those of the folder, or the lock while another process looks whose it
    is.
    """
    if not lock.with_suffix("").exists():
        with suppress(PermissionError):
            lock.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Whether the lock is ours; it ends with the process. Where there are no locks it is nobody's."""
    lock = None
    with suppress(OSError):  # a file system without locks
        lock = open_locked(path, with_children=True)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def new_folder(final: Path, *, rename: Callable[[], Path] | None = None) -> Iterator[Path]:
    """A temporary folder beside `final`, renamed to it when the block ends and removed when the block fails.

    With `rename` to what that says when the block has ended. InputError when it exists, at the beginning and again at
    the end.
    """
    _refuse_existing(final)
    part = _temporary(final)
    part.mkdir(parents=True)
    try:
        yield part
        chosen = final if rename is None else rename()
        _refuse_existing(chosen)
        move(part, chosen)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


@contextmanager
def new_file(final: Path) -> Iterator[Path]:
    """A temporary path beside `final`, moved over it when the block ends and removed when the block fails."""
    final.parent.mkdir(parents=True, exist_ok=True)
    part = _temporary(final)
    try:
        yield part
        # On the disk before the name: after a power cut the name has the old file or the new one, never half of one.
        with part.open("r+b") as written:  # Windows asks for the right to write
            os.fsync(written.fileno())
        move(part, final)
    finally:
        part.unlink(missing_ok=True)


def move(path: Path, final: Path) -> None:
    """Give a file or a folder another name on the same disk; a file that has it is replaced.

    On Windows it is tried for a second: a virus scanner or an indexer has what is new open for a moment.

    Raises:
        PermissionError: there is no right to it, or on Windows somebody has one of both open.
    """
    for tries_left in reversed(range(_TRIES if sys.platform == "win32" else 1)):
        try:
            path.replace(final)
            return
        except PermissionError:
            if tries_left == 0:
                raise
            time.sleep(1 / _TRIES)


def let_others_read(path: Path) -> None:
    """Give a file the rights of any new one in its folder.

    What a library writes through a temporary file of its own, as safetensors 0.8 does, is its owner's alone.
    """
    plain = _temporary(path)
    plain.touch()
    try:
        path.chmod(stat.S_IMODE(plain.stat().st_mode))
    finally:
        plain.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, complete or not at all."""
    with new_file(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write `content` as JSON, complete or not at all; NaN and infinity are refused, None becomes null."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _refuse_existing(final: Path) -> None:
    if final.exists() or final.is_symlink():
        raise InputError(f"{final} exists and is never overwritten: choose another name, or move it away")
