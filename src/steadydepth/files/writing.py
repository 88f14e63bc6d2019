"""A disk that is full, or that may not be written to, told apart from other errors and explained."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from steadydepth.errors import InputError


@contextmanager
def writing_in(folder: Path) -> Iterator[None]:
    """Explain the error of a disk that is full or that we may not write to; others pass.

    Raises:
        InputError: the disk is full, or writing is not allowed.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch.save raises an error of its own over the one of the disk.
        cause = error if isinstance(error, (OSError, SafetensorError)) else error.__context__
        if not isinstance(cause, (OSError, SafetensorError)):
            raise
        raise InputError(
            f"{folder}: cannot be written: {cause}. What was written before is complete: make room, or get the "
            "right to write there, and the same command resumes from the last checkpoint"
        ) from error
