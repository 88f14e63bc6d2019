"""How the learned filter answers to steps, and to very long videos; benchmarks/filter_steps.py prints the curves."""

import sys

import cv2
import numpy as np
import pytest

from steadydepth.inference.learned_filter import LearnedFilter
from steadydepth.inference.session import Session
from steadydepth.synthetic.world import make_clip

AT, N_FRAMES = 10, 18


@pytest.fixture(scope="module")
def still():
    """Frames and true depth of a fixed camera."""
    clip = make_clip(400000, fixed_camera=True, n_frames=N_FRAMES, height=96, width=128)
    return clip.frames, clip.depth


@pytest.fixture(scope="module")
def moving():
    clip = make_clip(400001, fixed_camera=False, n_frames=N_FRAMES + 4, height=96, width=128)
    return clip.frames, clip.depth


def flicker(depth, seed=0):
    """Depth as a network with flicker of the full frame and of its parts predicts it."""
    generator = np.random.default_rng(seed)
    parts = generator.normal(size=(len(depth), 6, 8)).astype(np.float32)
    local = np.stack([cv2.resize(one, depth.shape[2:0:-1], interpolation=cv2.INTER_CUBIC) for one in parts])
    return (depth * np.exp(0.04 * generator.normal(size=(len(depth), 1, 1)) + 0.04 * local)).astype(np.float32)


def run(frames, depth):
    learned, state, filtered = LearnedFilter("metric"), None, []
    for one, image in zip(depth, frames, strict=True):
        out, state = learned.step(one, image, state)
        filtered.append(out)
    return np.stack(filtered)


def errors(depth, truth):
    """Mean error of log depth of each frame."""
    return np.abs(np.log(depth) - np.log(truth)).mean((1, 2))


def joined(one, two):
    return np.concatenate((one[:AT], two[AT:]))


def test_a_light_that_is_switched_changes_nothing(still):
    frames, truth = still
    brighter = np.clip(frames.astype(np.float32) * (1.5, 1.4, 1.3), 0, 255).astype(np.uint8)
    raw = flicker(truth)
    found = errors(run(joined(frames, brighter), raw), truth)[AT:]
    assert found.mean() < 0.8 * errors(raw, truth)[AT:].mean()


@pytest.fixture(scope="module")
def shaken(still, moving):
    """Frames and truth of a knock, of frozen and of dropped frames, each at frame AT."""
    frozen, dropped = [*range(7), *[7] * 3, *range(10, N_FRAMES)], [*range(AT), *range(AT + 4, N_FRAMES + 4)]
    return {
        "knock": [joined(one, np.roll(one, (5, -9), (1, 2))) for one in still],
        "frozen": [one[frozen] for one in moving],
        "dropped": [one[dropped] for one in moving],
    }


@pytest.mark.parametrize("what", ["knock", "frozen", "dropped"])
def test_a_step_is_over_after_3_frames(shaken, what):
    """The filter is no worse then than one that begins anew with the step."""
    frames, truth = shaken[what]
    found, anew = [], []
    for seed in range(4):
        raw = flicker(truth, seed)
        found.append(errors(run(frames, raw), truth)[AT + 3 :].mean())
        anew.append(errors(run(frames[AT:], raw[AT:]), truth[AT:])[3:].mean())
    assert np.mean(found) < 1.1 * np.mean(anew)


def test_a_cut_is_over_at_once_in_a_session(still, moving):
    class Stored:
        claims = "metric"

        def __init__(self, depth):
            self.depth = iter(depth)

        def fit(self, image):
            return image

        def __call__(self, images, state):
            return np.stack([next(self.depth) for _ in images]), {}

        def frames_at_once(self, height, width):
            return 1

    frames, truth = (joined(one, two[:N_FRAMES]) for one, two in zip(still, moving, strict=True))
    raw = flicker(truth)
    results = list(Session(Stored(raw), filter="learned").run(frames))
    assert [number for number, result in enumerate(results) if result.is_start] == [0, AT]
    np.testing.assert_array_equal(results[AT].depth, raw[AT])


def test_a_cut_that_nobody_announces_is_found_and_begins_anew(still, moving):
    """The frame after it passes as it is, and the next ones are those of a filter that begins there."""
    frames, truth = (joined(one, two[:N_FRAMES]) for one, two in zip(still, moving, strict=True))
    raw = flicker(truth)
    found, anew = run(frames, raw), run(frames[AT:], raw[AT:])
    assert not np.array_equal(found[AT - 1], raw[AT - 1])
    np.testing.assert_array_equal(found[AT], raw[AT])
    np.testing.assert_allclose(found[AT:], anew, rtol=1e-4)


def test_a_still_view_does_not_drift_and_memory_does_not_grow(still):
    """The mean log depth of the first and of the last hundred frames; what is remembered keeps its size."""
    frames, truth = still
    generator = np.random.default_rng(0)
    learned, state, means, sizes = LearnedFilter("metric"), None, [], set()
    image, depth = frames[0][::2, ::2], truth[0][::2, ::2]
    for _ in range(400):
        noisy = np.clip(image + generator.normal(0, 3, image.shape), 0, 255).astype(np.uint8)
        noise = 0.04 * generator.normal() + 0.02 * generator.normal(size=depth.shape)
        out, state = learned.step((depth * np.exp(noise)).astype(np.float32), noisy, state)
        means.append(float(np.log(out).mean()))
        sizes.add(sum(array.nbytes for array in state.values()) + sys.getsizeof(state))
    assert abs(np.mean(means[-100:]) - np.mean(means[:100])) < 0.01
    assert len(sizes) == 1
