"""Which of several faults each metric sees: depth that is noisy, late, drifting, blurred or frozen beside the exact."""

import cv2
import numpy as np
import pytest

from steadydepth.evaluation.evaluate import evaluate_clip
from steadydepth.evaluation.summary import is_better
from steadydepth.inference.filters import filter_depth
from steadydepth.synthetic.world import make_clip


@pytest.fixture(scope="module")
def ranked():
    """The metrics of each version of one fixed-camera clip."""
    clip = make_clip(15, fixed_camera=True, n_frames=9, height=48, width=64)
    generator, t = np.random.default_rng(0), np.arange(9)[:, None, None]
    light = 0.04 * generator.normal(size=(9, 1, 1))
    light -= light.mean() + (light * (t - 4)).sum() / ((t - 4) ** 2).sum() * (t - 4)  # neither offset nor drift
    noisy = clip.depth * np.exp(light + 0.02 * generator.normal(size=clip.depth.shape))
    versions = {
        "exact": clip.depth,
        "noisy": noisy,
        "late": filter_depth("ema_0.8", clip.depth, clip.frames),
        "drifting": clip.depth * np.exp(0.004 * (t - 4)),
        "blurred": np.stack([cv2.GaussianBlur(frame, (0, 0), 2) for frame in noisy]),
        "constant": np.full_like(clip.depth, np.exp(np.log(clip.depth).mean())),
    }
    return {name: evaluate_clip(depth.astype(np.float32), clip, claims="metric") for name, depth in versions.items()}


@pytest.mark.parametrize("name", ["abs_rel", "vel", "gain", "acc"])
def test_nothing_is_more_right_than_the_truth(ranked, name):
    for version in set(ranked) - {"exact"}:
        # Drift is too slow for a second difference to see: equal to rounding there.
        is_blind = (version, name) == ("drifting", "acc")
        assert is_blind or is_better(name, ranked["exact"][name], ranked[version][name]), (version, name)
    assert ranked["exact"]["abs_rel"] == 0
    assert ranked["exact"]["gain"] == pytest.approx(1)


def test_noise_is_seen_by_flicker_and_roughness_and_hardly_by_drift(ranked):
    noisy, drifting = ranked["noisy"], ranked["drifting"]
    assert max(ranked, key=lambda version: ranked[version]["flicker"]) == "noisy"
    assert max(ranked, key=lambda version: ranked[version]["acc"]) == "noisy"
    assert max(ranked, key=lambda version: ranked[version]["flicker_flow"]) == "noisy"
    assert noisy["drift"] < 0.3 * drifting["drift"]


def test_a_late_prediction_is_steady_and_follows_too_little(ranked):
    late = ranked["late"]
    assert late["flicker"] < 0.1 * ranked["noisy"]["flicker"]
    assert late["gain"] < 0.8
    assert late["vel"] > 100 * ranked["exact"]["vel"]
    assert late["abs_rel_moving"] > late["abs_rel_static"]


def test_a_drift_is_seen_by_drift_and_not_by_flicker(ranked):
    drifting = ranked["drifting"]
    assert max(ranked, key=lambda version: ranked[version]["drift"]) == "drifting"
    assert drifting["drift"] == pytest.approx(8 * 0.4, rel=0.05)
    assert drifting["flicker"] == pytest.approx(0.4, rel=0.1)
    assert drifting["flicker"] < 0.2 * ranked["noisy"]["flicker"]


def test_a_constant_does_not_flicker_and_is_the_least_right(ranked):
    constant = ranked["constant"]
    for name in ("flicker", "drift", "tsd", "flicker_flow", "gain"):
        assert constant[name] == pytest.approx(0, abs=1e-9), name
    assert max(ranked, key=lambda version: ranked[version]["abs_rel"]) == "constant"
    assert min(ranked, key=lambda version: ranked[version]["gain"]) == "constant"


def test_a_blurred_depth_is_steadier_and_hardly_less_right_but_has_lost_its_edges(ranked):
    blurred, noisy = ranked["blurred"], ranked["noisy"]
    for name in ("flicker", "tsd", "flicker_flow"):
        assert blurred[name] < 0.95 * noisy[name], name
    assert blurred["edge_gain"] < 0.8 * noisy["edge_gain"]
    assert blurred["boundary_f1"] < 0.3 * noisy["boundary_f1"]
    assert ranked["exact"]["edge_gain"] == pytest.approx(1)
    assert {name: ranked["constant"][name] for name in ("edge_gain", "boundary_f1")} == {
        "edge_gain": pytest.approx(0),
        "boundary_f1": 0,
    }
