"""The process that unpacks and checks one upload: `python -m steadydepth.jobs.receive FOLDER`."""

import hashlib
import json
import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import write_json
from steadydepth.jobs.limits import GIB, JobLimits, give_way
from steadydepth.jobs.unpack import below_wrapping, is_archive, remove, unpack
from steadydepth.jobs.uploads import DATA, FOUND, PART
from steadydepth.jobs.worker import ORDER

# How files of VIDEO_SUFFIXES begin. Decoders look at what is in a file, not at its name, and a playlist would name
# other files.
_BEGINNINGS = re.compile(
    b"|".join((
        rb".{4}(?:ftyp|moov|mdat|wide|free|skip)",  # MP4, MOV, M4V, 3GP
        rb"\x1aE\xdf\xa3",  # Matroska, WebM
        rb"RIFF.{4}AVI ",
        rb"\0\0\x01[\xb3\xba]",  # MPEG-1 and -2: a program stream, or the video alone
        rb"G.{187}G|.{4}G.{191}G",  # MPEG transport stream: packets of 188 bytes, of 192 with their times
        rb"\x06\x0e\x2b\x34",  # MXF
        rb"FLV\x01",
        rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, of WMV
        rb"OggS",
        rb"GIF8[79]a",
    )),
    re.DOTALL,
)  # fmt: skip
_MEMORY = 8 * GIB  # of addresses, of which libraries alone take one or two


def main(folder: Path) -> None:
    """Write what was found in the upload at `folder`."""
    order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
    limits = JobLimits(**order["limits"])
    give_way(limits.niceness)
    _limit(resource.RLIMIT_AS, _MEMORY, _MEMORY)
    _limit(resource.RLIMIT_CPU, int(limits.check_s), int(limits.check_s) + 5)
    try:
        found: dict[str, Any] = {"sequences": receive(folder, order["name"], order["size"], order["sha256"], limits)}
    except InputError as error:
        text = str(error)
        for root in (folder.resolve(), folder):
            text = text.replace(f"{root}/.{DATA}/", "").replace(f"{root}/", "")
        found = {"message": text}
    write_json(folder / FOUND, found)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Limit what this process may take; a lower limit that it has already stays."""
    soft, hard = (
        most if now == resource.RLIM_INFINITY else min(most, now)
        for most, now in zip((soft, hard), resource.getrlimit(kind), strict=True)
    )
    with suppress(ValueError):  # macOS refuses to limit addresses
        resource.setrlimit(kind, (min(soft, hard), hard))


def receive(folder: Path, name: str, size: int, sha256: str | None, limits: JobLimits) -> list[str]:
    """Check the complete file and put its sequences into data/.

    Args:
        folder: of the upload, with the received file.
        name: what the sender calls it.
        size: bytes that were promised.
        sha256: of the file; None is not looked at.
        limits: of what it holds.

    Returns: names of the sequences.

    Raises:
        InputError: it is not the file that was sent, holds no sequence, or one that cannot be used.
    """
    file = folder / PART
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if file.stat().st_size != size or sha256 not in (None, digest):
        raise InputError(f"{name}: arrived damaged (its sha256 is {digest}): send it again")
    work = folder / f".{DATA}"
    remove(work)
    if is_archive(name):
        unpack(file, name, work, limits)
        root = below_wrapping(work)
    else:
        work.mkdir()
        root = work
        os.link(file, work / (re.sub(r"[^\w.+-]", "_", name.lstrip(".-")) or "video.mp4"))
    # Not at the top: what reads data imports torch, and a damaged file is known sooner.
    from steadydepth.data.sequence_folder import find_sequences, open_sequence

    names = []
    for path in find_sequences(root):
        if path.is_file():
            with path.open("rb") as opened:
                if not _BEGINNINGS.match(opened.read(256)):
                    raise InputError(f"{path.name}: no video of a kind that is read, whatever its name: send MP4")
        sequence = open_sequence(path)
        if sequence.height * sequence.width > limits.pixels:
            raise InputError(f"{path.name}: frames are {sequence.width} x {sequence.height}; {limits.pixels} pixels "
                             "are the most: make them smaller")  # fmt: skip
        if sequence.n_frames > limits.frames:
            raise InputError(f"{path.name}: {sequence.n_frames} frames; {limits.frames} are the most: cut it")
        sequence.read_frames(0, 1)
        names.append(sequence.name)
    root.rename(folder / DATA)
    remove(work)
    return names


if __name__ == "__main__":
    main(Path(sys.argv[1]))
