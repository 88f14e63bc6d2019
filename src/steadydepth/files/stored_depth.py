"""Predictions on disk, read a few frames at a time: of any length, in the memory of a few."""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, get_args

import numpy as np
from jaxtyping import Float, Float32

from steadydepth.files.atomic_writes import check_name
from steadydepth.files.depth_formats import UNREADABLE, short
from steadydepth.files.exr import read_exr
from steadydepth.files.images import read_depth_codes
from steadydepth.files.predictions import code_reader, read_predictions
from steadydepth.types import Claims, DepthFrames, InputError


def open_predictions(folder: Path, name: str, *, chunk: int = 16) -> DepthFrames:
    """What was predicted for a sequence, read a few frames at a time; nothing is unpickled.

    A prediction of another kind than a plain npz or numbered images is read at once.

    Args:
        folder: of predictions.
        name: of the sequence.
        chunk: frames read at a time.

    Raises:
        InputError: as for `predictions.read_predictions`, when opened or when read.
    """
    packed, images = folder / f"{check_name(name, folder)}.npz", folder / name
    if packed.is_file() and not (images / "depth").is_dir():
        return _open_npz(packed, chunk) or open_array(*read_predictions(folder, name))
    if (images / "depth").is_dir() and not packed.is_file():
        return _open_images(images) or open_array(*read_predictions(folder, name))
    return open_array(*read_predictions(folder, name))


def open_array(depth: Float[np.ndarray, "t h w"], claims: Claims) -> DepthFrames:
    """Depth that is in memory already."""
    n_frames, height, width = depth.shape
    return DepthFrames(claims, n_frames, height, width, lambda: (frame.astype(np.float32) for frame in depth))


def open_raw(path: Path, shape: tuple[int, int, int], claims: Claims, *, chunk: int = 16) -> DepthFrames:
    """Frames of float32, one after another in a file of nothing else.

    Args:
        path: a file of nothing else.
        shape: frames, rows and columns.
        claims: what the numbers mean.
        chunk: frames read at a time.
    """
    return DepthFrames(claims, *shape, lambda: _read_file(path, shape, chunk))


def _open_npz(path: Path, chunk: int) -> DepthFrames | None:
    """None for what only a reading of all can take or refuse."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            claims = arrays["claims"].item()
        with zipfile.ZipFile(path) as archive, archive.open("depth.npy") as member:
            shape, in_columns, dtype = _header(member)
    except UNREADABLE:
        return None
    if in_columns or len(shape) != 3 or 0 in shape or dtype.kind != "f" or claims not in get_args(Claims):
        return None
    n_frames, height, width = shape
    return DepthFrames(claims, n_frames, height, width, lambda: _read_member(path, chunk))


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(member)
    return np.lib.format.read_array_header_2_0(member)


def _read_member(path: Path, chunk: int) -> Iterator[Float32[np.ndarray, "h w"]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open("depth.npy") as member:
            shape, _, dtype = _header(member)
            yield from _frames(path, member, dtype, shape, chunk)
    except UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read ({short(error)}); it is an npz of plain arrays: write it again"
        ) from error


def _read_file(path: Path, shape: tuple[int, int, int], chunk: int) -> Iterator[Float32[np.ndarray, "h w"]]:
    with path.open("rb") as file:
        yield from _frames(path, file, np.dtype(np.float32), shape, chunk)


def _frames(
    path: Path, file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...], chunk: int
) -> Iterator[Float32[np.ndarray, "h w"]]:
    n_frames, height, width = shape
    for start in range(0, n_frames, chunk):
        n = min(chunk, n_frames - start)
        data = file.read(n * height * width * dtype.itemsize)
        if len(data) < n * height * width * dtype.itemsize:
            raise InputError(f"{path}: ends after fewer than {n_frames} frames: write it again")
        yield from np.frombuffer(data, dtype).reshape(n, height, width).astype(np.float32, copy=False)


def _open_images(folder: Path) -> DepthFrames | None:
    """None for what only a reading of all can take or refuse."""
    is_exr = (folder / "depth" / "0000.exr").exists()
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8-sig"))
        claims, decode = meta["claims"], code_reader(meta, is_exr=is_exr)
    except UNREADABLE:
        return None
    files = sorted(file for file in (folder / "depth").iterdir() if not file.name.startswith("."))
    named = [f"{number:04d}{'.exr' if is_exr else '.png'}" for number in range(len(files))]
    if not files or [file.name for file in files] != sorted(named) or claims not in get_args(Claims):
        return None
    paths = [folder / "depth" / name for name in named]
    read = read_exr if is_exr else read_depth_codes
    height, width = read(paths[0]).shape
    return DepthFrames(claims, len(paths), height, width, lambda: _read_images(paths, read, (height, width), decode))


def _read_images(
    paths: list[Path],
    read: Callable[[Path], np.ndarray],
    size: tuple[int, int],
    decode: Callable[[np.ndarray], Float32[np.ndarray, "h w"]],
) -> Iterator[Float32[np.ndarray, "h w"]]:
    for path in paths:
        values = read(path)
        if values.shape != size:
            raise InputError(f"{path}: {values.shape}, the first is {size}: one size for all")
        yield decode(values)
