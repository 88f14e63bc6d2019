"""Predictions on disk, read a few frames at a time: of any length, in the memory of a few."""

import json
import math
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from re import fullmatch
from typing import Any

import numpy as np
from jaxtyping import Float32

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import check_name
from steadydepth.files.damage import reading, short
from steadydepth.files.depth_formats import read_npy_header
from steadydepth.files.exr import read_exr
from steadydepth.files.images import read_depth_codes
from steadydepth.files.listing import visible
from steadydepth.files.predictions import code_reader, known_claims, open_array
from steadydepth.video_types import Claims, DepthFrames


def open_predictions(folder: Path, name: str) -> DepthFrames:
    """What was predicted for a sequence, read frame by frame, but for an array in columns; nothing is unpickled.

    Raises:
        InputError: when opened or when read: it is missing, unreadable, of another shape than (t, h, w), or claims
            something unknown.
    """
    packed, images = folder / f"{check_name(name, folder)}.npz", folder / name
    if packed.is_file() and (images / "depth").is_dir():
        raise InputError(f"{packed} and {images} both predict {name}; one does: remove the other")
    if packed.is_file():
        return _open_npz(packed)
    if (images / "depth").is_dir():
        return _open_images(images)
    raise InputError(f"{folder} has no prediction for {name}; it is {name}.npz or {name}/depth/0000.png: add it")


def read_predictions(folder: Path, name: str) -> tuple[Float32[np.ndarray, "t h w"], Claims]:
    """All that was predicted for a sequence, and what its numbers claim to be; InputError as `open_predictions`."""
    stored = open_predictions(folder, name)
    return np.stack(list(stored.read())), stored.claims


def open_raw(path: Path, shape: tuple[int, int, int], claims: Claims) -> DepthFrames:
    """Frames of float32, one after another in a file of nothing else.

    Args:
        path: of the file.
        shape: frames, rows and columns.
        claims: what the numbers mean.
    """
    return DepthFrames(claims, *shape, lambda: read_raw(path, shape, np.float32))


def read_raw(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> Iterator[np.ndarray]:
    """Arrays one after another in a file of nothing else, which is open only while they are read.

    Args:
        path: of the file.
        shape: how many there are, and the shape of each.
        dtype: of their numbers.
    """
    with path.open("rb") as file:
        yield from _frames(path, file, np.dtype(dtype), shape)


def _open_npz(path: Path) -> DepthFrames:
    kind = "as an npz of plain arrays", "write it again"
    # Opened here: NumPy leaves a file open that turns out to be no archive.
    with reading(path, *kind), path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        missing = [key for key in ("depth", "claims") if key not in arrays]
        if missing:
            raise InputError(f"{path}: no array {' and no array '.join(missing)}; it has depth and claims: add them")
        claims = arrays["claims"]
        with arrays.zip.open("depth.npy") as member:
            shape, in_columns, dtype = read_npy_header(member)
        if dtype.hasobject:
            raise ValueError("pickled objects, which could run code")
        if len(shape) != 3 or dtype.kind != "f" or min(shape) < 1:
            raise InputError(f"{path}: depth is {short(dtype)} {shape}; it is float16 or float32 (t, h, w)")
        known = known_claims(claims.item() if claims.ndim == 0 else claims, path)
        if in_columns:
            return open_array(arrays["depth"], known)

    def read() -> Iterator[Float32[np.ndarray, "h w"]]:
        with reading(path, *kind), zipfile.ZipFile(path) as archive, archive.open("depth.npy") as member:
            read_npy_header(member)
            for frame in _frames(path, member, dtype, shape):
                yield frame.astype(np.float32, copy=False)

    return DepthFrames(known, *shape, read)


def _frames(path: Path, file: Any, dtype: np.dtype, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    n_frames, *size = shape
    n_bytes = math.prod(size) * dtype.itemsize
    for _ in range(n_frames):
        data = file.read(n_bytes)
        if len(data) < n_bytes:
            raise InputError(f"{path}: ends after fewer than {n_frames} frames: write it again")
        yield np.frombuffer(data, dtype).reshape(size)


def _open_images(folder: Path) -> DepthFrames:
    meta_path, depth = folder / "meta.json", folder / "depth"
    is_exr = (depth / "0000.exr").exists()
    with reading(meta_path, "as JSON with claims and depth_scale_m", "write both"):
        meta = json.loads(meta_path.read_text(encoding="utf-8-sig"))
        claims, decode = meta["claims"], code_reader(meta, is_exr=is_exr)
    files = sorted(file.name for file in visible(depth))
    suffix = ".exr" if is_exr else ".png"
    named = [f"{number:04d}{suffix}" for number in range(len(files))]
    if not files or files != sorted(named):
        missing = [f"no {name}" for name in named if name not in files][:1]
        strange = [name for name in files if not fullmatch(rf"\d{{4,}}{suffix}", name)][:1]
        found = " and ".join([*missing, *strange]) or "nothing"
        raise InputError(
            f"{depth}: holds {found}; it has 0000.png, 0001.png, ... (or .exr) and nothing else, one for each frame "
            "of the sequence: name them so, and add those that are missing"
        )
    paths, known = [depth / name for name in named], known_claims(claims, meta_path)
    read_one: Callable[[Path], np.ndarray] = read_exr if is_exr else read_depth_codes
    height, width = read_one(paths[0]).shape

    def read() -> Iterator[Float32[np.ndarray, "h w"]]:
        for path in paths:
            values = read_one(path)
            if values.shape != (height, width):
                raise InputError(f"{path}: {values.shape}, the first is {(height, width)}: one size for all")
            yield decode(values)

    return DepthFrames(known, len(paths), height, width, read)
