"""Files made to take memory, or that hold something else than an image, are refused with next to no memory to take."""

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from steadydepth.files.depth_formats import read_numbers
from steadydepth.files.exr import write_exr
from steadydepth.files.images import encode_png, read_colour, read_pnm
from steadydepth.types import InputError

SIDE = 60_000


@contextmanager
def most_memory(extra: int) -> Iterator[None]:
    """No more than `extra` bytes of address space above what is taken now, where a process can limit it."""
    taken = Path("/proc/self/statm")
    if not taken.exists():
        yield
        return
    import resource

    pages = int(taken.read_text(encoding="utf-8").split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def large_npy(path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({SIDE}, {SIDE}), }}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


def large_exr(path: Path) -> None:
    write_exr(path, np.ones((3, 5), np.float32))
    data = path.read_bytes()
    small, large = struct.pack("<4i", 0, 0, 4, 2), struct.pack("<4i", 0, 0, SIDE - 1, SIDE - 1)
    assert data.count(small) == 2  # the window of what is stored, and of what is shown
    path.write_bytes(data.replace(small, large))


def large_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("depth", (SIDE, SIDE), "f4", chunks=(100, 100), compression="gzip")


def large_png(path: Path, kind: type = np.uint16, channels: tuple[int, ...] = ()) -> None:
    data = encode_png(np.ones((3, 5, *channels), kind))
    header = b"IHDR" + struct.pack(">II", SIDE, SIDE) + data[24:29]
    path.write_bytes(data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:])


def large_jpg(path: Path) -> None:
    data = cv2.imencode(".jpg", np.ones((3, 5, 3), np.uint8))[1].tobytes()
    at = data.index(b"\xff\xc0") + 5
    path.write_bytes(data[:at] + struct.pack(">HH", SIDE, SIDE) + data[at + 4 :])


# How a file of that kind is written, and what reads it.
FILES = {
    "a.npy": (large_npy, read_numbers),
    "a.exr": (large_exr, read_numbers),
    "a.h5": (large_h5, read_numbers),
    "a.mat": (large_h5, read_numbers),
    "a.pfm": (lambda path: path.write_bytes(f"Pf\n{SIDE} {SIDE}\n-1\n".encode()), read_numbers),
    "a.dpt": (lambda path: path.write_bytes(struct.pack("<fii", 202021.25, SIDE, SIDE)), read_numbers),
    "a.pgm": (lambda path: path.write_bytes(f"P5 {SIDE} {SIDE} 65535\n".encode()), read_pnm),
    "depth.png": (large_png, read_numbers),
    "rgb.png": (partial(large_png, kind=np.uint8, channels=(3,)), read_colour),
    "rgb.jpg": (large_jpg, read_colour),
}


@pytest.mark.parametrize("name", FILES)
def test_what_promises_60000_x_60000_is_refused_with_200_mb_to_spare(tmp_path, name):
    write, read = FILES[name]
    write(tmp_path / name)
    assert (tmp_path / name).stat().st_size < 10_000
    with most_memory(200 << 20), pytest.raises(InputError, match=f"{name}.*60000 x 60000"):
        read(tmp_path / name)


def test_an_hdf5_of_a_group_or_of_text_is_refused(tmp_path):
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file.create_group("depth")
    with h5py.File(tmp_path / "text.h5", "w") as file:
        file["depth"] = np.array([[b"far", b"near"]])
    for name in ("group.h5", "text.h5"):
        with pytest.raises(InputError, match=name):
            read_numbers(tmp_path / name)


def test_sides_below_zero_are_refused_though_their_product_is_not(tmp_path):
    (tmp_path / "a.pfm").write_bytes(b"Pf\n-5 -3\n-1.0\n" + bytes(60))
    with pytest.raises(InputError, match="-5 x -3"):
        read_numbers(tmp_path / "a.pfm")


def test_a_tiff_of_more_pixels_than_pillow_opens_is_refused(tmp_path):
    Image.fromarray(np.ones((3, 5), np.float32)).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    sides = [struct.pack("<HHII", tag, kind, 1, side) for tag, side in ((256, 5), (257, 3)) for kind in (3, 4)]
    for entry in (one for one in sides if one in data):
        data = data.replace(entry, entry[:2] + struct.pack("<HII", 4, 1, SIDE))
    (tmp_path / "a.tif").write_bytes(data)
    for read in (read_numbers, read_colour):
        with most_memory(200 << 20), pytest.raises(InputError, match=r"a\.tif.*3600000000 pixels"):
            read(tmp_path / "a.tif")
