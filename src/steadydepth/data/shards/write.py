"""Sequences into shards: the tar files, and the index that says where each image lies."""

import io
import json
import math
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from steadydepth.data.clips import fit_clip
from steadydepth.data.cuts import Shots
from steadydepth.data.sequence_folder import Sequence, find_sequences, open_sequence
from steadydepth.data.sequence_listing import LABELS
from steadydepth.data.sequence_meta import SequenceMeta
from steadydepth.data.shards.read import INDEX, KINDS, MEMBERS, ROW
from steadydepth.errors import InputError, failure, import_extra
from steadydepth.files.atomic_writes import new_folder
from steadydepth.files.images import encode_flow, encode_png
from steadydepth.files.packed_images import encode_image
from steadydepth.ops.bidirectional_flow import backward_from_frames
from steadydepth.ops.resize import shrunk_size
from steadydepth.types import Clip

Images = dict[str, np.ndarray]  # by kind, as they are stored: depth and flow as 16-bit codes
ENCODERS: dict[str, Callable[[np.ndarray], bytes]] = {"zstd": encode_image, "png": encode_png}


@dataclass
class _Shards:
    """The tar files being written, one after another, and where every member of them lies."""

    folder: Path
    shard_size: int
    sizes: list[int] = field(default_factory=list)
    rows: list[tuple[int, ...]] = field(default_factory=list)
    _tar: tarfile.TarFile | None = None
    _file: IO[bytes] | None = None

    def add(self, sequence: str, frame: int, images: dict[str, bytes], codec: str) -> None:
        """Write what belongs to one frame; all of it lies in one shard."""
        if self._tar is None or self._tar.offset >= self.shard_size:
            self.close()
            self._tar = self._open(0)
        for kind, data in images.items():
            member = tarfile.TarInfo(f"{sequence}/{frame:04d}.{kind}.{codec}")
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))
            padded = math.ceil(len(data) / tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            start = self._tar.offset - padded
            self.rows.append((KINDS.index(kind), frame, len(self.sizes), start, len(data), zlib.crc32(data)))

    def _open(self, offset: int) -> tarfile.TarFile:
        """Go on with the tar file whose turn it is, from that byte on; what was behind it is gone."""
        self._file = (self.folder / f"{len(self.sizes):05d}.tar").open("r+b" if offset else "wb")
        self._file.seek(offset)
        self._file.truncate()
        return tarfile.open(fileobj=self._file, mode="w", format=tarfile.GNU_FORMAT)

    def mark(self) -> tuple[int, int, int]:
        """Where the next member will stand, for `back_to`."""
        return len(self.sizes), 0 if self._tar is None else self._tar.offset, len(self.rows)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Take away all that was added since `mark`."""
        n_closed, offset, n_rows = mark
        last = len(self.sizes)
        self.close()
        for number in range(n_closed + 1, last + 1):
            (self.folder / f"{number:05d}.tar").unlink(missing_ok=True)
        del self.sizes[n_closed:], self.rows[n_rows:]
        if offset:
            self._tar = self._open(offset)
        else:
            (self.folder / f"{n_closed:05d}.tar").unlink(missing_ok=True)

    def close(self) -> None:
        """End the tar file under way."""
        if self._tar is not None and self._file is not None:
            self._tar.close()
            self._file.close()
            self.sizes.append((self.folder / f"{len(self.sizes):05d}.tar").stat().st_size)
            self._tar = None


def _check_text(name: str, path: Path) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{path}: its name is no UTF-8, as the index of shards is: rename it") from error


def pack(
    root: str | Path,
    out: str | Path,
    *,
    shard_size: int = 10**9,
    codec: str = "zstd",
    size: tuple[int, int] | None = None,
    max_side: int | None = None,
    flow: bool = False,
    progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> int:
    """Write sequences into few tar files that are faster to read, here or behind a URL.

    Args:
        root: folder of sequence folders or videos; the cuts of a video file are noted, so that no clip crosses one.
        out: new folder that gets the shards and their index, complete or not at all.
        shard_size: bytes; a shard ends with the first frame that reaches it.
        codec: `zstd` (lossless, fast to read) or `png`.
        size: rows and columns to scale and cut to, as training does.
        max_side: shrink to this longer side in pixels, at least 2; not with `size`.
        flow: keep DIS flow, which data.motion=dis then takes.
        progress: called with sequence, frames done, and frames in all.

    Returns: number of sequences.

    Raises:
        InputError: `out` exists, no such codec, its package is missing, both of the sizes, `max_side` is below 2, or no
            sequence can be read.
        SomeFailedError: some cannot be read; the shards of the others are written.
    """
    if size and max_side:
        raise InputError(f"--size {size} and --max-side {max_side}: give one of them")
    if max_side is not None and max_side < 2:
        raise InputError(f"max_side {max_side}: must be at least 2 pixels")
    if codec not in ENCODERS:
        raise InputError(f"{codec}: unknown codec; there are {', '.join(ENCODERS)}")
    if codec == "zstd":  # said once, before the first sequence, and not of each
        import_extra("zstandard", "shards", "--codec zstd needs Zstandard", ", or take --codec png")
    paths, out = find_sequences(Path(root)), Path(out)
    entries: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with new_folder(out) as part, closing(_Shards(part, shard_size)) as shards:
        for path in paths:
            mark = shards.mark()
            try:
                sequence = open_sequence(path)
                _check_text(sequence.name, path)
                height, width = size or shrunk_size(sequence.height, sequence.width, max_side)
                shots = Shots() if path.is_file() else None
                frames = sequence.images() if shots is None else shots.watch(sequence.images())
                for frame, images in enumerate(_stored(sequence, frames, height, width, flow=flow)):
                    coded = {kind: ENCODERS[codec](image) for kind, image in images.items()}
                    shards.add(sequence.name, frame, coded, codec)
                    progress(sequence.name, frame + 1, sequence.n_frames)
            except InputError as error:
                shards.back_to(mark)
                failed[str(path)] = str(error)
                continue
            first_row = mark[2]
            entry: dict[str, Any] = {"name": sequence.name, "n_frames": sequence.n_frames}
            entry |= {"height": height, "width": width, "first_row": first_row}
            if cuts := sequence.cuts if shots is None else shots.cuts():
                entry["cuts"] = cuts
            entries.append(entry | {"n_rows": len(shards.rows) - first_row, "meta": _meta(sequence, height, width)})
        if not entries:
            raise failure(failed, 0, [])
        shards.close()
        _write_index(part, shards, entries)
    if failed:
        raise failure(failed, len(entries), [out])
    return len(entries)


def _stored(
    sequence: Sequence, frames: Iterable[np.ndarray], height: int, width: int, *, flow: bool
) -> Iterator[Images]:
    """The images of each frame at that size."""
    before: np.ndarray | None = None
    for frame, image in enumerate(frames):
        clip = _fitted(sequence, frame, image, height, width)
        images = {"rgb": clip.frames[0]} | _label_codes(sequence, clip, frame)
        if flow and before is not None:
            back, visible = backward_from_frames(before, images["rgb"])
            # What leaves the image by more than the codes can hold is not visible either.
            visible &= (np.abs(back) < 500).all(axis=-1)
            images["motion"] = encode_flow(back, visible, name=f"{sequence.name}, frame {frame}")
        before = images["rgb"]
        yield images


def _fitted(sequence: Sequence, frame: int, image: np.ndarray, height: int, width: int) -> Clip:
    """One frame and its labels at that size; the depth in the codes that it is stored in."""
    in_codes = replace(sequence, depth_scale_m=1.0)
    labels: dict[str, Any] = {
        kind: in_codes.read_label(kind, frame)[None] for kind in LABELS if frame in sequence.labels.get(kind, {})
    }
    if "valid" in labels:
        labels["valid"] = labels["valid"] != 0
    if "flow" in labels:
        labels |= {"flow": labels["flow"][..., :2], "flow_valid": labels["flow"][..., 2] != 0}
    return fit_clip(Clip(sequence.name, image[None], sequence.fps, K=sequence.K, **labels), height, width)


def _label_codes(sequence: Sequence, clip: Clip, frame: int) -> Images:
    codes = {}
    if clip.depth is not None:
        codes["depth"] = clip.depth[0].astype(np.uint16)
    if clip.objects is not None:
        codes["objects"] = clip.objects[0]
    if clip.flow is not None and clip.flow_valid is not None:
        codes["flow"] = encode_flow(clip.flow[0], clip.flow_valid[0], name=f"{sequence.name}, frame {frame}")
    if clip.valid is not None:
        codes["valid"] = clip.valid[0].astype(np.uint8) * np.uint8(255)
    return codes


def _meta(sequence: Sequence, height: int, width: int) -> dict[str, Any]:
    """What meta.json says, the camera at that size."""
    blank = np.zeros((1, sequence.height, sequence.width, 3), np.uint8)
    camera = fit_clip(Clip(sequence.name, blank, sequence.fps, K=sequence.K), height, width).K
    meta = {key: getattr(sequence, key) for key in SequenceMeta.model_fields} | {"K": camera}
    plain = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in meta.items()}
    return {key: value for key, value in plain.items() if value is not None}


def _write_index(folder: Path, shards: _Shards, entries: list[dict[str, Any]]) -> None:
    np.save(folder / MEMBERS, np.array(shards.rows, ROW), allow_pickle=False)
    index = {
        "version": 2 if any("cuts" in entry for entry in entries) else 1,
        "members_crc32": zlib.crc32((folder / MEMBERS).read_bytes()),
        "shards": [{"name": f"{number:05d}.tar", "size": size} for number, size in enumerate(shards.sizes)],
        "sequences": entries,
    }
    (folder / INDEX).write_text(json.dumps(index, allow_nan=False) + "\n", encoding="utf-8")
