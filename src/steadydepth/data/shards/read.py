"""Many sequences in few tar files: an index says where each image lies, and reading goes straight there."""

import io
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from steadydepth.data.sequence_meta import SequenceMeta
from steadydepth.data.shards.store import read_range, read_whole, url_of
from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import check_name
from steadydepth.files.damage import reading
from steadydepth.files.image_formats import size_fault

INDEX, MEMBERS = "index.json", "members.npy"
# What a member may hold; a row of the index says it by its place here.
KINDS = ("rgb", "depth", "objects", "flow", "valid", "motion")
# A row of members.npy: those of a sequence follow one another, frame by frame, as the members do in the tar.
ROW = np.dtype(
    [("kind", "u1"), ("frame", "<u4"), ("shard", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("crc32", "<u4")]
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardEntry(_Part):
    """A tar file of a pack."""

    name: str
    size: int = Field(ge=0, lt=2**63, description="Bytes of the tar file.")


class SequenceEntry(_Part):
    """A sequence of a pack: its size in frames and pixels, and which rows of members.npy are its own."""

    name: str
    n_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    first_row: int = Field(ge=0, description="Of members.npy.")
    n_rows: int = Field(ge=1)
    cuts: tuple[int, ...] = Field((), description="Frames that begin a new shot of it, in ascending order.")
    meta: SequenceMeta


class Index(_Part):
    """What index.json of a pack says."""

    version: int = Field(1, ge=1, le=2, description="2 where a sequence has cuts, which readers of 1 do not know.")
    members_crc32: int
    shards: tuple[ShardEntry, ...]
    sequences: tuple[SequenceEntry, ...]


@dataclass(frozen=True, eq=False)
class Pack:
    """A folder or URL of shards, its index read."""

    root: Path
    index: Index
    rows: np.ndarray  # of ROW
    sequences: dict[str, SequenceEntry]
    changed_ns: int | None  # when its index was, of a folder


@dataclass(frozen=True, slots=True)
class Member:
    """One image of a pack, read like a file."""

    pack: Pack
    sequence: str
    row: int

    def __str__(self) -> str:
        row = self.pack.rows[self.row]
        shard = self.pack.root / self.pack.index.shards[int(row["shard"])].name
        return f"{url_of(shard) or shard}: {self.sequence}/{int(row['frame']):04d}.{KINDS[int(row['kind'])]}"

    def read_bytes(self) -> bytes:
        """Its bytes.

        Raises:
            InputError: the shard is missing, cut short or altered; shard and member are named.
        """
        row = self.pack.rows[self.row]
        size, path = int(row["size"]), self.pack.root / self.pack.index.shards[int(row["shard"])].name
        with reading(self, "from its shard", "copy the shard again"):
            data = read_range(path, int(row["offset"]), size, version=self.pack.changed_ns)
        if len(data) < size:
            raise InputError(f"{self}: the shard is cut short; copy it again, or pack again")
        if zlib.crc32(data) != int(row["crc32"]):
            raise InputError(
                f"{self}: altered since it was packed, says its checksum; copy the shard again, or pack again"
            )
        return data


class Members(Mapping[int, Member]):
    """The members of one kind of a sequence by frame; each is made when asked for, so that millions cost no memory.

    Args:
        pack: that holds them.
        entry: of the sequence.
        kind: one of KINDS.
    """

    def __init__(self, pack: Pack, entry: SequenceEntry, kind: str) -> None:
        rows = pack.rows[entry.first_row : entry.first_row + entry.n_rows]
        at = np.flatnonzero(rows["kind"] == KINDS.index(kind))
        self._pack, self._name, self._frames, self._rows = pack, entry.name, rows["frame"][at], at + entry.first_row

    def __getitem__(self, frame: int) -> Member:
        place = int(np.searchsorted(self._frames, frame))
        if place == len(self._frames) or self._frames[place] != frame:
            raise KeyError(frame)
        return Member(self._pack, self._name, int(self._rows[place]))

    def __iter__(self) -> Iterator[int]:
        return (int(frame) for frame in self._frames)

    def __len__(self) -> int:
        return len(self._frames)


def find_pack(root: Path) -> Pack | None:
    """The pack in the folder or behind the URL `root`, or None; InputError when its index is damaged."""
    if url_of(root) is not None:
        return _read_pack(root, None)
    path = root / INDEX
    return _read_pack(root, path.stat().st_mtime_ns) if path.is_file() else None


def find_packed(path: Path) -> tuple[Pack, SequenceEntry] | None:
    """The sequence `path` of the pack above it; None when that is no pack or has no such sequence."""
    pack = find_pack(path.parent)
    return (pack, pack.sequences[path.name]) if pack is not None and path.name in pack.sequences else None


@lru_cache(maxsize=16)
def _read_pack(root: Path, changed_ns: int | None) -> Pack | None:
    where = url_of(root / INDEX) or str(root / INDEX)
    try:
        text = read_whole(root / INDEX)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error}): check the address, and that it may be read") from error
    try:
        index = Index.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{where}: no index of shards ({place}: {first['msg']}); pack the sequences again") from error
    rows = _read_rows(root, index, where)
    if fault := _fault(root, index, rows):
        raise InputError(f"{where}: {fault}; copy {INDEX} and {MEMBERS} again, or pack the sequences again")
    return Pack(root, index, rows, {entry.name: entry for entry in index.sequences}, changed_ns)


def _read_rows(root: Path, index: Index, where: str) -> np.ndarray:
    beside = f"{where}: {MEMBERS} beside it"
    with reading(beside, "as a table of members", "copy it again, or pack again"):
        data = read_whole(root / MEMBERS)
        if zlib.crc32(data) != index.members_crc32:
            raise InputError(f"{beside} is cut short, altered or of another packing; copy both again")
        rows = np.load(io.BytesIO(data), allow_pickle=False)
    return rows if rows.dtype == ROW and rows.ndim == 1 else np.zeros(0, ROW)


def _fault(root: Path, index: Index, rows: np.ndarray) -> str | None:
    """What in an index does not hold together, so that reading by it stays inside the shards."""
    for name in (*(shard.name for shard in index.shards), *(sequence.name for sequence in index.sequences)):
        check_name(name, root)
    if len({entry.name for entry in index.sequences}) < len(index.sequences):
        return "two sequences of one name"
    if any(entry.first_row + entry.n_rows > len(rows) for entry in index.sequences):
        return f"asks for more rows than {MEMBERS} has"
    for entry in index.sequences:
        if fault := size_fault(entry.height, entry.width):
            return f"{entry.name}: {fault}"
        own = rows[entry.first_row : entry.first_row + entry.n_rows]
        if not np.array_equal(own["frame"][own["kind"] == KINDS.index("rgb")], np.arange(entry.n_frames)):
            return f"{entry.name}: its rows of {MEMBERS} are not its frames in order"
    borders = (pairwise((0, *entry.cuts, entry.n_frames)) for entry in index.sequences)
    if any(start >= stop for of_sequence in borders for start, stop in of_sequence):
        return "cuts that are no frames of their sequence in ascending order"
    if rows["kind"].max(initial=0) >= len(KINDS) or rows["shard"].max(initial=0) >= len(index.shards):
        return f"{MEMBERS} names a kind or a shard that does not exist"
    sizes = np.array([shard.size for shard in index.shards], np.uint64)
    if np.any(rows["offset"] > sizes[rows["shard"]]) or np.any(rows["size"] > sizes[rows["shard"]] - rows["offset"]):
        return f"{MEMBERS} reaches beyond the end of a shard"
    return None
