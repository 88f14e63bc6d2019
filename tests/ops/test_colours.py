import cv2
import numpy as np
import pytest

from steadydepth.ops import colours
from steadydepth.ops.colours import colour_depth, colour_error, depth_range, error_top, follow_range, is_measured

T, H, W = 5, 24, 40


def turbo(index: int) -> list[int]:
    return cv2.applyColorMap(np.array([[index]], np.uint8), cv2.COLORMAP_TURBO)[0, 0, ::-1].tolist()


def test_range_is_the_percentiles_of_the_whole_video():
    depth = np.random.default_rng(0).gamma(2.0, 3.0, (T, H, W)).astype(np.float32)
    near, far = depth_range(iter(depth))
    assert (near, far) == pytest.approx(np.percentile(depth, [2, 98]).tolist(), rel=1e-6)
    assert depth_range([depth]) == pytest.approx((near, far))
    assert depth_range(depth, claims="disparity") == pytest.approx((far, near))


def test_range_of_a_long_video_is_sampled_evenly(monkeypatch):
    monkeypatch.setattr(colours, "_SAMPLES", 1000)
    rising = np.linspace(1, 100, 200 * H * W, dtype=np.float32).reshape(200, H, W)
    near, far = depth_range(iter(rising))
    assert near == pytest.approx(1 + 0.02 * 99, abs=0.3)
    assert far == pytest.approx(1 + 0.98 * 99, abs=0.3)


@pytest.mark.parametrize("poison", [0.0, -3.0, np.nan, np.inf])
def test_invalid_pixels_do_not_move_the_range(poison):
    depth = np.random.default_rng(0).uniform(1, 9, (T, H, W)).astype(np.float32)
    valid = np.random.default_rng(1).random((T, H, W)) > 0.4
    clean = depth_range([depth[valid].reshape(1, 1, -1)])
    dirty = np.where(valid, depth, np.float32(poison))
    assert depth_range(iter(dirty)) == pytest.approx(clean)


def test_range_is_never_empty():
    nothing = np.zeros((1, H, W), np.float32)
    assert depth_range([nothing]) == (1.0, 2.0)
    assert depth_range([]) == (1.0, 2.0)
    for claims, value in (("metric", 3.0), ("affine", -3.0), ("affine", 0.0), ("disparity", 0.0)):
        near, far = depth_range([nothing + np.float32(value)], claims=claims)
        assert (near > far) is (claims == "disparity")
        assert colour_depth(nothing, near, far, claims=claims).shape == (1, H, W, 3)


def test_near_is_warm_far_is_cold_and_the_middle_is_the_harmonic_mean():
    depth = np.array([[2.0, 10.0, 1.0, 99.0, 2 / (1 / 2 + 1 / 10), 0.0, -1.0, np.nan, np.inf]], np.float32)
    shown = colour_depth(depth, 2.0, 10.0)[0].tolist()
    assert shown[:2] == [turbo(255), turbo(0)]
    assert shown[2:4] == [turbo(255), turbo(0)]  # beyond the ends
    assert shown[4] in (turbo(127), turbo(128))
    assert shown[5:] == [[0, 0, 0]] * 4
    red, _, blue = shown[0]
    assert red > blue
    red, _, blue = shown[1]
    assert blue > red


def test_disparity_and_affine_are_linear_in_their_values():
    disparity = np.array([[1.0, 0.0, 0.2]], np.float32)
    assert colour_depth(disparity, 1.0, 0.0, claims="disparity")[0].tolist() == [turbo(255), turbo(0), turbo(51)]
    affine = np.array([[-1.0, 1.0, 0.6]], np.float32)
    assert colour_depth(affine, -1.0, 1.0, claims="affine")[0].tolist() == [turbo(255), turbo(0), turbo(51)]


def test_masked_pixels_are_black_and_one_range_serves_the_whole_video():
    depth = np.random.default_rng(0).uniform(1, 9, (T, H, W)).astype(np.float32)
    valid = np.random.default_rng(1).random((T, H, W)) > 0.4
    video = colour_depth(depth, 1.0, 9.0, valid)
    assert video.shape == (T, H, W, 3)
    assert video.dtype == np.uint8
    assert not video[~valid].any()
    assert video[valid].any(axis=-1).all()
    np.testing.assert_array_equal(video[3], colour_depth(depth[3], 1.0, 9.0, valid[3]))


@pytest.mark.parametrize(
    ("near", "far", "claims"),
    [
        (2, 2, "metric"),
        (3, 2, "metric"),
        (0, 2, "scale"),
        (-1, 2, "metric"),
        (np.nan, 2, "metric"),
        (1, 2, "disparity"),
    ],
)
def test_a_range_that_is_none_is_refused(near, far, claims):
    with pytest.raises(ValueError, match="are no range of"):
        colour_depth(np.ones((H, W), np.float32), float(near), float(far), claims=claims)


def test_only_depth_has_a_known_zero():
    values = np.array([[1.0, 0.0, -1.0, np.nan, np.inf]], np.float32)
    assert is_measured(values, "metric").tolist() == [[True, False, False, False, False]]
    assert is_measured(values, "disparity").tolist() == [[True, True, True, False, False]]


def magma(index: int) -> list[int]:
    return cv2.applyColorMap(np.array([[index]], np.uint8), cv2.COLORMAP_MAGMA)[0, 0, ::-1].tolist()


def test_errors_go_from_black_to_pale_yellow_and_what_has_no_label_is_grey():
    error = np.array([[0.0, 0.5, 0.2, 9.0, np.nan, np.inf]])
    valid = np.array([[True, True, True, True, False, False]])
    shown = colour_error(error, 0.5, valid)[0].tolist()
    assert shown == [magma(0), magma(255), magma(102), magma(255), [128] * 3, [128] * 3]
    assert sum(shown[0]) < 10 < 500 < sum(shown[1])


def test_the_worst_error_shown_is_a_percentile_of_all_valid_errors_together():
    one, other = (np.random.default_rng(seed).random((2, 3, 4)) for seed in (0, 1))
    valid = np.random.default_rng(2).random((2, 3, 4)) > 0.3
    expected = np.percentile(np.concatenate((one[valid], other[valid])), 98)
    assert error_top([one, other], [valid, valid]) == pytest.approx(expected)
    poisoned = np.where(valid, one, np.nan)
    assert error_top([poisoned, other], [valid, valid]) == pytest.approx(expected)
    assert error_top([one], [np.zeros_like(valid)]) == 1
    assert error_top([], []) == 1
    assert error_top([0 * one], [valid]) > 0


@pytest.mark.parametrize("claims", ["metric", "disparity"])
def test_the_range_of_live_depth_follows_slowly(claims):
    frames = [np.full((8, 12), 2.0, np.float32), np.full((8, 12), 4.0, np.float32)]
    for frame in frames:
        frame[:, 4:] *= 3  # two of every three columns that are looked at
    first, now = (depth_range([frame[::4, ::4]], claims=claims) for frame in frames)
    assert follow_range(None, frames[0], claims=claims) == first
    expected = (0.98 * first[0] + 0.02 * now[0], 0.98 * first[1] + 0.02 * now[1])
    assert follow_range(first, frames[1], claims=claims) == pytest.approx(expected)
    assert follow_range(first, np.full((8, 12), np.nan, np.float32), claims=claims) == first
    followed = first
    for _ in range(300):
        followed = follow_range(followed, frames[1], claims=claims)
    assert followed == pytest.approx(now, rel=0.01)


def test_a_constant_has_a_range_however_small_it_is():
    for value in (5e-7, 2.0, 1e6):
        near, far = depth_range([np.full((1, 4, 4), value, np.float32)])
        assert 0 < near < value < far
