"""Stereo pairs: by hand, beside a second camera of the synthetic world, and as predict writes them."""

from dataclasses import replace
from functools import partial

import av
import cv2
import numpy as np
import pytest
from known_depth import Red

from steadydepth.files.video_read import probe_video, read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.session import Session
from steadydepth.inference.stereo import Stereo, anaglyph, move_by, side_by_side
from steadydepth.ops.depth_view import DepthView
from steadydepth.synthetic.rays import cast, make_grid
from steadydepth.synthetic.scene import draw_scene
from steadydepth.synthetic.shading import blur_textures, find_surface, rays_through, shade
from steadydepth.synthetic.world import make_clip
from steadydepth.types import InputError

H, W = 12, 40
red = partial(Red, factor=1.0, offset=0.0)


def columns() -> np.ndarray:
    """Each column has a colour of its own."""
    return np.broadcast_to((5 * np.arange(W, dtype=np.uint8) + 10)[None, :, None], (H, W, 3)).copy()


def test_one_plane_moves_as_a_whole_and_its_border_is_mirrored():
    image = columns()
    moved = move_by(image, np.full((H, W), 6.0, np.float32), 0.5)
    np.testing.assert_array_equal(moved[:, 3:], image[:, :-3])
    np.testing.assert_array_equal(moved[:, :3], image[:, [2, 1, 0]])
    moved = move_by(image, np.full((H, W), 5.0, np.float32), -0.5)
    np.testing.assert_allclose(moved[:, 1:-3], image[:, 1:-3] + 12.5, atol=0.51)  # between two columns


def test_the_near_one_is_in_front_and_the_background_fills_what_it_uncovers():
    image, disparity = columns(), np.zeros((H, W), np.float32)
    image[:, 15:20] = 255
    disparity[:, 15:20] = 8
    left, right = move_by(image, disparity, 0.5), move_by(image, disparity, -0.5)
    for moved, start in ((left, 19), (right, 11)):
        np.testing.assert_array_equal(moved[:, start : start + 5], 255)
    # Behind it: the columns beside, mirrored; on its other side the background is covered.
    np.testing.assert_array_equal(left[:, 15:19], image[:, [14, 13, 12, 11]])
    np.testing.assert_array_equal(right[:, 16:20], image[:, [23, 22, 21, 20]])
    np.testing.assert_array_equal(left[:, :15], image[:, :15])
    np.testing.assert_array_equal(left[:, 25:], image[:, 25:])


def test_a_hole_is_filled_by_the_edge_where_the_background_beside_it_ends():
    image, disparity = columns(), np.full((H, W), 8.0, np.float32)
    disparity[:, 18:20] = 0  # two columns of background between near things
    moved = move_by(image, disparity, -0.5)
    # Near columns 20.. come to 16.., over the background; 0..17 leave to the left.
    np.testing.assert_array_equal(moved[:, 16:36], image[:, 20:])
    np.testing.assert_array_equal(moved[:, :14], image[:, 4:18])


def test_a_stretched_surface_has_no_holes():
    disparity = np.broadcast_to(np.linspace(0, 36, W, dtype=np.float32), (H, W)).copy()
    image = columns()
    moved = move_by(image, disparity, 0.5)
    # x goes to x + 36 / 39 * x / 2.
    expected = np.arange(W) / (1 + 18 / (W - 1)) * 5 + 10
    np.testing.assert_allclose(moved[0, :, 0], expected, atol=4)


def test_disparity_by_hand():
    stereo = Stereo(separation=10.0, convergence=0.25)
    nearness = np.array([[1.0, 0.25, 0.0, np.nan]], np.float32).repeat(25, axis=1)
    np.testing.assert_allclose(stereo.disparity(nearness)[0, ::25], [7.5, 0, -2.5, -2.5], atol=1e-6)
    with pytest.raises(InputError, match="goes from 0 to 10"):
        Stereo(separation=11.0)
    with pytest.raises(InputError, match="it is a number"):
        Stereo(convergence=float("nan"))


def test_anaglyph_and_side_by_side_by_hand():
    left, right = np.full((2, 3, 3), 100, np.uint8), np.full((2, 3, 3), (7, 8, 9), np.uint8)
    assert (anaglyph(left, right) == (100, 8, 9)).all()
    left[..., 1:] = 0
    assert (anaglyph(left, right)[..., 0] == 30).all()
    assert side_by_side(left, right).shape == (2, 6, 3)


def render(scene, height, width):
    grid = make_grid(scene, rays_through(np.arange(height)), rays_through(np.arange(width)))
    numbers = list(range(len(scene.solids)))
    hits = cast(scene, 0, grid, numbers)
    light = shade(scene, 0, find_surface(scene, 0, grid, hits, numbers, blur_textures(scene)), grid)
    light = cv2.resize(light, (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(255 * np.clip(light, 0, 1) ** (1 / 2.2)).astype(np.uint8)


def moved_sideways(scene, metres):
    poses = scene.cam_to_world.copy()
    poses[:, :3, 3] += metres * poses[:, :3, 0]
    return replace(scene, cam_to_world=poses)


def test_both_eyes_see_what_two_cameras_of_a_world_see():
    """From the middle camera's image and true depth, beside cameras 3 cm to the left and right of it."""
    height, width, baseline_m = 96, 128, 0.06
    scene = draw_scene(np.random.default_rng(4), n_frames=1, fps=15.0, height=height, width=width, fixed_camera=True)
    grid = make_grid(scene, np.arange(height, dtype=float), np.arange(width, dtype=float))
    depth = cast(scene, 0, grid, list(range(len(scene.solids)))).depth.astype(np.float32)
    near, far = float(depth.min()), float(depth.max())
    focal_px = scene.K[0, 0]
    # focal * baseline / depth pixels, as separation and convergence.
    pixels = focal_px * baseline_m * (1 / near - 1 / far)
    stereo = Stereo(100 * pixels / width, -focal_px * baseline_m / far / pixels)
    image = render(scene, height, width)
    pair = stereo.pair(image, DepthView().nearness(depth, (near, far), "metric"))
    np.testing.assert_allclose(
        stereo.disparity(DepthView().nearness(depth, (near, far), "metric")), focal_px * baseline_m / depth, rtol=1e-3
    )
    for made, metres in zip(pair, (-baseline_m / 2, baseline_m / 2), strict=True):
        true = render(moved_sideways(scene, metres), height, width).astype(float)
        error, before = (np.abs(one - true).mean(axis=-1) for one in (made, image))
        assert error.mean() < 0.25 * before.mean()
        assert np.median(error) < 2 < np.median(before)
        assert np.mean(error > 20) < 0.03 < np.mean(before > 20)


@pytest.fixture
def film(tmp_path):
    rows = np.linspace(0, 250, 48).astype(np.uint8)
    frames = np.broadcast_to(rows[None, :, None, None], (4, 48, 64, 3)).copy()
    write_video(tmp_path / "film.mp4", frames, 10.0)
    return tmp_path / "film.mp4"


@pytest.mark.parametrize(("format", "width"), [("sbs", 128), ("anaglyph", 64)])
def test_predict_writes_pairs_with_the_times_of_the_video(film, tmp_path, format, width):
    (path,) = predict_files(Predictor(red("disparity")), [film], tmp_path / "out", format=format, stereo=Stereo(10.0))
    assert path.name == f"film_{format}.mp4"
    info = probe_video(path)
    assert (info.n_frames, info.height, info.width, info.fps) == (4, 48, width, 10.0)
    image = next(read_video(path))
    if format == "sbs":  # one depth in each row: both eyes see its grey
        assert np.abs(image[:, :64].astype(int) - image[:, 64:]).max() <= 6
    with av.open(str(path)) as file:
        assert [round(10 * frame.time) for frame in file.decode(video=0)] == [0, 1, 2, 3]


def test_a_photo_becomes_an_image(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), columns())
    (path,) = predict_files(Predictor(red("disparity")), [tmp_path / "a.png"], tmp_path / "out", format="sbs")
    assert path.name == "a_sbs.png"
    assert cv2.imread(str(path)).shape == (H, 2 * W, 3)


class Flickering:
    """True inverse depth times a factor and plus an offset of each frame's own, and blotches that come and go."""

    claims = "disparity"

    def __init__(self, depth):
        generator = np.random.default_rng(0)
        coarse = generator.normal(0, 0.04, (len(depth), 6, 8)).astype(np.float32)
        blotches = np.stack([cv2.resize(one, depth.shape[:0:-1], interpolation=cv2.INTER_CUBIC) for one in coarse])
        factor, offset = 1 + 0.01 * generator.normal(size=(2, len(depth), 1, 1)).astype(np.float32)
        self.disparity, self.at = (1 + blotches) * factor / depth + 0.02 * (offset - 1), 0

    def fit(self, image):
        return image

    def __call__(self, images, state):
        first, self.at = self.at, self.at + len(images)
        return self.disparity[first : self.at], {}

    def frames_at_once(self, height, width):
        return 4


def test_with_the_filter_the_disparity_range_of_what_stands_still_is_half_as_uneasy_in_ten_scenes():
    """Standard deviation over time of the range from the 5th to the 95th percentile, as a share of its mean.

    Blotches of 4 % of the disparity are a larger share of the range where all lies at about the same distance.
    """
    spreads = []
    for seed in range(20, 30):
        clip = make_clip(seed, fixed_camera=True, n_frames=20, height=96, width=128)
        static = (clip.objects == 0).all(axis=0)
        raw, filtered = (
            np.stack([result.depth for result in Session(Flickering(clip.depth), filter=filter).run(clip.frames)])
            for filter in ("none", "learned")
        )
        shown = [
            list(zip(depth, DepthView().ranges(lambda depth=depth: iter(depth), "disparity"), strict=False))
            for depth in (raw, filtered)
        ]
        shown.append([(frame, (float(frame.max()), float(frame.min()))) for frame in filtered])  # min-max of each frame
        ranges = [
            np.subtract(*np.percentile([Stereo().disparity(DepthView().nearness(*each, "disparity"))[static]
                                        for each in one], [95, 5], axis=1))[5:]
            for one in shown
        ]  # fmt: skip
        spreads.append([one.std() / one.mean() for one in ranges])
    raw, filtered, own = np.transpose(spreads)
    assert (filtered < raw).all()
    assert np.median(filtered / raw) < 0.6
    assert np.median(filtered) < 0.02 < np.median(raw)
    assert filtered.max() < 0.05
    assert np.median(own) > 2 * np.median(filtered)
