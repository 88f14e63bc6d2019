"""Damage that ends a process which reads it with SciPy is an error before that."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.io

from steadydepth.errors import InputError
from steadydepth.files.mat_files import check_mat
from steadydepth.layouts.nyu import _numbers

TRAIN = np.arange(1.0, 40)[:, None]
TYPE_OF_NUMBERS, FLAGS = 192, 145  # places in the file below


def mat(*, is_packed=False, **variables):
    file = io.BytesIO()
    scipy.io.savemat(file, variables, do_compression=is_packed)
    return file.getvalue()


def flip(data, place, bit):
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


@pytest.mark.parametrize("is_packed", [False, True])
def test_files_as_they_are_written_pass(tmp_path, is_packed):
    path = tmp_path / "splits.mat"
    others = {"b": 1 + 2j, "c": "text", "d": {"e": 1}, "f": np.zeros((0, 3)), "g": np.array([[1, "x"]], object)}
    path.write_bytes(mat(is_packed=is_packed, trainNdxs=TRAIN, testNdxs=TRAIN + 40, **others))
    check_mat(path, most_bytes=2**20)
    assert _numbers(path, "train") == list(range(39))
    assert _numbers(path, "test") == list(range(40, 79))


@pytest.mark.parametrize(("place", "bit"), [(TYPE_OF_NUMBERS, 6), (TYPE_OF_NUMBERS + 1, 4), (FLAGS, 3)])
def test_a_flipped_bit_is_named_and_ends_no_process(tmp_path, place, bit):
    path = tmp_path / "splits.mat"
    path.write_bytes(flip(mat(trainNdxs=TRAIN, testNdxs=TRAIN + 40), place, bit))
    with pytest.raises(InputError, match=r"splits\.mat: cannot be read as the toolbox's splits\.mat"):
        _numbers(path, "train")


READERS = {
    "from steadydepth.layouts.nyu import _numbers; read = lambda path: _numbers(path, 'train')": {
        "trainNdxs": TRAIN[:3]
    },
    "from steadydepth.files.depth_formats import read_numbers as read": {"depth": TRAIN[:6].reshape(2, 3)},
}


@pytest.mark.parametrize("reader", READERS, ids=["splits", "depth"])
def test_no_flipped_bit_ends_a_process(tmp_path, reader):
    """One process reads what is left of all of them: SciPy ends it without the check."""
    data = mat(**READERS[reader])
    for number, (place, bit) in enumerate((place, bit) for place in range(120, len(data)) for bit in range(8)):
        (tmp_path / f"{number}.mat").write_bytes(flip(data, place, bit))
    code = (
        f"import sys, warnings; from pathlib import Path; {reader}\n"
        "from steadydepth.errors import InputError\n"
        "warnings.simplefilter('ignore'); fine = 0\n"
        "for path in Path(sys.argv[1]).iterdir():\n"
        "    try: read(path); fine += 1\n"
        "    except InputError: pass\n"
        "print(fine)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) < 8 * (len(data) - 120)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda data: data[:-9], "ends after the file"),
        (lambda data: data[:131], "unpack_from requires"),
        (lambda data: data[:128] + struct.pack("<II", 9, 8) + bytes(8), "something else than variables"),
        (lambda data: data[:128] + struct.pack("<II", 15, 5) + b"xxxxx", "incorrect header check"),
    ],
)
def test_other_damage_is_an_error(tmp_path, damage, rule):
    (tmp_path / "a.mat").write_bytes(damage(mat(trainNdxs=TRAIN)))
    with pytest.raises((ValueError, struct.error, zlib.error), match=rule):
        check_mat(tmp_path / "a.mat", most_bytes=2**20)


def test_what_is_packed_takes_no_memory_without_end(tmp_path):
    bomb = zlib.compress(bytes(2**25))
    (tmp_path / "a.mat").write_bytes(mat()[:128] + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(ValueError, match="far too large"):
        check_mat(tmp_path / "a.mat", most_bytes=2**20)
