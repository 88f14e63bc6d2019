"""The learned filter over a video: frame by frame, there and back."""

import numpy as np
import pytest

from steadydepth.inference.filter_runtime import filter_offline
from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.synthetic.world import make_clip
from steadydepth.types import InputError


@pytest.fixture(scope="module")
def video():
    """A fixed camera's clip, its true depth, and the same as an unsteady network would predict it."""
    clip = make_clip(4, fixed_camera=True, n_frames=20, height=48, width=64)
    generator = np.random.default_rng(0)
    noise = 0.05 * generator.normal(size=(20, 1, 1)) + 0.03 * generator.normal(size=clip.depth.shape)
    return clip, (clip.depth * np.exp(noise)).astype(np.float32)


def run(learned, clip, depth, n_frames=20):
    filtered, state = [], None
    for one, image in zip(depth, clip.frames[:n_frames], strict=True):
        out, state = learned.step(one, image, state)
        filtered.append(out)
    return np.stack(filtered)


def error_of(depth, clip, n_frames=20):
    return np.abs(np.log(depth) - np.log(clip.depth[:n_frames])).mean()


def flicker_of(depth, clip):
    return np.abs(np.diff(np.log(depth) - np.log(clip.depth), axis=0))[4:].mean()


def test_it_flickers_less_and_is_nearer_to_the_truth(video):
    clip, raw = video
    filtered = run(LearnedFilter("metric"), clip, raw)
    assert flicker_of(filtered, clip) < 0.35 * flicker_of(raw, clip)
    assert error_of(filtered, clip) < error_of(raw, clip)


def test_there_and_back_is_nearer_to_the_truth_than_there_alone(video):
    clip, _ = video
    learned = LearnedFilter("metric")
    there, both = [], []
    for seed in range(4):
        noise = 0.08 * np.random.default_rng(seed).normal(size=(8, 1, 1))
        raw = (clip.depth[:8] * np.exp(noise)).astype(np.float32)
        there.append(error_of(run(learned, clip, raw, 8), clip, 8))
        both.append(error_of(np.stack(list(filter_offline(zip(raw, clip.frames[:8], strict=True), learned))), clip, 8))
    assert np.mean(both) < 0.9 * np.mean(there)


@pytest.mark.parametrize(("window", "lookahead"), [(3, 2), (8, 12), (20, 4), (64, 0)])
def test_offline_returns_every_frame_whatever_the_windows(video, window, lookahead):
    clip, raw = video
    learned = LearnedFilter("metric")
    pairs = list(zip(raw, clip.frames, strict=True))
    offline = np.stack(list(filter_offline(pairs, learned, window=window, lookahead=lookahead)))
    assert offline.shape == raw.shape
    assert flicker_of(offline, clip) < 0.6 * flicker_of(raw, clip)


def test_offline_holds_no_more_than_its_windows(video):
    clip, raw = video
    taken = 0

    def frames():
        nonlocal taken
        for pair in zip(raw, clip.frames, strict=True):
            taken += 1
            yield pair

    offline = filter_offline(frames(), LearnedFilter("metric"), window=3, lookahead=2)
    for number, _ in enumerate(offline):
        assert taken <= number + 3 + 2


def test_one_window_for_all_is_the_mean_of_both_directions(video):
    clip, raw = video
    learned = LearnedFilter("metric")
    offline = list(filter_offline(zip(raw[:2], clip.frames[:2], strict=True), learned))
    # Of two frames, the last one is new on the way back: it counts as 1, and the way there as its age.
    there, state = learned.step(raw[1], clip.frames[1], learned.step(raw[0], clip.frames[0])[1])
    age = state["age"]
    expected = np.exp((age * np.log(there) + np.log(raw[1])) / (age + 1))
    np.testing.assert_allclose(offline[1], expected, rtol=1e-4)


def test_strength_0_changes_nothing(video):
    clip, raw = video
    assert np.array_equal(run(LearnedFilter("metric", strength=0.0), clip, raw), raw)


def test_frames_without_a_finite_depth_pass(video):
    clip, raw = video
    learned = LearnedFilter("disparity")
    empty = np.full_like(raw[0], np.nan)
    out, state = learned.step(empty, clip.frames[0])
    assert state == {}
    assert np.isnan(out).all()
    out, state = learned.step(raw[1], clip.frames[1], state)
    assert np.array_equal(out, raw[1])
    out, _ = learned.step(empty, clip.frames[2], state)
    assert np.isnan(out).all()
    offline = np.stack(list(filter_offline([(empty, clip.frames[0]), (raw[1], clip.frames[1])], learned)))
    assert np.isnan(offline[0]).all()
    np.testing.assert_allclose(offline[1], raw[1], rtol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, 1.5, float("nan")])
def test_a_strength_that_is_none_is_refused(strength):
    with pytest.raises(InputError, match="from 0, the depth as it is, to 1"):
        LearnedFilter("metric", strength=strength)


def test_images_that_cannot_be_written_are_filtered_alike(video):
    clip, raw = video
    read_only = clip.frames[:3].copy()
    read_only.flags.writeable = False
    learned, state = LearnedFilter("metric"), None
    for depth, image, expected in zip(raw, read_only, run(learned, clip, raw[:3], 3), strict=False):
        out, state = learned.step(depth, image, state)
        np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((48, 64, 3), np.float32, r"an image is float32"),
        ((48, 64, 4), np.uint8, r"an image is uint8 \(48, 64, 4\)"),
        ((24, 32, 3), np.uint8, r"depth is \(48, 64\), its image \(24, 32\)"),
    ],
)
def test_an_image_that_is_none_or_of_another_size_than_its_depth_is_refused(shape, kind, message):
    with pytest.raises(InputError, match=message):
        LearnedFilter("metric").step(np.ones((48, 64), np.float32), np.ones(shape, kind))


def test_weights_may_be_text(video):
    clip, raw = video
    learned = LearnedFilter("metric", weights=str(WEIGHTS))
    np.testing.assert_array_equal(run(learned, clip, raw[:3], 3), run(LearnedFilter("metric"), clip, raw[:3], 3))
