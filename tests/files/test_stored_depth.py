import shutil

import numpy as np
import pytest

from steadydepth.errors import InputError
from steadydepth.files.predictions import write_prediction_images, write_predictions
from steadydepth.files.stored_depth import open_array, open_predictions, open_raw, read_predictions

T, HEIGHT, WIDTH = 7, 4, 5


@pytest.fixture
def depth():
    return np.random.default_rng(0).random((T, HEIGHT, WIDTH)).astype(np.float32)


def frames_of(stored):
    assert (stored.n_frames, stored.height, stored.width) == (T, HEIGHT, WIDTH)
    first, again = np.stack(list(stored.read())), np.stack(list(stored.read()))
    np.testing.assert_array_equal(first, again)
    assert first.dtype == np.float32
    return first


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", [np.float32, np.float16, ">f4", np.float64])
def test_a_packed_prediction_is_read_frame_by_frame(depth, tmp_path, save, kind):
    save(tmp_path / "a.npz", depth=depth.astype(kind), claims="scale")
    stored = open_predictions(tmp_path, "a")
    assert stored.claims == "scale"
    np.testing.assert_array_equal(frames_of(stored), depth.astype(kind).astype(np.float32))


def test_an_array_in_columns_is_read_whole(depth, tmp_path):
    np.savez(tmp_path / "a.npz", depth=np.asfortranarray(depth), claims="scale")
    np.testing.assert_array_equal(frames_of(open_predictions(tmp_path, "a")), depth)


def test_images_are_read_one_by_one(depth, tmp_path):
    write_prediction_images(tmp_path, "a", depth, "metric", depth_scale_m=0.001, fps=5.0)
    np.testing.assert_array_equal(frames_of(open_predictions(tmp_path, "a")), read_predictions(tmp_path, "a")[0])
    (tmp_path / "a" / "depth" / "0003.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"0003\.png"):
        list(open_predictions(tmp_path, "a").read())


def test_raw_frames_and_arrays(depth, tmp_path):
    (tmp_path / "a.raw").write_bytes(depth.tobytes())
    np.testing.assert_array_equal(frames_of(open_raw(tmp_path / "a.raw", depth.shape, "metric")), depth)
    np.testing.assert_array_equal(frames_of(open_array(depth.astype(np.float64), "metric")), depth)
    with pytest.raises(InputError, match="fewer than 8 frames"):
        list(open_raw(tmp_path / "a.raw", (8, HEIGHT, WIDTH), "metric").read())


def test_what_cannot_be_read_is_refused_as_by_the_reader_of_the_whole(depth, tmp_path):
    with pytest.raises(InputError, match="no prediction for a"):
        open_predictions(tmp_path, "a")
    np.savez(tmp_path / "b.npz", depth=depth[0], claims="scale")
    with pytest.raises(InputError, match=r"\(4, 5\)"):
        open_predictions(tmp_path, "b")
    np.savez(tmp_path / "c.npz", depth=depth, claims="guess")
    with pytest.raises(InputError, match="claims 'guess'"):
        open_predictions(tmp_path, "c")
    write_predictions(tmp_path, "d", depth, "metric")
    write_prediction_images(tmp_path, "d", depth, "metric", depth_scale_m=0.001, fps=5.0)
    with pytest.raises(InputError, match="both predict d"):
        open_predictions(tmp_path, "d")
    shutil.rmtree(tmp_path / "d")
    whole = (tmp_path / "d.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[300] ^= 255
    (tmp_path / "d.npz").write_bytes(bytes(damaged))
    with pytest.raises(InputError, match=r"d\.npz"):
        list(open_predictions(tmp_path, "d").read())
