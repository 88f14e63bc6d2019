import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from steadydepth.errors import InputError
from steadydepth.files.image_formats import turn
from steadydepth.files.images import read_colour, read_labelled_colour, read_stored_colour, shown_together

SIZE = (24, 34)
LOSSLESS = {"png": {}, "bmp": {}, "tif": {"compression": "tiff_lzw"}, "webp": {"lossless": True}}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)


def save(path: Path, image, orientation=None, **options):
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        options["exif"] = exif
    Image.fromarray(image).save(path, **options)
    return path


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_images_of_every_kind_are_read_to_the_last_bit(tmp_path, image, kind):
    np.testing.assert_array_equal(read_colour(save(tmp_path / f"a.{kind}", image, **LOSSLESS[kind])), image)


def test_avif_is_read(tmp_path, image):
    smooth = cv2.GaussianBlur(image, (0, 0), 4)
    read = read_colour(save(tmp_path / "a.avif", smooth, quality=100, subsampling="4:4:4"))
    assert np.abs(read.astype(int) - smooth).mean() < 2


@pytest.mark.parametrize("kind", [*LOSSLESS, "jpg", "avif"])
def test_a_truncated_image_of_any_kind_is_refused(tmp_path, image, kind):
    path = save(tmp_path / f"a.{kind}", image)
    data = path.read_bytes()
    for share in (0.5, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(InputError, match=f"a.{kind}: .*again"):
            read_colour(path)


def test_what_is_not_of_8_bits_is_refused(tmp_path):
    Image.fromarray(np.full(SIZE, 3000, np.uint16)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: .*8-bit RGB: convert"):
        read_colour(tmp_path / "a.tif")


def test_a_kind_that_needs_a_package_names_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(InputError, match=r"a\.heic: .*pillow-heif.*or convert them to JPEG"):
        read_colour(tmp_path / "a.heic")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "webp", "tif", "jpg", "avif"])
def test_all_eight_orientations_are_as_they_are_shown(tmp_path, image, kind, orientation):
    image = cv2.GaussianBlur(image, (0, 0), 3)
    path = save(tmp_path / f"a.{kind}", image, orientation, **LOSSLESS.get(kind, {"quality": 95}))
    stored, found = read_stored_colour(path)
    assert found == orientation
    tolerance = 0 if kind in LOSSLESS else 16
    np.testing.assert_allclose(stored.astype(int), image, atol=tolerance)
    with Image.open(path) as opened:
        shown = np.asarray(ImageOps.exif_transpose(opened).convert("RGB"))
    np.testing.assert_allclose(read_colour(path).astype(int), shown, atol=0 if kind in LOSSLESS else 3)


def test_damage_in_the_orientation_takes_nothing_from_the_image(tmp_path, image):
    path = save(tmp_path / "a.jpg", image, 6)
    data = path.read_bytes()
    at = data.index(b"Exif\0\0")
    path.write_bytes(data[: at + 6] + b"\xff" * 8 + data[at + 14 :])
    assert read_colour(path).shape == image.shape


def test_labels_beside_a_turned_image_are_refused_and_beside_another_not(tmp_path, image):
    np.testing.assert_array_equal(read_labelled_colour(save(tmp_path / "a.png", image, 1)), image)
    with pytest.raises(InputError, match=r"b\.png: its EXIF orientation is 3.*exiftool.*auto-orient"):
        read_labelled_colour(save(tmp_path / "b.png", image, 3))


@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_depth_is_turned_with_its_image_or_both_are_refused(tmp_path, image, orientation):
    """Depth of the sensor lies as the image is stored; a quarter turn says so by the sizes, another does not."""
    path = save(tmp_path / "a.png", image, orientation)
    depth = image[..., 0].astype(np.float32)
    if orientation in (2, 3, 4):
        with pytest.raises(InputError, match=rf"a\.png: its EXIF orientation is {orientation}, and its depth has none"):
            shown_together(path, depth)
        return
    for stored in (depth, turn(depth, orientation)):
        shown, beside = shown_together(path, stored)
        np.testing.assert_array_equal(shown, turn(image, orientation))
        np.testing.assert_array_equal(beside, shown[..., 0])


def test_a_square_image_does_not_say_which_way_its_depth_lies(tmp_path, image):
    with pytest.raises(InputError, match="orientation is 6"):
        shown_together(save(tmp_path / "a.png", image[:, :24], 6), np.ones((24, 24), np.float32))


def test_the_bytes_say_the_kind_whatever_the_name(tmp_path, image):
    held = io.BytesIO()
    Image.fromarray(image).save(held, "webp", lossless=True)
    (tmp_path / "a.jpg").write_bytes(held.getvalue())
    np.testing.assert_array_equal(read_colour(tmp_path / "a.jpg"), image)


def turned_by_the_file(heic: bytes, quarters: int) -> bytes:
    """A HEIC with the property `irot`, quarters to the left, as telephones write it; no EXIF says so."""

    def grown(data: bytes, name: bytes, by: int) -> bytes:
        at = data.index(name) - 4
        return data[:at] + (int.from_bytes(data[at : at + 4], "big") + by).to_bytes(4, "big") + data[at + 4 :]

    at = heic.index(b"ipco") - 4
    end = at + int.from_bytes(heic[at : at + 4], "big")
    n_properties, place = 0, at + 8
    while place < end:
        n_properties, place = n_properties + 1, place + int.from_bytes(heic[place : place + 4], "big")
    heic = heic[:end] + b"\0\0\0\x09irot" + bytes([quarters]) + heic[end:]
    # One more property of the one item: version and flags, one item, its id, how many, and one byte each.
    at = heic.index(b"ipma") + 4
    assert heic[at : at + 8] == b"\0\0\0\0\0\0\0\x01"
    count = heic[at + 10]
    last = at + 11 + count
    heic = heic[: at + 10] + bytes([count + 1]) + heic[at + 11 : last] + bytes([0x80 | n_properties + 1]) + heic[last:]
    for name, by in ((b"ipma", 1), (b"ipco", 9), (b"iprp", 10), (b"meta", 10)):
        heic = grown(heic, name, by)
    # Where the image's own bytes lie, in iloc; they come last, after mdat.
    start = heic.index(b"mdat") + 4
    old = (start - 10).to_bytes(4, "big")
    assert heic.count(old, heic.index(b"iloc"), start) == 1
    at = heic.index(old, heic.index(b"iloc"))
    return heic[:at] + start.to_bytes(4, "big") + heic[at + 4 :]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_heic_is_read_as_its_file_turns_it(tmp_path, image, quarters):
    pillow_heif = pytest.importorskip("pillow_heif", reason="needs steadydepth[heif]")
    smooth = cv2.GaussianBlur(image, (0, 0), 4)
    pillow_heif.from_bytes("RGB", smooth.shape[1::-1], smooth.tobytes()).save(tmp_path / "a.heic", quality=95)
    data = (tmp_path / "a.heic").read_bytes()
    (tmp_path / "a.heic").write_bytes(turned_by_the_file(data, quarters) if quarters else data)
    shown = np.rot90(smooth, quarters)
    read = read_colour(tmp_path / "a.heic")
    assert read.shape == shown.shape
    assert np.abs(read.astype(int) - shown).mean() < 3
