"""Locks that live as long as a process: whoever comes after a server that was killed sees what it left at work."""

from pathlib import Path

from steadydepth.files.locks import open_locked

LOCK = "process.lock"


def lock_file(path: Path) -> int | None:
    """An open file with its lock, for as long as it is open anywhere; None where another process has it."""
    return open_locked(path, with_children=True, mode=0o600)
