import json
import pickle
import sys

import cv2
import numpy as np
import OpenEXR
import pytest

from steadydepth.files.exr import read_exr, write_exr
from steadydepth.files.predictions import (
    encode_range,
    find_predictions,
    image_scale,
    read_noted,
    write_prediction_exr,
    write_prediction_images,
    write_predictions,
)
from steadydepth.files.stored_depth import open_predictions, read_predictions
from steadydepth.types import InputError

T, H, W = 5, 24, 40


@pytest.fixture
def depth() -> np.ndarray:
    return np.random.default_rng(0).uniform(0.5, 60, (T, H, W)).astype(np.float32)


@pytest.mark.parametrize("claims", ["metric", "scale", "affine", "disparity"])
def test_npz_is_read_back_exactly(tmp_path, depth, claims):
    depth[1, 2, 3] = np.nan
    path = write_predictions(tmp_path / "out", "a", depth, claims)
    assert path == tmp_path / "out" / "a.npz"
    again, claimed = read_predictions(tmp_path / "out", "a")
    np.testing.assert_array_equal(again, depth)
    assert again.dtype == np.float32
    assert claimed == claims
    with np.load(path, allow_pickle=False) as plain:  # as others read it
        assert plain["claims"].item() == claims
        assert plain["depth"].shape == (T, H, W)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a.npz"]


def test_float16_npz_of_others_is_read(tmp_path, depth):
    np.savez_compressed(tmp_path / "a.npz", depth=depth.astype(np.float16), claims="scale")
    again, claims = read_predictions(tmp_path, "a")
    np.testing.assert_array_equal(again, depth.astype(np.float16).astype(np.float32))
    assert claims == "scale"


def test_memory_mapped_depth_is_written_whole(tmp_path, depth):
    depth.tofile(tmp_path / "raw")
    mapped = np.memmap(tmp_path / "raw", np.float32, "r", shape=depth.shape)
    write_predictions(tmp_path, "a", mapped, "metric")
    np.testing.assert_array_equal(read_predictions(tmp_path, "a")[0], depth)


def test_images_are_read_back_to_half_a_step(tmp_path, depth):
    depth[1, 2, 3], depth[1, 2, 4], depth[1, 2, 5] = np.nan, 0.0, 1e-6
    scale, _ = image_scale(0.0, 60.0, "metric")
    folder = write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=scale, fps=12.5)
    assert json.loads((folder / "meta.json").read_text(encoding="utf-8")) == {
        "fps": 12.5,
        "depth_scale_m": 0.001,
        "claims": "metric",
        "filter": "none",
    }
    code = cv2.imread(str(folder / "depth" / "0004.png"), cv2.IMREAD_UNCHANGED)
    assert code.dtype == np.uint16
    np.testing.assert_array_equal(code, np.rint(depth[4].astype(np.float64) / 0.001))
    again, claims = read_predictions(tmp_path, "a")
    assert claims == "metric"
    assert again[1, 2, 3:6].tolist() == pytest.approx([np.nan, np.nan, 0.001], nan_ok=True)  # positive stays so
    depth[1, 2, 3:6] = again[1, 2, 3:6]
    np.testing.assert_allclose(again, depth, atol=0.000502)
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_scale_of_images_fits_the_largest_value():
    assert image_scale(0.1, 65.535, "metric") == (0.001, 0)
    assert image_scale(0.1, 80.0, "metric") == pytest.approx((80 / 65535, 0))
    assert image_scale(0.0, 0.0, "metric") == (1, 0)


def test_holes_of_disparity_are_told_from_its_zeros_in_images(tmp_path, depth):
    values = depth - depth.min()
    values[:, :2] = np.nan
    step, offset = image_scale(0.0, float(np.nanmax(values)), "disparity")
    options = {"depth_scale_m": step, "depth_offset": offset, "fps": 10.0}
    write_prediction_images(tmp_path, "a", iter(values), "disparity", **options)
    for again in (read_predictions(tmp_path, "a")[0], np.stack(list(open_predictions(tmp_path, "a").read()))):
        np.testing.assert_allclose(again, values, atol=0.51 * step)  # NaN where it was, 0 where it was


def test_values_about_zero_are_kept_in_images_with_an_offset(tmp_path, depth):
    values = depth - depth.mean()
    values[1, 2, 3] = np.nan
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    step, offset = image_scale(low, high, "affine")
    options = {"depth_scale_m": step, "depth_offset": offset, "fps": 10.0}
    folder = write_prediction_images(tmp_path, "a", iter(values), "affine", **options)
    assert json.loads((folder / "meta.json").read_text(encoding="utf-8"))["depth_offset"] == offset
    for again in (read_predictions(tmp_path, "a")[0], np.stack(list(open_predictions(tmp_path, "a").read()))):
        np.testing.assert_allclose(again, values, atol=0.51 * step + 1e-6)  # NaN where it was
    assert cv2.imread(str(folder / "depth" / "0001.png"), cv2.IMREAD_UNCHANGED)[2, 3] == 0
    # One value alone, below 0.
    assert image_scale(-2.0, -2.0, "affine")[1] == pytest.approx(-2, rel=1e-5)


@pytest.mark.parametrize("bad", [-0.1, 65.6])
def test_value_that_does_not_fit_a_image_is_refused_and_leaves_nothing(tmp_path, depth, bad):
    depth[3, 1, 1] = bad
    with pytest.raises(InputError, match=r"a, frame 0003: .* does not fit 16 bits at 0\.001 a step: write npz"):
        write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=0.001, fps=10.0)
    assert list(tmp_path.iterdir()) == []


def test_predictions_are_found_by_name(tmp_path, depth):
    write_predictions(tmp_path, "b", depth, "metric")
    write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=0.001, fps=10.0)
    (tmp_path / ".b.part").mkdir()
    (tmp_path / "b_preview.mp4").write_bytes(b"")
    assert find_predictions(tmp_path) == ["a", "b"]
    with pytest.raises(InputError, match=r"no prediction for c; it is c\.npz or c/depth/0000\.png"):
        read_predictions(tmp_path, "c")
    with pytest.raises(InputError, match="is no folder"):
        find_predictions(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no predictions"):
        find_predictions(tmp_path / "empty")


@pytest.mark.parametrize("claims", ["metric", "affine"])
def test_exr_is_read_back_exactly(tmp_path, depth, claims):
    depth[1, 2, 3], depth[1, 2, 4], depth[4, 5, 6] = np.nan, -np.inf, -2.5e-30
    folder = write_prediction_exr(tmp_path, "a", iter(depth), claims, fps=12.5)
    assert folder == tmp_path / "a"
    assert sorted(file.name for file in (folder / "depth").iterdir()) == [f"{i:04d}.exr" for i in range(T)]
    assert json.loads((folder / "meta.json").read_text(encoding="utf-8")) == {
        "fps": 12.5,
        "claims": claims,
        "filter": "none",
    }
    again, claimed = read_predictions(tmp_path, "a")
    np.testing.assert_array_equal(again, depth)
    assert (again.dtype, claimed) == (np.float32, claims)
    assert find_predictions(tmp_path) == ["a"]
    with OpenEXR.File(str(folder / "depth" / "0003.exr")) as plain:  # as others read it
        assert list(plain.channels()) == ["Z"]
        np.testing.assert_array_equal(plain.channels()["Z"].pixels, depth[3])


def save_channels(path, **channels):
    with OpenEXR.File({"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}, channels) as file:
        file.write(str(path))


def test_the_only_channel_is_depth_whatever_its_name_and_z_is_where_there_are_more(tmp_path, depth):
    half, full = depth[0].astype(np.float16), depth[0]
    save_channels(tmp_path / "y.exr", Y=half)
    np.testing.assert_array_equal(read_exr(tmp_path / "y.exr"), half.astype(np.float32))
    save_channels(tmp_path / "more.exr", Z=full, A=half)
    np.testing.assert_array_equal(read_exr(tmp_path / "more.exr"), full)
    save_channels(tmp_path / "colour.exr", R=half, G=half, B=half)
    with pytest.raises(InputError, match=r"colour\.exr: has the channels B float16, G float16, R float16; depth is"):
        read_exr(tmp_path / "colour.exr")
    save_channels(tmp_path / "whole.exr", Z=np.ones((H, W), np.uint32))
    with pytest.raises(InputError, match=r"whole\.exr: has the channels Z uint32; depth is floats"):
        read_exr(tmp_path / "whole.exr")


def test_a_damaged_exr_is_named(tmp_path, depth):
    path = tmp_path / "a.exr"
    write_exr(path, depth[0])
    for content in (path.read_bytes()[:-40], b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.exr: cannot be read as OpenEXR"):
            read_exr(path)


def test_a_folder_of_both_kinds_or_with_a_gap_is_refused(tmp_path, depth):
    folder = write_prediction_exr(tmp_path, "a", iter(depth), "metric", fps=10.0) / "depth"
    cv2.imwrite(str(folder / "0005.png"), np.ones((H, W), np.uint16))
    with pytest.raises(InputError, match=r"holds no 0005\.exr and 0005\.png"):
        read_predictions(tmp_path, "a")
    (folder / "0005.png").unlink()
    (folder / "0002.exr").unlink()
    with pytest.raises(InputError, match=r"holds no 0002\.exr"):
        read_predictions(tmp_path, "a")


def test_without_the_package_the_extra_is_named(tmp_path, depth, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[exr\]'"):
        write_prediction_exr(tmp_path, "a", iter(depth), "metric", fps=10.0)
    assert list(tmp_path.iterdir()) == []


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a prediction was unpickled",))


def npz(**arrays: object):
    return lambda path: np.savez(path, **arrays)


def cut_in_half(path):
    np.savez(path, depth=np.ones((T, H, W), np.float32), claims="metric")
    path.write_bytes(path.read_bytes()[: T * H * W * 2])


def bare_array(path):
    with path.open("wb") as file:
        np.save(file, GOOD)


GOOD = np.ones((T, H, W), np.float32)
BAD_NPZ = {
    "no npz": (lambda path: path.write_text("hello", encoding="utf-8"), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read"),
    "truncated": (cut_in_half, "cannot be read"),
    "pickled": (lambda path: path.write_bytes(pickle.dumps(Trap())), "cannot be read"),
    "npy": (bare_array, "cannot be read"),
    "object array": (npz(depth=np.array([Trap()]), claims="metric"), "cannot be read"),
    "pickled claims": (npz(depth=GOOD, claims=np.array(Trap())), "cannot be read"),
    "no depth": (npz(claims="metric"), "no array depth"),
    "no claims": (npz(depth=GOOD), "no array claims"),
    "two axes": (
        npz(depth=GOOD[0], claims="metric"),
        r"depth is float32 \(24, 40\); it is float16 or float32 \(t, h, w",
    ),
    "four axes": (npz(depth=GOOD[None], claims="metric"), r"it is float16 or float32 \(t, h, w\)"),
    "no frame": (npz(depth=GOOD[:0], claims="metric"), r"depth is float32 \(0, 24, 40\)"),
    "whole numbers": (npz(depth=GOOD.astype(np.int32), claims="metric"), "depth is int32"),
    "unknown claims": (
        npz(depth=GOOD, claims="metres"),
        "claims 'metres'; it is one of metric, scale, affine, disparity",
    ),
    "claims a number": (npz(depth=GOOD, claims=3), "claims 3; it is one of"),
    "two claims": (npz(depth=GOOD, claims=["metric", "scale"]), "it is one of"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz_is_named_with_its_rule(tmp_path, case):
    make, rule = BAD_NPZ[case]
    make(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"a\.npz: .*" + rule):
        read_predictions(tmp_path, "a")


def test_what_is_noted_is_never_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", depth=GOOD, claims="metric", filter=np.array([Trap()]))
    assert read_noted(tmp_path / "a.npz") == {}


def meta(**changes: object):
    def change(folder):
        values = json.loads((folder / "meta.json").read_text(encoding="utf-8")) | changes
        (folder / "meta.json").write_text(
            json.dumps({k: v for k, v in values.items() if v is not ...}), encoding="utf-8"
        )

    return change


def cut_image(folder):
    data = (folder / "depth" / "0002.png").read_bytes()
    (folder / "depth" / "0002.png").write_bytes(data[:-20])


BAD_IMAGES = {
    "gap": (
        lambda folder: (folder / "depth" / "0002.png").unlink(),
        r"holds no 0002\.png; .*add those that are missing",
    ),
    "other names": (
        lambda folder: (folder / "depth" / "0002.png").rename(folder / "depth" / "2.png"),
        r"no 0002\.png and 2\.png; it has 0000\.png, 0001\.png",
    ),
    "truncated": (cut_image, r"0002\.png: truncated PNG"),
    "8 bits": (
        lambda f: cv2.imwrite(str(f / "depth" / "0002.png"), np.ones((H, W), np.uint8)),
        "8-bit .*16-bit",
    ),
    "size": (lambda f: cv2.imwrite(str(f / "depth" / "0002.png"), np.ones((H, 9), np.uint16)), r"\(24, 9\), the first"),
    "no meta": (lambda folder: (folder / "meta.json").unlink(), "as JSON with claims and depth_scale_m"),
    "no scale": (meta(depth_scale_m=...), "as JSON with claims and depth_scale_m"),
    "scale of 0": (meta(depth_scale_m=0), "a step of 0 from 0; a step is above 0"),
    "scale below 0": (meta(depth_scale_m=-0.001), "a step of -0.001 from 0; a step is above 0"),
    "offset of NaN": (meta(depth_offset=float("nan")), "a step of 0.001 from nan; .*finite"),
    "no claims": (meta(claims=...), "as JSON with claims and depth_scale_m"),
    "unknown claims": (meta(claims="inverse"), "claims 'inverse'; it is one of"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_image_folder_is_named_with_its_rule(tmp_path, depth, case):
    damage, rule = BAD_IMAGES[case]
    damage(write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=0.001, fps=10.0))
    with pytest.raises(InputError, match=rule):
        read_predictions(tmp_path, "a")


def test_what_a_desktop_leaves_among_images_is_passed_over(tmp_path, depth):
    folder = write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=0.001, fps=10.0)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (folder / "depth" / name).write_bytes(b"\0")
    assert read_predictions(tmp_path, "a")[0].shape == depth.shape


def test_more_than_ten_thousand_images_keep_their_order(tmp_path):
    frames = (np.full((2, 3), value, np.float32) for value in (1, 2, 3))
    folder = write_prediction_images(tmp_path, "a", frames, "scale", depth_scale_m=1.0, fps=10.0) / "depth"
    for old, new in (("0002", "10001"), ("0001", "10000")):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
    for number in range(1, 10_000):
        (folder / f"{number:04d}.png").hardlink_to(folder / "0000.png")
    depth, _ = read_predictions(tmp_path, "a")
    assert depth[[0, 9999, 10000, 10001], 0, 0].tolist() == [1, 1, 2, 3]


def test_npz_beside_images_of_one_name_is_refused(tmp_path, depth):
    write_predictions(tmp_path, "a", depth, "metric")
    write_prediction_images(tmp_path, "a", iter(depth), "metric", depth_scale_m=0.001, fps=10.0)
    with pytest.raises(InputError, match="both predict a"):
        read_predictions(tmp_path, "a")


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "/a", "a\\b"])
def test_names_that_climb_out_are_refused(tmp_path, depth, name):
    with pytest.raises(InputError, match="is no name"):
        write_predictions(tmp_path / "in", name, depth, "metric")
    with pytest.raises(InputError, match="is no name"):
        read_predictions(tmp_path / "in", name)
    assert list(tmp_path.iterdir()) == []


def test_codes_of_a_range_are_exact_to_half_a_step():
    values = np.geomspace(0.5, 80, H * W).reshape(1, H, W).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    codes = encode_range(values[0], low, high, is_log=True)
    assert (codes[0, 0], codes[-1, -1]) == (1, 65535)
    factor = (high / low) ** (0.5 / 65534)
    decoded = low * (high / low) ** ((codes.astype(np.float64) - 1) / 65534)
    np.testing.assert_allclose(decoded, values[0], rtol=factor - 1 + 1e-7)
    linear = low + (high - low) * (encode_range(values[0], low, high, is_log=False).astype(np.float64) - 1) / 65534
    np.testing.assert_allclose(linear, values[0], atol=0.5 * (high - low) / 65534 + 1e-5)
    outside = np.array([[np.nan, low / 2, high * 2, np.inf, low, -1.0]], np.float32)
    assert encode_range(outside, low, high, is_log=True).tolist() == [[0, 0, 0, 0, 1, 0]]


def test_what_half_a_float_cannot_hold_is_refused_and_leaves_nothing(tmp_path, depth):
    depth[3, 2, 1] = 70_000
    with pytest.raises(InputError, match=r"70000 does not fit floats of 16 bits"):
        write_prediction_exr(tmp_path, "a", iter(depth), "scale", fps=10.0, is_half=True)
    assert list(tmp_path.iterdir()) == []
    depth[3, 2, 1] = np.inf
    write_prediction_exr(tmp_path, "a", iter(depth), "scale", fps=10.0, is_half=True)
