"""Locks that live as long as a process: whoever comes after a server that was killed sees what it left at work."""

import os
from pathlib import Path

from steadydepth.files.locks import take_lock

LOCK = "process.lock"


def lock_file(path: Path) -> int | None:
    """An open file with its lock, for as long as it is open anywhere; None where another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    if take_lock(file, with_children=True):
        return file
    os.close(file)
    return None
