"""What the server remembers of uploads and jobs, in SQLite. To keep it elsewhere, replace this file."""

import json
import sqlite3
import threading
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from steadydepth.errors import InputError

UploadState = Literal["receiving", "checking", "ready", "refused"]
JobState = Literal["queued", "running", "cancelling", "finished", "failed", "cancelled"]
OVER: tuple[JobState, ...] = ("finished", "failed", "cancelled")
# Of the layout of the tables; a file of another one is refused.
_LAYOUT = 1


@dataclass(frozen=True)
class Upload:
    """A file on its way to the server, or there."""

    id: str
    name: str  # as its owner calls it; never a path
    size: int  # bytes
    sha256: str | None  # of all of it, where the sender gave it
    owner: str
    created: float  # seconds since 1970
    received: int = 0  # bytes that count: checked, and on the disk
    state: UploadState = "receiving"
    message: str = ""  # why it was refused
    sequences: tuple[str, ...] = ()  # found in it


@dataclass(frozen=True)
class Job:
    """A training, and where it stands."""

    id: str
    kind: str
    name: str
    owner: str
    created: float  # seconds since 1970
    model: str | None = None  # that it starts from
    uploads: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    state: JobState = "queued"
    started: float | None = None
    ended: float | None = None
    step: int = 0  # of the last line of its log when it was lost last
    losses: int = 0  # how often its process was lost since it last got on
    message: str = ""


Row = TypeVar("Row", Upload, Job)
# Columns that SQLite cannot hold as they are.
_AS_JSON = ("uploads", "settings", "sequences")


class Store:
    """Uploads and jobs in one file; each change is on the disk when its call returns.

    Args:
        path: of the file, created if need be; `:memory:` keeps nothing.

    Raises:
        InputError: the file was written by another version, or is none of ours.
    """

    def __init__(self, path: Path | str) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.row_factory = sqlite3.Row
        try:
            layout = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if layout not in (0, _LAYOUT):
                raise InputError(f"{path}: written by another version of the server: start with another folder")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            for kind in (Upload, Job):
                columns = ", ".join(each.name + " PRIMARY KEY" * (each.name == "id") for each in fields(kind))
                self._connection.execute(f"CREATE TABLE IF NOT EXISTS {kind.__name__} ({columns})")
            self._connection.execute(f"PRAGMA user_version = {_LAYOUT}")
        except InputError:
            self._connection.close()
            raise
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise InputError(f"{path}: no store of the server ({error}): start with another folder") from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def add(self, row: Upload | Job) -> None:
        """Remember a new upload or job."""
        values = _packed(asdict(row))
        with self._lock:
            self._connection.execute(
                f"INSERT INTO {type(row).__name__} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",
                tuple(values.values()),
            )

    def get(self, kind: type[Row], id: str) -> Row | None:
        """The upload or job of that number; None where there is none."""
        found = self._select(kind, "WHERE id = ?", id)
        return found[0] if found else None

    def all(self, kind: type[Row]) -> list[Row]:
        """All uploads or jobs, the oldest first."""
        return self._select(kind, "ORDER BY created, id")

    def change(self, row: Row, **values: Any) -> Row | None:
        """Change an upload or job as long as it is in the state of `row`; None where it no longer is."""
        packed: dict[str, Any] = _packed(values)
        columns = ", ".join(f"{name} = ?" for name in packed)
        with self._lock:
            done = self._connection.execute(
                f"UPDATE {type(row).__name__} SET {columns} WHERE id = ? AND state = ?",
                (*packed.values(), row.id, row.state),
            )
        return replace(row, **values) if done.rowcount else None

    def remove(self, row: Upload | Job) -> None:
        """Forget an upload or a job."""
        with self._lock:
            self._connection.execute(f"DELETE FROM {type(row).__name__} WHERE id = ?", (row.id,))

    def _select(self, kind: type[Row], clause: str, *values: str) -> list[Row]:
        with self._lock:
            rows = self._connection.execute(f"SELECT * FROM {kind.__name__} {clause}", values).fetchall()
        return [kind(**_unpacked(dict(row))) for row in rows]


def _packed(values: dict[str, Any]) -> dict[str, Any]:
    return {name: json.dumps(value) if name in _AS_JSON else value for name, value in values.items()}


def _unpacked(values: dict[str, Any]) -> dict[str, Any]:
    found = {name: json.loads(value) if name in _AS_JSON else value for name, value in values.items()}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in found.items()}
