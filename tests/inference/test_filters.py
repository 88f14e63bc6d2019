import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from steadydepth.errors import InputError
from steadydepth.inference.filters import NAMES, choose_filter, filter_depth, open_filter
from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.temporal_filter import load_gates
from steadydepth.ops.sampling import sample
from steadydepth.ops.smoothing import FILTERS, backward_places, causal_median, ema, flow_ema, middle

T, HEIGHT, WIDTH = 5, 13, 16


@pytest.fixture
def depth():
    return np.exp(np.random.default_rng(0).normal(size=(T, HEIGHT, WIDTH))).astype(np.float32)


@pytest.fixture
def frames():
    return np.random.default_rng(1).integers(0, 256, (T, HEIGHT, WIDTH, 3), dtype=np.uint8)


def no_motion():
    raise AssertionError("a filter asked for motion")


def run(step, *frames, motion=no_motion, **settings):
    """The values of each frame after `step`."""
    memory, found = {}, []
    for frame in frames:
        value, memory = step(np.float64(frame), memory, motion, **settings)
        found.append(value.tolist())
    return found


def test_averages_and_medians_of_one_pixel_by_hand():
    assert run(ema, [0], [2], [4], decay=0.5) == [[0], [1], [2.5]]
    assert run(ema, [0], [2], [4], decay=0.75) == [[0], [0.5], [1.375]]
    # The last three of 0, 2, 4, 1, 0; of two, their mean.
    assert run(causal_median, [0], [2], [4], [1], [0], window=3) == [[0], [1], [2], [2], [1]]


def test_filters_have_the_decays_and_the_window_of_their_names():
    assert run(FILTERS["ema"], [0], [2]) == [[0], [1]]
    np.testing.assert_allclose(run(FILTERS["ema_0.8"], [0], [2]), [[0], [0.4]])
    # The last five.
    assert run(FILTERS["median"], [0], [5], [1], [4], [2], [9]) == [[0], [2.5], [1], [2.5], [2], [4]]
    still = (backward_places(np.zeros((1, 1, 2), np.float32)), np.ones(1, bool))
    np.testing.assert_allclose(run(FILTERS["flow_ema"], [0], [2], motion=lambda: still), [[0], [0.4]])


def test_a_median_is_of_the_frames_that_have_a_value():
    recent = np.array([[1, np.nan, 6, np.nan], [8, 4, np.nan, np.nan], [3, np.nan, 2, np.nan]])
    assert middle(recent).tolist() == [3, 4, 4, 0]


def test_places_follow_the_flow_across_and_down():
    backward, values = np.zeros((4, 3, 2), np.float32), np.arange(12.0)[None]
    backward[1, 1], backward[2, 0], backward[3, 2] = (-1, 2), (2, -1), (np.nan, 1)
    found = sample(values, backward_places(backward))[0].reshape(4, 3)
    # Row 3 and column 0, row 1 and column 2; what is not known is where it was.
    assert (found[1, 1], found[2, 0], found[0, 2]) == (9, 5, 2)


def test_along_the_flow_by_hand():
    backward = np.zeros((1, 4, 2), np.float32)
    backward[..., 0] = -1  # everything went one pixel to the right
    trusted = np.array([False, True, True, True])

    def motion():
        return backward_places(backward), trusted

    found = run(flow_ema, [0, 1, 0, 0], [0, 0, 0, 1], motion=motion, decay=0.75)
    np.testing.assert_allclose(found, [[0, 1, 0, 0], [0, 0, 0.75, 0.25]], atol=1e-7)
    nowhere = (backward_places(backward), np.zeros(4, bool))
    assert run(flow_ema, [0, 1, 2, 3], [5, 6, 7, 8], motion=lambda: nowhere, decay=0.9)[1] == [5, 6, 7, 8]


def test_a_frame_that_is_written_over_afterwards_is_remembered_as_it_was(depth, frames):
    expected = filter_depth("flow_ema", depth, frames)
    step, buffer, state = open_filter("flow_ema", "metric"), np.empty_like(frames[0]), None
    for number in range(T):
        buffer[:] = frames[number]
        found, state = step(depth[number], buffer, state)
        np.testing.assert_allclose(found, expected[number], rtol=1e-6)


def test_only_a_filter_along_the_flow_asks_for_motion():
    for name in ("ema", "ema_0.8", "median"):
        run(FILTERS[name], [0], [2])
    with pytest.raises(AssertionError, match="asked for motion"):
        run(FILTERS["flow_ema"], [0], [2])


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
@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_an_offset_stays_one_where_numbers_may_be_negative(name, claims, depth, frames):
    shifted = filter_depth(name, depth - 3, frames, claims=claims)
    np.testing.assert_allclose(shifted, filter_depth(name, depth, frames, claims=claims) - 3, atol=1e-5)


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


def test_flow_follows_what_moves():
    # One texture that moves two pixels a frame, and its depth with it: along the flow nothing changes.
    wide = np.random.default_rng(2).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    wide = np.repeat(np.repeat(wide, 4, axis=0), 4, axis=1)[:48]
    ramp = np.exp(np.linspace(0, 6, wide.shape[1]))[None].repeat(48, axis=0)
    views = [slice(20 - 2 * t, 84 - 2 * t) for t in range(T)]
    depth, moving = np.stack([ramp[:, view] for view in views]), np.stack([wide[:, view] for view in views])
    error = np.abs(np.log(filter_depth("flow_ema", depth, moving) / depth))
    late = np.abs(np.log(filter_depth("ema_0.8", depth, moving) / depth))
    assert np.median(error[-1]) < 0.05 * np.median(late[-1])


def test_mistakes_are_named(depth, frames):
    with pytest.raises(InputError, match="filter 'kalman': unknown; choose one of none, learned"):
        filter_depth("kalman", depth, frames)
    with pytest.raises(InputError, match="resize"):
        filter_depth("ema", depth, frames[:, :-1])


def test_every_name_opens_a_filter_and_none_is_none(depth, frames):
    assert set(NAMES) == {"none", "learned", "learned_offline", *FILTERS}
    assert open_filter("none", "metric") is open_filter(None, "metric") is None
    assert filter_depth("none", depth, frames) is depth


def test_strength_is_of_the_learned_filter_from_the_depth_as_it_is_to_all(depth, frames):
    depth = depth[:, :12]
    frames = frames[:, :12]
    assert choose_filter("learned").noted() == {"filter": "learned", "strength": 1.0}
    assert choose_filter("learned_offline", 0.4).noted() == {"filter": "learned_offline", "strength": 0.4}
    assert choose_filter("ema").noted() == {"filter": "ema"}
    assert choose_filter(choose_filter("learned", 0.4), 0.7).strength == 0.7
    np.testing.assert_array_equal(filter_depth(choose_filter("learned", 0.0), depth, frames), depth)
    still = np.repeat(frames[:1], T, axis=0)
    changes = [np.abs(filter_depth(choose_filter("learned", s), depth, still) - depth).mean() for s in (0.3, 0.6, 1.0)]
    assert changes == sorted(changes)
    assert changes[0] > 0
    for name in (None, "none", "ema"):
        with pytest.raises(InputError, match="it is of the filter learned"):
            choose_filter(name, 0.5)
    with pytest.raises(InputError, match="from 0, the depth as it is, to 1"):
        choose_filter("learned", 1.5)


def test_a_folder_of_weights_is_a_filter_causal_and_there_and_back(tmp_path, depth, frames):
    (tmp_path / WEIGHTS.name).write_bytes(WEIGHTS.read_bytes())
    for name, text in (("learned", str(tmp_path)), ("learned_offline", f"learned_offline:{tmp_path}")):
        chosen = choose_filter(text, 0.8)
        assert chosen.name == name
        assert chosen.noted() == {"filter": f"{name}:{tmp_path}", "strength": 0.8}
        expected = filter_depth(choose_filter(name, 0.8), depth, frames)
        np.testing.assert_array_equal(filter_depth(chosen, depth, frames), expected)
        assert choose_filter(str(chosen), 0.8) == chosen
    # A network that keeps nothing: its filter is seen to be another one.
    gates = load_gates()
    gates.load_state_dict({name: torch.zeros_like(weight) for name, weight in gates.state_dict().items()})
    gates.head.bias.data[:3] = -20
    save_file(gates.state_dict(), tmp_path / WEIGHTS.name)
    for text in (str(tmp_path), f"learned_offline:{tmp_path}"):
        np.testing.assert_allclose(filter_depth(text, depth, frames), depth, rtol=1e-4)
    own, state = LearnedFilter("metric", weights=tmp_path / WEIGHTS.name), None
    for one, image in zip(depth, frames, strict=True):
        out, state = own.step(one, image, state)
        np.testing.assert_allclose(out, one, rtol=1e-4)
    assert np.abs(filter_depth("learned", depth, frames) / depth - 1).max() > 0.05
    with pytest.raises(InputError, match="or a folder that tune-filter wrote"):
        choose_filter(str(tmp_path / "none"))
