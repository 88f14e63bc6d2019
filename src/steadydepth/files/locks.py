"""Locks of files that end with the process that took them, however that ends."""

import os
import sys
from pathlib import Path

if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _GENERIC_WRITE, _FILE_SHARE_READ, _OPEN_ALWAYS, _SHARING_VIOLATION = 0x40000000, 1, 4, 32
    _INVALID = ctypes.c_void_p(-1).value
    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = wintypes.HANDLE
    _create_file.argtypes = (
        wintypes.LPCWSTR, wintypes.DWORD, wintypes.DWORD, wintypes.LPVOID,
        wintypes.DWORD, wintypes.DWORD, wintypes.HANDLE,
    )  # fmt: skip
else:
    import fcntl


def open_locked(path: Path, *, with_children: bool, mode: int = 0o666) -> int | None:
    """Open a file, which is created if need be, and lock it for as long as it is open; None where somebody else has it.

    Others can read it. No child process inherits it unless `os.set_inheritable` says so. On Windows one that does keeps
    the lock in any case, and no second opening in this process gets it.

    Args:
        path: of the file.
        with_children: whether child processes that inherit the open file keep the lock; else only this process has it.
        mode: the rights of a new file, as those of `os.open`.

    Returns: the file descriptor, which is the caller's to close.

    Raises:
        OSError: the file cannot be opened, or the file system has no locks.
    """
    if sys.platform == "win32":
        # So that nobody else can open it for writing: locks of bytes are not inherited, open files are.
        handle = _create_file(str(path), _GENERIC_WRITE, _FILE_SHARE_READ, None, _OPEN_ALWAYS, 0, None)
        if handle != _INVALID:
            return msvcrt.open_osfhandle(handle, os.O_APPEND)
        if (code := ctypes.get_last_error()) == _SHARING_VIOLATION:
            return None
        raise OSError(None, ctypes.FormatError(code), str(path), code)
    else:  # noqa: RET506 (what mypy leaves out as on Windows)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, mode)
        # The one is of the open file, and so of whoever inherits it; the other of the process.
        take = fcntl.flock if with_children else fcntl.lockf
        try:
            take(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError | PermissionError):
                return None
            raise
        return file
