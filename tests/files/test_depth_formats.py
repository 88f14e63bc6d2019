import io
import struct
import zipfile

import cv2
import h5py
import numpy as np
import OpenEXR
import pytest
import scipy.io
from PIL import Image

from steadydepth.files.depth_formats import read_numbers
from steadydepth.files.exr import write_exr
from steadydepth.files.images import read_pnm, write_png
from steadydepth.types import InputError

VALUES = np.arange(15, dtype=np.float32).reshape(3, 5) + 0.25


def pfm(values, order="<"):
    scale = -1.0 if order == "<" else 1.0
    return f"Pf\n{values.shape[1]} {values.shape[0]}\n{scale}\n".encode() + values[::-1].astype(f"{order}f4").tobytes()


def dpt(values):
    return struct.pack("<fii", 202021.25, values.shape[1], values.shape[0]) + values.astype("<f4").tobytes()


def npz(path, **arrays):
    np.savez_compressed(path, **arrays)


def exr(path, **channels):
    with OpenEXR.File({"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}, channels) as file:
        file.write(str(path))


def h5(path, **arrays):
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name] = values


WRITERS = {
    "a.npy": lambda path: np.save(path, VALUES[..., None]),
    "fortran.npy": lambda path: np.save(path, np.asfortranarray(VALUES.astype(np.float64))),
    "one.npz": lambda path: npz(path, anything=VALUES),
    "named.npz": lambda path: npz(path, mask=VALUES > 3, depth=VALUES),
    "little.pfm": lambda path: path.write_bytes(pfm(VALUES)),
    "big.pfm": lambda path: path.write_bytes(pfm(VALUES, ">")),
    "a.dpt": lambda path: path.write_bytes(dpt(VALUES)),
    "a.exr": lambda path: write_exr(path, VALUES),
    "layers.exr": lambda path: exr(path, **{"ViewLayer.Combined.R": 2 * VALUES, "ViewLayer.Depth.Z": VALUES}),
    "blender5.exr": lambda path: exr(path, **{"ViewLayer.Image.R": 2 * VALUES, "ViewLayer.Depth.V": VALUES}),
    "a.tif": lambda path: Image.fromarray(VALUES).save(path),
    "packed.tiff": lambda path: Image.fromarray(VALUES).save(path, compression="tiff_adobe_deflate"),
    "a.h5": lambda path: h5(path, dataset=VALUES),
    "named.hdf5": lambda path: h5(path, depth=VALUES, other=VALUES + 1),
    "a.dsp5": lambda path: h5(path, disparity=VALUES),
    "old.mat": lambda path: scipy.io.savemat(path, {"depth": VALUES, "x": [1]}, do_compression=True),
    "new.mat": lambda path: h5(path, depth=VALUES.T),  # version 7.3 is HDF5, columns first
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_numbers(tmp_path, name):
    WRITERS[name](tmp_path / name)
    numbers = read_numbers(tmp_path / name)
    assert numbers.dtype == np.float32
    np.testing.assert_array_equal(numbers, VALUES)


def test_16_bit_png_gives_its_codes(tmp_path):
    write_png(tmp_path / "a.png", np.array([[0, 1], [256, 65535]], np.uint16))
    assert read_numbers(tmp_path / "a.png").tolist() == [[0, 1], [256, 65535]]


def test_netpbm_images_by_hand(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 # made by hand\n2 1\n65535\n" + bytes([1, 2, 255, 0]))
    assert read_pnm(tmp_path / "a.pgm").tolist() == [[258, 65280]]
    (tmp_path / "a.ppm").write_bytes(b"P6\n1 2\n255\n" + bytes([1, 2, 3, 4, 5, 6]))
    assert read_pnm(tmp_path / "a.ppm").tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "new.mat"])
def test_truncated_files_and_files_of_another_kind_are_refused(tmp_path, name):
    WRITERS[name](tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"not what the name says" * 9):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=name):
            read_numbers(tmp_path / name)
    with pytest.raises(InputError, match=f"missing_{name}"):
        read_numbers(tmp_path / f"missing_{name}")


def test_a_zip_bomb_is_unpacked_no_further_than_its_header_says(tmp_path, monkeypatch):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (3, 5)})
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", header.getvalue() + b"\0" * 30_000_000)
    asked = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: asked.append(n) or read(self, n))
    assert read_numbers(tmp_path / "bomb.npz").shape == (3, 5)
    assert 0 < max(asked) <= 1024
    assert min(asked) >= 0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": VALUES, "b": VALUES}, "holds a, b; name one of them depth"),
        ({"depth": np.array([["a", "b"], ["c", "d"]])}, "depth is plain numbers"),
        ({"depth": np.zeros((2, 3, 4))}, r"shape \(2, 3, 4\); one image is \(h, w\)"),
        ({"depth": np.array([[{}, {}], [{}, {}]], object)}, "depth is plain numbers"),
    ],
)
def test_arrays_that_are_no_depth_are_refused(tmp_path, arrays, message):
    npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_numbers(tmp_path / "a.npz")


def test_an_unknown_suffix_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match=r"no depth format; there is \.png, \.pgm"):
        read_numbers(tmp_path / "a.raw")


@pytest.mark.parametrize("name", ["a.png", "a.pgm", "a.tif"])
def test_16_bits_are_codes_whatever_holds_them(tmp_path, name):
    codes = np.arange(65535, 65535 - 12, -1, dtype=np.uint16).reshape(3, 4)
    cv2.imwrite(str(tmp_path / name), codes)
    np.testing.assert_array_equal(read_numbers(tmp_path / name), codes.astype(np.float32))


def test_two_layers_with_depth_and_tiff_of_bytes_are_refused(tmp_path):
    exr(tmp_path / "a.exr", **{"Near.Z": VALUES, "Far.Z": VALUES})
    with pytest.raises(InputError, match=r"channels Far\.Z float32, Near\.Z float32; depth is floats in one channel Z"):
        read_numbers(tmp_path / "a.exr")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: holds L of 8 bits"):
        read_numbers(tmp_path / "a.tif")
    cv2.imwrite(str(tmp_path / "b.tif"), np.zeros((3, 4), np.float64))
    with pytest.raises(InputError, match=r"b\.tif: .*not read, such as float64: they are float32"):
        read_numbers(tmp_path / "b.tif")
