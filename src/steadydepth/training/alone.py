"""One run at a time in a folder, whoever starts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadydepth.errors import InputError
from steadydepth.training.checkpoint import writing_in


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold `folder`, made if need be, against a second run; InputError where another process holds it.

    A launcher that is killed leaves its processes behind: they train on, and would write over who comes after. The
    lock is of this process alone, not of its loader processes, and falls with it however that ends.
    """
    import fcntl

    with writing_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"{folder}: another process trains here: let it end, or stop it, and the same command goes on"
            ) from None
        yield
