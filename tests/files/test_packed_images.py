import numpy as np
import pytest
import zstandard

from steadydepth.files.packed_images import _SKIPPABLE, decode_image, encode_image, is_packed


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (6, 9, 3), (1, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_decoded_is_what_was_encoded(shape, dtype):
    most = np.iinfo(dtype).max
    noise = np.random.default_rng(0).integers(0, most, shape, dtype, endpoint=True)
    extremes = (np.indices(shape).sum(axis=0) % 2 * most).astype(dtype)
    for image in (noise, extremes, np.zeros(shape, dtype)):
        data = encode_image(image)
        decoded = decode_image(data)
        assert decoded.dtype == dtype
        np.testing.assert_array_equal(decoded, image)


def test_a_smooth_image_whose_colours_change_together_gets_small():
    y, x = np.mgrid[:40, :56]
    grey = (3 * y + 2 * x).astype(np.uint8)
    assert len(encode_image(np.dstack((grey, grey, grey)))) < 300
    depth = (1000 + 7 * y - 5 * x).astype(np.uint16)
    assert len(encode_image(depth)) < 300


def test_what_is_cut_short_or_no_such_image_is_said():
    data = encode_image(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8))
    with pytest.raises(ValueError, match="cannot be unpacked"):
        decode_image(data[:-9])
    with pytest.raises(ValueError, match="no header"):
        decode_image(b"\x89PNG")
    with pytest.raises(ValueError, match="9 channels of 1 bytes"):
        decode_image(data[:13] + b"\x09" + data[14:])


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [(6, 1, "one channel is a difference"), (8, 0, "0 x 7 pixels"), (12, 0, "5 x 0 pixels"), (5, 2, "2 channels")],
)
def test_a_header_that_says_what_cannot_be_is_refused(at, value, message):
    data = bytearray(encode_image(np.arange(35, dtype=np.uint16).reshape(5, 7)))
    data[8 + at] = value  # behind the beginning of a skippable frame
    with pytest.raises(ValueError, match=message):
        decode_image(bytes(data))


def test_it_is_a_zstandard_stream_and_files_of_before_are_read():
    image = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    data = encode_image(image)
    rows = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True).read()
    assert len(rows) == image.size
    before = data[len(_SKIPPABLE) :]
    assert is_packed(data)
    assert is_packed(before)
    np.testing.assert_array_equal(decode_image(before), image)
