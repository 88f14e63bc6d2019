"""What requests about uploads and jobs have in common: who may see which, and how mistakes are answered."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import HTTPException

from steadydepth.errors import InputError
from steadydepth.jobs.queue import Jobs
from steadydepth.jobs.store import Job, Row, Upload
from steadydepth.serving.access import requires
from steadydepth.serving.tokens import Identity

Who = Annotated[Identity, requires("train")]
Id = Annotated[str, "the number that the server gave it"]


def is_of(row: Upload | Job, who: Identity) -> bool:
    """Whether they may see it: what is theirs, and admins all."""
    return row.owner == who.name or who.may("admin")


def find(jobs: Jobs, kind: type[Row], id: str, who: Identity) -> Row:
    """The upload or job of that number, for a request of theirs.

    Args:
        jobs: where it is kept.
        kind: `Upload` or `Job`.
        id: its number.
        who: asks.

    Raises:
        HTTPException: 404, there is none, or none of theirs.
    """
    row = jobs.store.get(kind, id)
    if row is None or not is_of(row, who):
        raise HTTPException(404, f"no such {kind.__name__.lower()}")
    return row


@contextmanager
def conflicts() -> Iterator[None]:
    """Answer an InputError from within, of what is not in the state for it, with 409 in place of the usual 422."""
    try:
        yield
    except InputError as error:
        raise HTTPException(409, str(error)) from error
