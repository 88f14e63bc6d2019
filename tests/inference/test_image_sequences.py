"""Image sequences as compositing programs have them: linear OpenEXR in, floats and images out, frame numbers kept."""

from functools import partial

import cv2
import numpy as np
import OpenEXR
import pytest
from known_depth import Red

from steadydepth.files.exr import read_exr
from steadydepth.files.images import read_colour
from steadydepth.files.stored_depth import read_predictions
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.ops.colours import colour_depth, depth_range
from steadydepth.ops.depth_view import DepthView
from steadydepth.types import InputError

T, H, W = 3, 12, 20
red = partial(Red, factor=1.0, offset=0.0)


def save_exr(path, **channels):
    path.parent.mkdir(parents=True, exist_ok=True)
    with OpenEXR.File({"type": OpenEXR.scanlineimage, "compression": OpenEXR.ZIP_COMPRESSION}, channels) as file:
        file.write(str(path))


@pytest.fixture
def linear():
    return np.random.default_rng(0).uniform(0, 1, (T, H, W, 3)).astype(np.float32)


@pytest.fixture
def shot(tmp_path, linear):
    """shot.0998.exr to shot.1000.exr, linear light in half floats."""
    for number, image in enumerate(linear.astype(np.float16)):
        red, green, blue = np.ascontiguousarray(image.transpose(2, 0, 1))
        save_exr(tmp_path / "shot" / f"shot.{998 + number:04d}.exr", R=red, G=green, B=blue)
    return tmp_path / "shot"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_linear_light_is_shown_as_srgb(tmp_path, dtype):
    light = np.array([[0, 1, 0.5, 0.0031308, 0.001, 2, -1, np.nan, np.inf, 0.2140]], dtype)
    save_exr(tmp_path / "a.exr", R=light, G=np.zeros_like(light), B=np.ones_like(light), A=light)
    image = read_colour(tmp_path / "a.exr")
    assert image[0, :, 0].tolist() == [0, 255, 188, 10, 3, 255, 0, 0, 255, 127]
    assert not image[..., 1].any()
    assert (image[..., 2] == 255).all()
    save_exr(tmp_path / "grey.exr", Y=light)
    np.testing.assert_array_equal(read_colour(tmp_path / "grey.exr"), image[..., :1].repeat(3, axis=-1))


def test_an_exr_that_is_no_frame_is_named(tmp_path):
    save_exr(tmp_path / "z.exr", Z=np.ones((H, W), np.float32))
    with pytest.raises(InputError, match=r"z\.exr: cannot be read as OpenEXR \(has no channel Y but Z; a frame has R"):
        read_colour(tmp_path / "z.exr")
    whole = (tmp_path / "z.exr").read_bytes()
    (tmp_path / "cut.exr").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut\.exr: cannot be read as OpenEXR"):
        read_colour(tmp_path / "cut.exr")


@pytest.mark.parametrize(("format", "rtol"), [("exr", 1e-6), ("exr16", 5e-4)])
def test_exr_in_and_out_with_the_numbers_of_the_frames(shot, tmp_path, format, rtol):
    predict_files(Predictor(red("disparity")), [shot], tmp_path / "out", format=format, keep_names=True)
    depth = tmp_path / "out" / "shot" / "depth"
    assert sorted(file.name for file in depth.iterdir()) == [f"shot.{n:04d}.exr" for n in (998, 999, 1000)]
    for number in (998, 999, 1000):
        expected = read_colour(shot / f"shot.{number:04d}.exr")[..., 0] / 255
        np.testing.assert_allclose(read_exr(depth / f"shot.{number:04d}.exr"), expected, rtol=rtol, atol=1e-7)
    with OpenEXR.File(str(depth / "shot.0998.exr")) as file:
        assert file.channels()["Z"].pixels.dtype == (np.float32 if format == "exr" else np.float16)


def test_without_names_evaluate_reads_half_floats(shot, tmp_path):
    predict_files(Predictor(red("disparity")), [shot], tmp_path / "out", format="exr16")
    depth, claims = read_predictions(tmp_path / "out", "shot")
    assert (depth.shape, claims) == ((T, H, W), "disparity")
    np.testing.assert_allclose(depth[2], read_colour(shot / "shot.1000.exr")[..., 0] / 255, rtol=5e-4, atol=1e-7)


@pytest.mark.parametrize("claims", ["disparity", "metric"])
def test_png_is_depth_in_colours_or_grey_of_16_bits(shot, tmp_path, claims):
    predictor = Predictor(red(claims))
    predict_files(predictor, [shot], tmp_path / "out", format="png", keep_names=True, view=DepthView("viridis"))
    depth = np.stack([result.depth for result in predictor.stream(shot)])
    near, far = depth_range(depth, claims=claims)
    shown = tmp_path / "out" / "shot" / "shown"
    assert sorted(file.name for file in shown.iterdir()) == [f"shot.{n:04d}.png" for n in (998, 999, 1000)]
    expected = colour_depth(depth[1], near, far, claims=claims, colours="viridis")
    np.testing.assert_array_equal(read_colour(shown / "shot.0999.png"), expected)
    view = DepthView("grey", near=2.0 if claims == "disparity" else 0.5, far=0.5 if claims == "disparity" else 2.0)
    predict_files(predictor, [shot], tmp_path / "grey", format="png", view=view)
    grey = cv2.imread(str(tmp_path / "grey" / "shot" / "shown" / "0001.png"), cv2.IMREAD_UNCHANGED)
    assert grey.dtype == np.uint16
    measured = depth[1] > (0 if claims == "metric" else -1)
    values = np.where(measured, depth[1], 1)
    share = (values - 0.5) / 1.5 if claims == "disparity" else (1 / values - 0.5) / 1.5
    np.testing.assert_allclose(grey[measured], 65535 * np.clip(share, 0, 1)[measured], atol=2)
    # Written once more over what is there.
    predict_files(predictor, [shot], tmp_path / "grey", format="png", view=view, overwrite=True)


def test_names_are_kept_only_where_there_are_any(tmp_path):
    image = np.zeros((H, W, 3), np.uint8)
    for name in ("a.png", "a.bmp"):
        (tmp_path / "twice").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "twice" / name), image)
    with pytest.raises(InputError, match="two images have one name but for the ending"):
        predict_files(
            Predictor(red("disparity")), [tmp_path / "twice"], tmp_path / "out", format="png", keep_names=True
        )
    (tmp_path / "walk" / "rgb").mkdir(parents=True)
    (tmp_path / "walk" / "meta.json").write_text('{"fps": 10}', encoding="utf-8")
    cv2.imwrite(str(tmp_path / "walk" / "rgb" / "0000.png"), image)
    with pytest.raises(InputError, match="its frames have no names to keep"):
        predict_files(Predictor(red("disparity")), [tmp_path / "walk"], tmp_path / "out", format="png", keep_names=True)


def test_look_ahead_reaches_the_images_that_are_written(shot, tmp_path):
    view, depth = (
        DepthView(look_ahead=1),
        np.stack([result.depth for result in Predictor(red("disparity")).stream(shot)]),
    )
    predict_files(Predictor(red("disparity")), [shot], tmp_path / "out", format="png", view=view)
    each = [depth_range([one], claims="disparity") for one in depth]
    for number, window in enumerate((each[:2], each, each[1:])):
        near, far = np.mean(window, axis=0).tolist()
        image = read_colour(tmp_path / "out" / "shot" / "shown" / f"{number:04d}.png")
        np.testing.assert_array_equal(image, colour_depth(depth[number], near, far, claims="disparity"))
