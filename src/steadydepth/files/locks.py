"""Locks of files that end with the process that took them, however that ends."""

import os
import sys

if sys.platform == "win32":
    import msvcrt

    # Windows lets no other process read a byte that is locked: the one that we lock is far behind the end of the file.
    _BYTE = 1 << 30
else:
    import fcntl


def take_lock(number: int, *, with_children: bool) -> bool:
    """Lock an open file for as long as it is open; False where somebody else has it.

    On Windows child processes never keep a lock, and no second opening in this process gets it either.

    Args:
        number: the file descriptor, opened for writing.
        with_children: whether child processes that inherit the open file keep the lock; else only this process has it.

    Raises:
        OSError: the file system has no locks.
    """
    try:
        if sys.platform == "win32":
            os.lseek(number, _BYTE, os.SEEK_SET)
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)
        else:
            # The one is of the open file, and so of whoever inherits it; the other of the process.
            take = fcntl.flock if with_children else fcntl.lockf
            take(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True
