"""One run, or one comparison, at a time in a folder, whoever starts it."""

import errno
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from steadydepth.errors import InputError
from steadydepth.files.locks import open_locked
from steadydepth.files.writing import writing_in

logger = logging.getLogger(__name__)
LOCK = ".lock"
# What a file system without locks answers: NFS without its daemon, Lustre without -o flock, some FUSE.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def alone_in(folder: Path, *, with_children: bool = False) -> Iterator[None]:
    """Lock `folder` against a second run; it is created if need be, and removed again if nothing was written into it.

    A launcher that is killed leaves its processes behind: they train on, and would overwrite the files of the next run.
    The lock ends with this process, however that ends.

    With `with_children` it stays until the last child process that inherits it has ended as well.

    Raises:
        InputError: another process holds the lock, or the folder cannot be written.
    """
    with ExitStack() as held:
        with writing_in(folder):
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            _hold(folder, held, with_children=with_children)
        try:
            yield
        finally:
            if is_new and [path.name for path in folder.glob("*")] == [LOCK]:
                if sys.platform == "win32":
                    held.close()  # no file that is open can be removed there
                shutil.rmtree(folder)


def _hold(folder: Path, held: ExitStack, *, with_children: bool) -> None:
    """Lock a folder until `held` is closed; a file system that has no locks is a warning."""
    try:
        lock = open_locked(folder / LOCK, with_children=with_children)  # else it would be the loaders' as well
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        logger.warning(
            "%s: the file system has no locks (%s): nothing keeps a second run out of this folder", folder, error
        )
        return
    if lock is None:
        raise InputError(f"{folder}: another process trains here: let it end, or stop it, and the same command resumes")
    held.callback(os.close, lock)
    os.set_inheritable(lock, with_children)
