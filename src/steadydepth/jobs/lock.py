"""Locks that live as long as a process: whoever comes after a server that was killed sees what it left at work."""

import fcntl
import os
from pathlib import Path

LOCK = "process.lock"


def lock_file(path: Path) -> int | None:
    """An open file with its lock, for as long as it is open anywhere; None where another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file
