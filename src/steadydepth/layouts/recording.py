"""One video of a public data set as its own files have it: what each layout gives, and the conversion writes."""

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from steadydepth.files.damage import reading
from steadydepth.files.depth_formats import read_numbers
from steadydepth.files.images import read_colour, shown_together
from steadydepth.files.listing import unbroken
from steadydepth.types import InputError

# What Microsoft's C library prints for infinity and what is no number: -1.#INF, 1.#QNAN00.
_NO_NUMBER = re.compile(r"^[-+]?\d\.#(INF|IND|QNAN|SNAN)\d*$", re.IGNORECASE)
Frame = tuple[UInt8[np.ndarray, "h w 3"], Float32[np.ndarray, "h w"] | None]
Reader = Callable[[int], Frame]  # of the frames of a recording, by number
ReadDepth = Callable[[Path], Float32[np.ndarray, "h w"]]  # planar z in metres
Matrix = Float64[np.ndarray, "3 3"]


@dataclass(frozen=True, eq=False)
class Recording:
    """One video: what is known of it, and its frames when asked for."""

    name: str
    fps: float
    n_frames: int
    read: Reader  # RGB, and planar z in metres; what is not above 0 and finite was not measured
    depth_scale_m: float  # the step of the 16 bits it is written with; 65535 of them is the farthest that is kept
    source: str
    licence: str
    K: Matrix | None = None
    cam_to_world: Float64[np.ndarray, "t 4 4"] | None = None


@dataclass(frozen=True)
class Unreadable:
    """A part of a data set that cannot be read, and why: the rest is converted without it."""

    name: str
    why: str


Found = Recording | Unreadable
Place = TypeVar("Place")


def each(places: Iterable[Place], read: Callable[[Place], Iterable[Found]]) -> Iterator[Found]:
    """What `read` finds in each of `places`; one where it raises an InputError is Unreadable, and the next follows."""
    for place in places:
        try:
            yield from read(place)
        except InputError as error:
            yield Unreadable(str(place), str(error))


def places(folder: Path, name: str) -> list[Path]:
    """`folder` itself where `name` is in it, otherwise those of its folders that have it."""
    return [folder] if (folder / name).exists() else sorted(path.parent for path in folder.glob(f"*/{name}"))


def in_or_above(folder: Path, name: str) -> Path | None:
    """The file `name` in a folder, or in the one that it is in; None where neither has it."""
    return next((path for path in (folder / name, folder.parent / name) if path.is_file()), None)


def unbroken_parts(
    recording: Recording, follows: Bool[np.ndarray, "n"], n_frames: int | None = None
) -> Iterator[Recording]:
    """The stretches of a recording without a gap; one that is all of the video keeps its name.

    Args:
        recording: all frames that are kept, each with its pose where there are poses.
        follows: of each frame but the last whether the next one comes right after it.
        n_frames: of the complete video; None: those of `recording`.
    """
    for stretch in unbroken(follows, recording.n_frames):
        poses = recording.cam_to_world
        yield replace(
            recording,
            name=part_name(recording.name, stretch, n_frames or recording.n_frames),
            n_frames=len(stretch),
            read=_from(recording.read, stretch.start),
            cam_to_world=None if poses is None else poses[stretch.start : stretch.stop],
        )


def _from(read: Reader, first: int) -> Reader:
    return lambda number: read(first + number)


def files_reader(images: Sequence[Path], depths: Sequence[Path | None], read_depth: ReadDepth) -> Reader:
    """Frames from one image file and at most one depth file each.

    Args:
        images: one for each frame.
        depths: as many; None where there is no label.
        read_depth: gives planar z in metres.
    """

    def read(number: int) -> Frame:
        depth = depths[number]
        if depth is None:
            return read_colour(images[number]), None
        return shown_together(images[number], read_depth(depth))

    return read


def numbered_reader(files: Mapping[int, Path], labels: Mapping[int, Path], read_depth: ReadDepth) -> Reader:
    """The frames of `files` in order; one whose number is not among `labels` has no depth.

    Args:
        files: images by number, in order.
        labels: depth files by the number of their image.
        read_depth: gives planar z in metres.
    """
    return files_reader(list(files.values()), [labels.get(number) for number in files], read_depth)


def scaled(step_m: float, beyond: float = np.inf) -> ReadDepth:
    """A reader of depth files whose numbers are multiples of `step_m` metres; numbers from `beyond` on mean nothing."""

    def read(path: Path) -> Float32[np.ndarray, "h w"]:
        numbers = read_numbers(path)
        return np.where(numbers < beyond, numbers * np.float64(step_m), 0).astype(np.float32)

    return read


def listed_path(list_file: Path, name: str) -> Path:
    """The file that a list names, relative to the list; with the backslashes of Windows as well.

    Links inside the folder are followed wherever they lead, as a scratch disk, DVC and the caches of hubs need it.

    Raises:
        InputError: the name is absolute or climbs out.
    """
    path = list_file.parent / name
    if not os.path.exists(path) and "\\" in name:  # noqa: PTH110
        name = name.replace("\\", "/")
        path = list_file.parent / name
    if Path(name).is_absolute() or ".." in Path(name).parts or re.match(r"^[A-Za-z]:", name):
        raise InputError(f"{list_file}: names {name}, outside its folder: write paths below it")
    return path


def numbered(folder: Path, prefix: str, suffix: str) -> dict[int, Path]:
    """Files PREFIX<number>SUFFIX of `folder` by number, in order; none when the folder is missing.

    Args:
        folder: may be missing.
        prefix: of the names.
        suffix: of the names, with its dot.
    """
    files = [(path.name.removeprefix(prefix).removesuffix(suffix), path) for path in folder.glob(f"{prefix}*{suffix}")]
    return dict(sorted((int(number), path) for number, path in files if number.isdecimal()))


def read_table(path: Path, n_columns: int, *, skip: int = 0) -> Float64[np.ndarray, "n c"]:
    """Lines of numbers, between spaces or commas; comments begin with #.

    Args:
        path: a text file.
        n_columns: numbers of each line.
        skip: lines at the beginning that are no numbers.

    Raises:
        InputError: it is not there, cannot be read, is empty, or has another number of columns.
    """
    with reading(path, "as numbers"):
        if not path.exists():  # which raises where a folder above it may not be entered
            raise InputError(f"{path}: is not there, and belongs to the recording: check the path, or copy it")
        lines = path.read_text(encoding="utf-8-sig").splitlines()[skip:]
        kept = (line for line in lines if line.strip() and not line.lstrip().startswith("#"))
        rows = [[_NO_NUMBER.sub("nan", word) for word in line.replace(",", " ").split()] for line in kept]
        if not rows:
            raise ValueError("no line in it")
        table = np.array(rows, np.float64).reshape(len(rows), -1)
    if table.shape[1] != n_columns:
        raise InputError(f"{path}: has {table.shape[1]} numbers a line; there are {n_columns}: copy it again")
    return table


def read_csv(path: Path, columns: Sequence[str]) -> list[tuple[str, ...]]:
    """The texts of the named columns, line by line; InputError when it is missing or has no such columns."""
    with reading(path, f"as CSV with {', '.join(columns)}"), path.open(encoding="utf-8-sig", newline="") as file:
        return [tuple(line[column] for column in columns) for line in csv.DictReader(file, skipinitialspace=True)]


def pinhole(fx: float, fy: float, cx: float, cy: float) -> Matrix:
    """The camera matrix of focal lengths and centre in pixels.

    Args:
        fx: focal length across, pixels.
        fy: focal length down, pixels.
        cx: column of the centre, pixel centres at integers.
        cy: row of the centre.
    """
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float64)


def resized_camera(K: Matrix, size: tuple[int, int], new_size: tuple[int, int]) -> Matrix:
    """The camera of images after they are resized; pixel centres are integers.

    Args:
        K: pixels.
        size: height and width before.
        new_size: height and width after.
    """
    ratio = np.array([new_size[1] / size[1], new_size[0] / size[0]])
    resized = np.diag([*ratio, 1.0]) @ K
    resized[:2, 2] += (ratio - 1) / 2
    return resized


def rigid(turn: Matrix, shift: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "4 4"]:
    """The 4 x 4 matrix that turns, then shifts."""
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, shift
    return pose


def inverted(matrices: Float64[np.ndarray, "*n k k"], path: Path) -> Float64[np.ndarray, "*n k k"]:
    """The inverses of camera matrices; `path` is where they are from, for the error.

    Raises:
        InputError: one has no inverse.
    """
    try:
        return np.linalg.inv(matrices)
    except np.linalg.LinAlgError as error:
        raise InputError(f"{path}: a camera there cannot be inverted ({error}): extract it again") from error


def quaternion_poses(table: Float64[np.ndarray, "n 7"]) -> Float64[np.ndarray, "n 4 4"]:
    """Poses from lines tx ty tz qx qy qz qw; quaternions are normalised, 0 0 0 0 to NaN."""
    lengths = np.linalg.norm(table[:, 3:], axis=1, keepdims=True)
    x, y, z, w = (table[:, 3:] / np.where(lengths > 0, lengths, np.nan)).T
    turns = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    return np.stack([rigid(turn, shift) for turn, shift in zip(turns, table[:, :3], strict=True)])


def part_name(name: str, stretch: range, n_frames: int) -> str:
    """The name of a stretch: that of the video when it is all of it, with its first frame behind it otherwise.

    Args:
        name: of the video.
        stretch: its frames.
        n_frames: of the complete video.
    """
    return name if len(stretch) == n_frames else f"{name}_{stretch.start:05d}"
