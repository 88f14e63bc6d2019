import math

import numpy as np
import pytest

from steadydepth.errors import InputError
from steadydepth.inference.filters import FILTERS, causal_median, ema, ema_along_flow, filter_depth, filter_frames
from steadydepth.ops.smoothing import flow_ema

T, HEIGHT, WIDTH = 5, 13, 16


@pytest.fixture
def depth():
    return np.exp(np.random.default_rng(0).normal(size=(T, HEIGHT, WIDTH))).astype(np.float32)


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 256, (T, HEIGHT, WIDTH, 3), dtype=np.uint8)


def pixel(*values):
    return np.float64(values)[:, None, None]


def test_averages_and_medians_of_one_pixel_by_hand():
    depth = pixel(1, math.e**2, math.e**4)
    np.testing.assert_allclose(np.log(ema(depth, decay=0.5)).ravel(), [0, 1, 2.5])
    np.testing.assert_allclose(np.log(ema(depth, decay=0.75)).ravel(), [0, 0.5, 1.375])
    # The last three of 1, 4, 16, 2, 1; of two, the geometric mean.
    np.testing.assert_allclose(causal_median(pixel(1, 4, 16, 2, 1), window=3).ravel(), [1, 2, 4, 4, 2])


def test_along_the_flow_by_hand():
    depth = np.array([[[1.0, math.e, 1.0, 1.0]], [[1.0, 1.0, 1.0, math.e]]])
    backward = np.zeros((1, 1, 4, 2), np.float32)
    backward[..., 0] = -1  # everything went one pixel to the right
    trusted = np.array([[[False, True, True, True]]])
    smooth = np.log(flow_ema(depth, backward, trusted, decay=0.75))
    np.testing.assert_allclose(smooth, [[[0, 1, 0, 0]], [[0, 0, 0.75, 0.25]]], atol=1e-7)


def test_without_trust_the_average_starts_anew(depth):
    motion = np.zeros((T - 1, HEIGHT, WIDTH, 2), np.float32)
    nowhere = np.zeros(motion.shape[:3], bool)
    np.testing.assert_allclose(flow_ema(depth, motion, nowhere, decay=0.9), depth, rtol=1e-6)
    np.testing.assert_allclose(flow_ema(depth, motion, ~nowhere, decay=0.9), ema(depth, decay=0.9), rtol=1e-6)


@pytest.mark.parametrize("name", FILTERS)
def test_filters_are_causal_and_keep_size_type_and_input(name, depth, frames):
    before = depth.copy()
    whole = filter_depth(name, depth, frames)
    assert (whole.shape, whole.dtype) == (depth.shape, depth.dtype)
    np.testing.assert_array_equal(depth, before)
    for t in (1, 3):
        np.testing.assert_allclose(filter_depth(name, depth[:t], frames[:t]), whole[:t], rtol=1e-6)


@pytest.mark.parametrize("name", FILTERS)
def test_what_does_not_change_is_left_alone_and_a_factor_stays_one(name, depth, frames):
    still, still_frames = np.repeat(depth[:1], T, axis=0), np.repeat(frames[:1], T, axis=0)
    np.testing.assert_allclose(
        filter_depth(name, still, still_frames), still, rtol=2e-3 if name == "flow_ema" else 1e-6
    )
    np.testing.assert_allclose(filter_depth(name, 3 * depth, frames), 3 * filter_depth(name, depth, frames), rtol=1e-5)


@pytest.mark.parametrize("name", FILTERS)
def test_depth_and_its_inverse_are_filtered_alike(name, depth, frames):
    inverse = filter_depth(name, 1 / depth, frames)
    np.testing.assert_allclose(1 / inverse, filter_depth(name, depth, frames), rtol=1e-5)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_a_hole_is_handed_on_and_never_remembered(name, depth, frames, poison):
    holed = depth.copy()
    holed[1, 3, 4] = poison
    smooth = filter_depth(name, holed, np.repeat(frames[:1], T, axis=0))
    np.testing.assert_array_equal(smooth[1, 3, 4], np.float32(poison))
    others = np.ones(depth.shape, bool)
    others[1, 3, 4] = False
    assert np.isfinite(smooth[others]).all()
    assert (smooth[others] > 0).all()


def test_flow_follows_what_moves(frames):
    # One texture that moves two pixels a frame, and its depth with it: along the flow nothing changes.
    wide = np.random.default_rng(2).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    wide = np.repeat(np.repeat(wide, 4, axis=0), 4, axis=1)[:48]
    ramp = np.exp(np.linspace(0, 6, wide.shape[1]))[None].repeat(48, axis=0)
    views = [slice(20 - 2 * t, 84 - 2 * t) for t in range(T)]
    depth, moving = np.stack([ramp[:, view] for view in views]), np.stack([wide[:, view] for view in views])
    error = np.abs(np.log(ema_along_flow(depth, moving) / depth))
    late = np.abs(np.log(ema(depth, decay=0.8) / depth))
    assert np.median(error[-1]) < 0.05 * np.median(late[-1])


def test_mistakes_are_named(depth, frames):
    with pytest.raises(InputError, match="choose one of ema"):
        filter_depth("kalman", depth, frames)
    with pytest.raises(InputError, match="resize"):
        filter_depth("ema", depth, frames[:, :-1])


@pytest.mark.parametrize("name", FILTERS)
def test_frame_by_frame_equals_the_whole_clip(name, depth, frames):
    depth[1, 3, 4] = np.nan
    depth[2:4, 5, 6] = 0.0
    each = [(one.copy(), image) for one, image in zip(np.repeat(depth, 2, 0), np.repeat(frames, 2, 0), strict=True)]
    whole = filter_depth(name, np.stack([one for one, _ in each]), np.stack([image for _, image in each]))
    np.testing.assert_allclose(np.stack(list(filter_frames(name, iter(each)))), whole, rtol=1e-5)
    with pytest.raises(InputError, match="filter 'emma': unknown; choose one of ema"):
        next(filter_frames("emma", iter(each)))
