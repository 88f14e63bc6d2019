import numpy as np
import pytest

from steadydepth.ops.colours import colour_depth, colour_map, depth_range, nearness
from steadydepth.ops.depth_view import DepthView
from steadydepth.types import InputError

T, H, W = 12, 8, 10


@pytest.fixture
def video():
    depth = np.random.default_rng(0).gamma(2.0, 3.0, (T, H, W)).astype(np.float32) + 1
    return depth * np.linspace(1, 3, T, dtype=np.float32)[:, None, None]


def shown(view, video, claims="metric", starts=(0,)):
    return [ends for ends, _ in zip(view.ranges(lambda: iter(video), claims, starts), video, strict=False)]


def test_percentiles_are_those_of_the_whole_video(video):
    near, far = np.percentile(video, [5, 90])
    assert shown(DepthView(range="5-90"), video) == [pytest.approx((near, far), rel=1e-6)] * T
    assert shown(DepthView(range="0-100"), video, "disparity")[3] == pytest.approx((video.max(), video.min()))


def test_median_range_is_on_the_scale_that_is_shown():
    values = np.array([[[1.0, 2.0, 3.0, 4.0, 10.0]]], np.float32)
    # Median 3; distances 2, 1, 0, 1, 7, in the mean 2.2: 3 - 5.5 and 3 + 5.5, within the values.
    assert depth_range(values, percentiles=None, is_linear=True) == pytest.approx((1.0, 8.5))
    assert depth_range(values, percentiles=None, claims="disparity") == pytest.approx((8.5, 1.0))
    inverse = 1 / values.astype(np.float64)
    spread = np.abs(inverse - np.median(inverse)).mean()
    near = 1 / min(np.median(inverse) + 2.5 * spread, 1.0)
    assert depth_range(values, percentiles=None) == pytest.approx((near, 10.0), rel=1e-6)


def test_look_ahead_is_the_mean_of_the_ranges_around_each_frame_within_its_shot(video):
    each = np.array([depth_range([frame]) for frame in video])
    found = np.array(shown(DepthView(look_ahead=2), video, starts=(0, 5)))
    for number in range(T):
        first, last = (0, 5) if number < 5 else (5, T)
        window = each[max(first, number - 2) : min(last, number + 3)]
        np.testing.assert_allclose(found[number], window.mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(shown(DepthView(look_ahead=99), video)[7], each.mean(axis=0), rtol=1e-9)


def test_ends_given_by_hand_win_over_those_found(video):
    assert shown(DepthView(near=0.5, far=20.0), []) == []
    assert shown(DepthView(near=0.5, far=20.0), video) == [(0.5, 20.0)] * T
    found = shown(DepthView(), video)[0]
    assert shown(DepthView(near=0.5), video)[0] == (0.5, found[1])
    assert shown(DepthView(far=2.5), video)[0][1] == 2.5
    near, far = shown(DepthView(near=500.0), video)[0]  # all of the video is nearer
    assert near == 500 < far
    near, far = shown(DepthView(near=-3.0), video, "disparity")[0]
    assert near == -3 > far


@pytest.mark.parametrize(
    ("view", "rule"),
    [
        ({"range": "98-2"}, "two percentiles from 0 to 100"),
        ({"range": ".-98"}, "two percentiles from 0 to 100"),
        ({"range": "1.2.3-98"}, "two percentiles from 0 to 100"),
        ({"range": "2-101"}, "two percentiles"),
        ({"range": "mean"}, "or median"),
        ({"range": "1.2.3-4"}, "two percentiles"),
        ({"look_ahead": 0}, "a range of one frame flickers"),
        ({"colours": "rainbows"}, "unknown; choose grey or a colour map of matplotlib"),
    ],
)
def test_what_cannot_be_shown_is_refused(view, rule):
    with pytest.raises(InputError, match=rule):
        DepthView(**view)


def test_near_and_far_fit_the_claims():
    with pytest.raises(InputError, match="depth is above 0"):
        DepthView(near=0.0).check("metric")
    with pytest.raises(InputError, match="near is 3 and far 2; of metric values near is the smaller"):
        DepthView(near=3.0, far=2.0).check("metric")
    with pytest.raises(InputError, match="near is 2 and far 3; of disparity values near is the larger"):
        DepthView(near=2.0, far=3.0).check("disparity")
    DepthView(near=3.0, far=-2.0).check("disparity")
    DepthView(near=-3.0, far=-2.0).check("affine")


def test_nearness_is_linear_in_inverse_depth_or_in_depth():
    depth = np.array([[1.0, 4.0, 2.0, 0.5, 9.0, np.nan, -1.0]], np.float32)
    inverse = [1, 0, (1 / 2 - 1 / 4) / (1 - 1 / 4), 1, 0, np.nan, np.nan]
    np.testing.assert_allclose(nearness(depth, 1.0, 4.0)[0], inverse, rtol=1e-6)
    np.testing.assert_allclose(nearness(depth, 1.0, 4.0, is_linear=True)[0, :3], [1, 0, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(nearness(depth, 4.0, 1.0, claims="disparity")[0, :3], [0, 1, 1 / 3], rtol=1e-6)


def test_colours_are_those_of_matplotlib():
    from matplotlib import colormaps

    assert DepthView(colours="grey").is_grey
    np.testing.assert_array_equal(colour_map("grey")[[0, 7, 255]], [[0] * 3, [7] * 3, [255] * 3])
    for name in ("turbo", "viridis", "Spectral_r", "gray_r"):
        expected = np.rint(255 * colormaps[name](np.arange(256))[:, :3])
        np.testing.assert_array_equal(colour_map(name), expected)
    depth = np.array([[1.0, 4.0, np.nan]], np.float32)
    ends = [list(map(int, colour_map("Spectral_r")[i])) for i in (255, 0)]
    assert colour_depth(depth, 1.0, 4.0, colours="Spectral_r")[0].tolist() == [*ends, [0, 0, 0]]


def test_without_matplotlib_its_maps_are_named_with_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[colours\]'"):
        colour_map("PiYG")
    assert len(colour_map("cividis")) == 256


@pytest.mark.parametrize(("end", "claims"), [({"near": 0.0}, "disparity"), ({"far": 0.0}, "affine")])
def test_an_end_at_zero_leaves_a_range(end, claims):
    """The other end is on the wrong side of it, and gives way."""
    video = np.linspace(1, 2, 24, dtype=np.float32).reshape(2, 3, 4)
    view = DepthView(**end)
    for near, far in shown(view, video, claims):
        assert view.nearness(video[0], (near, far), claims).shape == (3, 4)
