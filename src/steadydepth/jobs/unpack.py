"""Archives of strangers: only plain files, only inside their folder, only as much as was agreed."""

import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError
from typing import IO, Any, NamedTuple

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import check_name
from steadydepth.files.images import FRAME_SUFFIXES
from steadydepth.files.video_read import VIDEO_SUFFIXES
from steadydepth.jobs.limits import JobLimits

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
# An index.json would make shards of the folder, whose parts may lie behind URLs.
KEPT = (*FRAME_SUFFIXES, *VIDEO_SUFFIXES)
META = "meta.json"
_DEPTH = 6  # folders in one another
_BLOCK = 1 << 20
_SMALL = 1 << 20  # bytes of which no ratio is asked
_CLUTTER = ("__MACOSX", "Thumbs.db", "desktop.ini")


class _Member(NamedTuple):
    name: str
    size: int  # as the archive says
    open: Callable[[], IO[bytes] | None]


def is_archive(name: str) -> bool:
    """Whether a file of that name is unpacked."""
    return name.lower().endswith(ARCHIVES)


def unpack(archive: Path, name: str, out: Path, limits: JobLimits) -> None:
    """Unpack the images, videos and meta.json of an archive into `out`, which is created.

    What desktops leave and hidden files are passed over. No link, no device and no name that climbs out is followed:
    the archive as a whole is refused. Bytes are counted as they are written, whatever the archive promises.

    Args:
        archive: the file.
        name: what its owner calls it; it tells the kind.
        out: a folder that does not exist.
        limits: bytes, files and ratio.

    Raises:
        InputError: the archive is damaged, encrypted, holds what is refused, or more than is let pass.
    """
    out.mkdir(parents=True)
    most = min(
        (max(_SMALL, int(limits.ratio * archive.stat().st_size)), "which no images do: pack fewer, or split it"),
        (limits.stored_bytes, "for which uploads have no room: delete some, or pack fewer"),
        (shutil.disk_usage(out).free - limits.free_bytes, "for which the server's disk has no room: pack fewer"),
    )
    written = n_files = 0
    try:
        with _members(archive, name) as members:
            for member in members:
                path = _inside(member.name, out)
                if path is None:
                    continue
                n_files += 1
                if n_files > limits.files:
                    raise InputError(f"{name}: holds more than {limits.files} files: split it")
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    raise InputError(f"{name}: {member.name!r} is there twice: pack it again")
                written = _copy(member, path, written, most, name)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, OSError) as error:
        # RuntimeError is zipfile's word for an encrypted file, OSError gzip's for a damaged one.
        raise InputError(f"{name}: cannot be unpacked ({error}): pack it again, as .zip or .tar.gz") from error
    if not n_files:
        raise InputError(f"{name}: holds no image and no video ({', '.join(KEPT)})")


@contextmanager
def _members(archive: Path, name: str) -> Iterator[Iterator[_Member]]:
    if name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            yield (_of_zip(opened, info) for info in opened.infolist() if not info.is_dir())
    else:
        mode: Any = "r|*" if not name.lower().endswith(".tar") else "r|"
        with tarfile.open(archive, mode, tarinfo=_CheckedInfo) as opened:
            # A stream, so that nothing is read twice and no list of members grows.
            yield (_of_tar(opened, info, name) for info in opened if not info.isdir())


class _CheckedInfo(tarfile.TarInfo):
    """A header that is damaged is an error: for tarfile it is the end of the archive, and what follows is lost."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> "_CheckedInfo":
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end, as it should be
                raise
            raise ReadError(f"damaged after {tarfile.offset} bytes") from error


def _of_zip(opened: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
    kind = info.external_attr >> 28  # of the mode that Unix keeps there: 8 a plain file, 10 a link
    if kind not in (0, 8):
        raise InputError(f"{info.filename!r} is a link or a device; an archive holds plain files: pack it again")
    return _Member(info.filename, info.file_size, lambda: opened.open(info))


def _of_tar(opened: tarfile.TarFile, info: tarfile.TarInfo, name: str) -> _Member:
    if not info.isfile() or info.issparse():
        raise InputError(f"{name}: {info.name!r} is a link, a device or sparse; pack plain files alone")
    return _Member(info.name, info.size, lambda: opened.extractfile(info))


def _inside(name: str, out: Path) -> Path | None:
    """Where a member is written; None where it is passed over."""
    parts = PurePosixPath(name.removeprefix("./")).parts
    for part in parts:
        if part == ".." or part.startswith("/") or "\\" in part:
            raise InputError(f"{name!r} climbs out of the archive: pack it again with names below its own folder")
    if not parts or len(parts) > _DEPTH:
        raise InputError(f"{name!r}: more than {_DEPTH} folders in one another: pack the sequences themselves")
    is_kept = parts[-1] == META or parts[-1].lower().endswith(KEPT)
    if not is_kept or any(part in _CLUTTER or part.startswith(".") for part in parts):
        return None
    path = out.joinpath(*(check_name(part, out) for part in parts))
    if not path.resolve().is_relative_to(out.resolve()):
        raise InputError(f"{name!r} climbs out of the archive: pack it again")
    return path


def _copy(member: _Member, path: Path, written: int, limit: tuple[int, str], name: str) -> int:
    """Write one file, and count; returns the bytes of all files so far."""
    most = max(limit[0], 0)
    too_much = f"{name}: unpacks to more than {most / 2**20:.0f} MiB, {limit[1]}"
    if written + member.size > most:
        raise InputError(too_much)
    source = member.open()
    assert source is not None  # as it is of a plain file
    with source, path.open("xb") as file:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > most:
                raise InputError(too_much)
            file.write(block)
    return written


def below_wrapping(root: Path) -> Path:
    """The folder of the sequences: archives often hold one folder around them all."""
    for _ in range(_DEPTH):
        inside = list(root.iterdir())
        if len(inside) != 1 or not inside[0].is_dir() or (inside[0] / "rgb").is_dir() or inside[0].name == "rgb":
            return root
        root = inside[0]
    return root


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
