"""Predictions on disk, read a few frames at a time: of any length, in the memory of a few."""

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from steadydepth.files.atomic_writes import check_name
from steadydepth.files.depth_formats import UNREADABLE, read_npy_header, short
from steadydepth.files.exr import read_exr
from steadydepth.files.images import read_depth_codes
from steadydepth.files.predictions import code_reader, known_claims
from steadydepth.types import Claims, DepthFrames, InputError


def open_predictions(folder: Path, name: str, *, chunk: int = 16) -> DepthFrames:
    """What was predicted for a sequence, read a few frames at a time; nothing is unpickled.

    Args:
        folder: of predictions.
        name: of the sequence.
        chunk: frames read at a time; an array in columns is read at once.

    Raises:
        InputError: when opened or when read: it is missing, unreadable, of another shape than (t, h, w), or claims
            something unknown.
    """
    packed, images = folder / f"{check_name(name, folder)}.npz", folder / name
    if packed.is_file() and (images / "depth").is_dir():
        raise InputError(f"{packed} and {images} both predict {name}; one does: remove the other")
    if packed.is_file():
        return _open_npz(packed, chunk)
    if (images / "depth").is_dir():
        return _open_images(images)
    raise InputError(f"{folder} has no prediction for {name}; it is {name}.npz or {name}/depth/0000.png: add it")


def read_predictions(folder: Path, name: str) -> tuple[Float32[np.ndarray, "t h w"], Claims]:
    """All that was predicted for a sequence, and what its numbers claim to be; InputError as `open_predictions`."""
    stored = open_predictions(folder, name)
    return np.stack(list(stored.read())), stored.claims


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


def _open_npz(path: Path, chunk: int) -> DepthFrames:
    with _refusing(path):
        # Opened here: NumPy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in ("depth", "claims") if key not in arrays]
            if missing:
                raise InputError(
                    f"{path}: no array {' and no array '.join(missing)}; it has depth and claims: add them"
                )
            claims = arrays["claims"]
        with zipfile.ZipFile(path) as archive, archive.open("depth.npy") as member:
            shape, in_columns, dtype = read_npy_header(member)
        if dtype.hasobject:
            raise ValueError("pickled objects, which could run code")
        if len(shape) != 3 or dtype.kind != "f" or min(shape) < 1:
            raise InputError(f"{path}: depth is {short(dtype)} {shape}; it is float16 or float32 (t, h, w)")
        known = known_claims(claims.item() if claims.ndim == 0 else claims, path)
        if in_columns:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return open_array(arrays["depth"], known)
    n_frames, height, width = shape
    return DepthFrames(known, n_frames, height, width, lambda: _read_member(path, chunk))


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    """What is raised for an npz that is damaged, or none, becomes an InputError."""
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        raise InputError(
            f"{path}: cannot be read ({short(error)}); it is an npz of plain arrays: write it again"
        ) from error


def _read_member(path: Path, chunk: int) -> Iterator[Float32[np.ndarray, "h w"]]:
    with _refusing(path), zipfile.ZipFile(path) as archive, archive.open("depth.npy") as member:
        shape, _, dtype = read_npy_header(member)
        yield from _frames(path, member, dtype, shape, chunk)


def _read_file(path: Path, shape: tuple[int, int, int], chunk: int) -> Iterator[Float32[np.ndarray, "h w"]]:
    with path.open("rb") as file:
        yield from _frames(path, file, np.dtype(np.float32), shape, chunk)


def _frames(
    path: Path, file: Any, dtype: np.dtype, shape: tuple[int, ...], chunk: int
) -> Iterator[Float32[np.ndarray, "h w"]]:
    n_frames, height, width = shape
    for start in range(0, n_frames, chunk):
        n = min(chunk, n_frames - start)
        data = file.read(n * height * width * dtype.itemsize)
        if len(data) < n * height * width * dtype.itemsize:
            raise InputError(f"{path}: ends after fewer than {n_frames} frames: write it again")
        yield from np.frombuffer(data, dtype).reshape(n, height, width).astype(np.float32, copy=False)


def _open_images(folder: Path) -> DepthFrames:
    meta_path, depth = folder / "meta.json", folder / "depth"
    is_exr = (depth / "0000.exr").exists()
    try:
        meta = json.loads(meta_path.read_text(encoding="utf-8-sig"))
        claims, decode = meta["claims"], code_reader(meta, is_exr=is_exr)
    except UNREADABLE as error:
        raise InputError(f"{meta_path}: no claims and depth_scale_m to be read ({error!r}): write both") from error
    files = sorted(file.name for file in depth.iterdir() if not file.name.startswith("."))
    named = [f"{number:04d}{'.exr' if is_exr else '.png'}" for number in range(len(files))]
    if not files or files != sorted(named):
        raise InputError(f"{depth}: holds other files than 0000.png, 0001.png, ... (or .exr) without gaps: renumber")
    paths, known = [depth / name for name in named], known_claims(claims, meta_path)
    read = read_exr if is_exr else read_depth_codes
    height, width = read(paths[0]).shape
    return DepthFrames(known, len(paths), height, width, lambda: _read_images(paths, read, (height, width), decode))


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
