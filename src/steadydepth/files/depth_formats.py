"""Depth, distance or disparity as data sets store it: one image of numbers a file, whatever the format.

What a header promises is checked before memory is taken, and never more is unpacked than it says. Nothing is unpickled.
"""

import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from steadydepth.errors import InputError, import_extra
from steadydepth.files.damage import reading, short
from steadydepth.files.exr import read_exr
from steadydepth.files.image_formats import MOST_PIXELS, open_image, size_fault
from steadydepth.files.images import read_depth_codes, read_pnm
from steadydepth.files.mat_files import check_mat

_DPT_TAG = 202021.25  # first number of a .dpt or .cam file, MPI Sintel


def read_numbers(path: Path) -> Float32[np.ndarray, "h w"]:
    """The image of numbers in `path`, in the file's own unit, NaN and infinity as they are; the suffix says the format.

    .png and .pgm of 16 bits, .tif of 16 or 32, .npy, .npz, .pfm, .dpt, .exr, .h5, .hdf5, .dsp5, .mat. Where a file can
    hold several arrays it is the one named depth, or the only one.

    Raises:
        InputError: the file is missing, damaged, of another kind or absurdly large.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise InputError(f"{path}: no depth format; there is {', '.join(_READERS)}: convert it to one of them")
    with reading(path, f"as {path.suffix}", "check the path, or write or copy the file again"):
        image = read(path)
    _check_plain(path, image.dtype)
    return image.astype(np.float32, copy=False)


def read_tagged(path: Path, layout: str, n_before: int = 0) -> np.ndarray:
    """The numbers after the tag of an MPI Sintel file.

    Args:
        path: a .dpt, .flo or .cam file.
        layout: NumPy's code of the type of the numbers.
        n_before: bytes between the tag and the numbers.

    Raises:
        InputError: the file does not begin with the tag.
    """
    data = path.read_bytes()
    if len(data) < 4 or struct.unpack("<f", data[:4])[0] != _DPT_TAG:
        raise InputError(f"{path}: does not begin with {_DPT_TAG}, as files of MPI Sintel do: copy it again")
    return np.frombuffer(data, layout, offset=4 + n_before)


@contextmanager
def open_h5(path: Path) -> Iterator[Any]:
    """The HDF5 file `path` while the block lasts.

    Raises:
        InputError: h5py is missing, the file is no HDF5, or what the block asks of it is not there or damaged.
    """
    with reading(path, "as HDF5", "check the path, or copy the file again"), load_extra("h5py").File(path, "r") as file:
        yield file


def load_extra(name: str) -> Any:
    """The module `name` of the extra `layouts`; InputError where it is not installed."""
    return import_extra(name, "layouts", f"{name} is missing; .h5 and .mat need it")


def _check_plain(path: Path, dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "fiu":
        raise InputError(f"{path}: holds {short(dtype)}; depth is plain numbers: write it as float32")


def _allowed(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an array of `shape`, which may have axes of length 1 beside them."""
    sides = tuple(side for side in shape if side != 1) if len(shape) > 2 else tuple(shape)
    if len(sides) != 2:
        raise InputError(f"{path}: holds numbers of shape {shape}; one image is (h, w): write one a file")
    if fault := size_fault(*sides):
        raise InputError(f"{path}: {fault}: write the file again")
    return sides[0], sides[1]


def _only(path: Path, names: list[str]) -> str:
    """Which array of a file is meant: the one named depth, or the only one."""
    name = "depth" if "depth" in names else names[0] if len(names) == 1 else None
    if name is None:
        raise InputError(
            f"{path}: holds {short(', '.join(names) or 'no array')}; name one of them depth, or keep only one"
        )
    return name


def _read_pgm(path: Path) -> np.ndarray:
    image = read_pnm(path)
    if image.ndim != 2:
        raise InputError(f"{path}: has colours; depth is one channel of 16 bits: write it as that")
    return image


def _read_tiff(path: Path) -> np.ndarray:
    from PIL import UnidentifiedImageError

    with warnings.catch_warnings(action="ignore"):  # of damage, which is an error as well
        try:
            image = open_image(path.read_bytes(), "TIFF")
        except UnidentifiedImageError as error:  # which says no more than that
            raise ValueError(
                "damaged, or of numbers that are not read, such as float64: they are float32, int32 or uint16"
            ) from error
        sides = _allowed(path, (image.height, image.width))
        if not image.mode.startswith(("I", "F")):
            raise InputError(
                f"{path}: holds {image.mode} of 8 bits; depth is one channel of 16 or 32: write it as that"
            )
        return np.array(image).reshape(sides)


def _read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return _npy_from(path, file)


def read_npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in columns, and type of the array in `file`, which then stands at its numbers."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return header(file)


def _npy_from(path: Path, file: Any) -> np.ndarray:
    """The array in `file`, which is open at `path` or at a member of the zip there."""
    shape, is_fortran, dtype = read_npy_header(file)
    _check_plain(path, dtype)
    sides = _allowed(path, shape)
    data = file.read(sides[0] * sides[1] * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(sides, order="F" if is_fortran else "C")


def _read_npz(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        with archive.open(_only(path, names) + ".npy") as member:
            return _npy_from(path, member)


def _read_pfm(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        kind = file.readline(16).strip()
        if kind != b"Pf":
            raise InputError(f"{path}: begins with {kind!r}; depth is a PFM of one channel, Pf: write it as that")
        width, height = (int(side) for side in file.readline(64).split())
        order = "<" if float(file.readline(64)) < 0 else ">"
        sides = _allowed(path, (height, width))
        data = file.read(height * width * 4)
    return np.frombuffer(data, f"{order}f4").reshape(sides)[::-1]  # the last row comes first


def _read_dpt(path: Path) -> np.ndarray:
    width, height = read_tagged(path, "<i4")[:2].tolist()
    return read_tagged(path, "<f4", 8).reshape(_allowed(path, (height, width)))


def _read_h5(path: Path) -> np.ndarray:
    with open_h5(path) as file:
        stored = file[_only(path, list(file))]
        sides = _allowed(path, stored.shape)
        return stored[()].reshape(sides)


def _read_mat(path: Path) -> np.ndarray:
    if load_extra("h5py").is_hdf5(path):  # version 7.3, columns first
        return _read_h5(path).T
    matlab = load_extra("scipy.io")
    with reading(path, "as .mat", "check the path, or write or copy the file again", matlab.matlab.MatReadError):
        check_mat(path, most_bytes=8 * MOST_PIXELS + 2**12)  # of float64, and what stands before them
        shapes = {name: shape for name, shape, _ in matlab.whosmat(path)}
        name = _only(path, list(shapes))
        sides = _allowed(path, shapes[name])
        return matlab.loadmat(path, variable_names=[name])[name].reshape(sides)


_READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".png": read_depth_codes,
    ".pgm": _read_pgm,
    ".tif": _read_tiff,
    ".tiff": _read_tiff,
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pfm": _read_pfm,
    ".dpt": _read_dpt,
    ".exr": read_exr,
    ".h5": _read_h5,
    ".hdf5": _read_h5,
    ".dsp5": _read_h5,
    ".mat": _read_mat,
}
