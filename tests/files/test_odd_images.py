"""Images that are more, or other, than one image of 8 bits: the first is taken and the rest named, or all refused."""

import io
import os
import struct
import sys
from importlib.metadata import version

import cv2
import numpy as np
import pytest
from PIL import Image

from steadydepth.files.images import read_colour
from steadydepth.types import InputError


@pytest.fixture
def image():
    coarse = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return coarse.repeat(8, 0).repeat(8, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}),
        ("a.webp", {"lossless": True, "duration": 40}),
        ("a.tif", {}),
        ("a.avif", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_of_several_images_in_a_file_the_first_is_taken_and_that_is_said_once(tmp_path, image, caplog, name, options):
    first, second = Image.fromarray(image), Image.fromarray(255 - image)
    first.save(tmp_path / name, save_all=True, append_images=[second, second], **options)
    for _ in range(2):
        assert np.abs(read_colour(tmp_path / name).astype(int) - image).max() <= (6 if name == "a.avif" else 0)
    assert caplog.text.count(f"{tmp_path / name}: holds") == 1
    assert "of which the first is taken" in caplog.text


def test_the_small_copy_in_a_tiff_is_no_other_image(tmp_path, image, caplog):
    small = Image.fromarray(image[::4, ::4])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(image).save(tmp_path / "a.tif", save_all=True, append_images=[small])
    np.testing.assert_array_equal(read_colour(tmp_path / "a.tif"), image)
    assert caplog.text == ""


def test_a_turn_is_found_behind_any_number_of_other_parts(tmp_path, image):
    exif, plain = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(image).save(plain, "JPEG", exif=exif, quality=95)
    data = plain.getvalue()
    colours = (b"\xff\xe2" + struct.pack(">H", 65533) + b"Exif\0\0" * 8000)[:65535].ljust(65535, b"x")
    (tmp_path / "plain.jpg").write_bytes(data)
    (tmp_path / "late.jpg").write_bytes(data[:2] + 4 * colours + b"\xff" + data[2:])
    assert read_colour(tmp_path / "plain.jpg").shape == (48, 32, 3)
    np.testing.assert_array_equal(read_colour(tmp_path / "late.jpg"), read_colour(tmp_path / "plain.jpg"))


@pytest.mark.parametrize("image_type", [np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_tiff_of_more_than_8_bits_is_refused_as_png_is(tmp_path, image, image_type, channels):
    cv2.imwrite(str(tmp_path / "a.tif"), image.astype(image_type)[..., :channels])
    with pytest.raises(InputError, match=r"a\.tif: .* more than 8 bits; frames are 8-bit RGB"):
        read_colour(tmp_path / "a.tif")


@pytest.mark.skipif(sys.platform == "win32", reason="no pipe lies among files there")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is a pipe"):
        read_colour(tmp_path / "a.png")


# Pillow before 13 does not read the YCbCr TIFF that it writes; `read_colour` refuses it by name.
YCBCR = pytest.param("YCbCr", marks=pytest.mark.skipif(int(version("pillow").split(".")[0]) < 13, reason="Pillow 12"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "LAB", YCBCR])
def test_every_mode_of_8_bits_is_the_colours_that_it_means(tmp_path, image, mode):
    """Grey repeated, a palette looked up, ink and Lab turned to RGB, alpha dropped."""
    given = Image.fromarray(image).convert("P" if mode == "PA" else mode)
    name = "a.tif" if mode in ("CMYK", "LAB", "YCbCr") else "a.png"
    (given.convert("PA").convert("RGBA") if mode == "PA" else given).save(tmp_path / name)
    np.testing.assert_allclose(read_colour(tmp_path / name), np.array(given.convert("RGB")), atol=1)
