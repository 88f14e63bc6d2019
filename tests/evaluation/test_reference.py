"""What a second model says: how much of its depth, and of its edges, a first one keeps."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from steadydepth import metrics
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.evaluation.clip_evaluation import score_clip
from steadydepth.evaluation.clip_scorer import Settings
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.evaluation.footage import footage_of
from steadydepth.evaluation.sources import predict_sequence
from steadydepth.files.predictions import open_array, write_predictions
from steadydepth.inference.filters import filter_depth
from steadydepth.metrics.accuracy import log_depth_correlation
from steadydepth.metrics.protocols import choose_protocol
from steadydepth.models.depth_net import DepthNet


def test_correlation_of_log_depth_by_hand():
    def correlation(depth, other):
        return float(log_depth_correlation(depth.reshape(2, 1, 2), other.reshape(2, 1, 2))["log_depth_correlation"])

    depth = torch.tensor([1.0, 2.0, 4.0, 8.0]).double()
    assert correlation(3 * depth**2, depth) == pytest.approx(1)
    assert correlation(1 / depth, depth) == pytest.approx(-1)
    # Log depths 0 1 2 3 against 0 1 0 1: covariance 0.25 over deviations sqrt(1.25) and 0.5.
    other = torch.tensor([1.0, 2.0, 1.0, 2.0]).double()
    assert correlation(depth, other) == pytest.approx(0.25 / (1.25**0.5 * 0.5))
    assert math.isnan(correlation(torch.ones(4).double(), depth))


def test_evaluate_says_how_much_of_a_reference_is_kept(world, tmp_path):
    torch.manual_seed(0)
    model = DepthNet(decoder_width=16).eval()  # which has edges; those of the smallest encoder are too low to count
    report = evaluate(model, world, out=tmp_path, reference=model, model_name="mine", controls=False)
    assert report["mean"]["log_depth_correlation"] == pytest.approx(1.0)
    assert report["mean"]["edges_kept"] == pytest.approx(1.0)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))["header"]["model"] == "mine"
    without = evaluate(model, world, controls=False)
    assert without["mean"]["log_depth_correlation"] is without["mean"]["edges_kept"] is None


def test_stored_predictions_have_a_reference_too(world, model, tmp_path):
    for path in find_sequences(world):
        depth = predict_sequence(model, open_sequence(path))
        write_predictions(tmp_path, open_sequence(path).name, depth, "metric")
        assert predict_sequence(model, open_sequence(path), stop=2).shape[0] == 2
    report = evaluate(tmp_path, world, reference=model, controls=False)
    assert report["mean"]["log_depth_correlation"] == pytest.approx(1.0)


def compare(depth, reference, clip, *, claims="disparity", reference_claims="disparity", controls=False):
    """What `depth` keeps of `reference`, by method."""
    settings = Settings(choose_protocol("plain"), constant=1.0 if controls else None)
    opened = open_array(depth, claims), settings, open_array(reference, reference_claims)
    return score_clip(footage_of(clip), *opened).methods


@pytest.fixture
def disparity(fixed_clip):
    return (20 / fixed_clip.depth).astype(np.float32)


def test_edges_kept_of_disparity_are_those_of_one_offset_for_both(fixed_clip, disparity):
    own = 0.5 * disparity + 0.1 * disparity[:, ::-1]
    mean = disparity.astype(float).mean()
    one, other = (1 / (values.astype(float) / mean + 0.1) for values in (own, disparity))
    expected = float(metrics.edges_kept(one, other))
    assert 0.2 < expected < 0.8
    unlabelled = replace(fixed_clip, depth=None, valid=None, objects=None, flow=None, flow_valid=None)
    for clip in (fixed_clip, unlabelled):
        found = compare(own, disparity, clip)["model"]["edges_kept"]
        assert found == pytest.approx(expected, rel=1e-6)


def test_edges_kept_of_depth_are_those_of_log_depth(fixed_clip):
    depth = fixed_clip.depth * (fixed_clip.depth / 3) ** 0.5
    found = compare(depth, fixed_clip.depth, fixed_clip, claims="scale", reference_claims="metric")
    assert found["model"]["edges_kept"] == pytest.approx(1.5, rel=1e-5)


def test_what_is_not_finite_in_the_reference_is_left_out(fixed_clip):
    depth, reference = fixed_clip.depth, fixed_clip.depth**0.5
    reference[1, 5:9, 20:30] = np.nan
    found = compare(depth, reference, fixed_clip, claims="metric", reference_claims="scale")
    assert found["model"]["edges_kept"] == pytest.approx(2, rel=1e-5)


def test_the_controls_keep_what_a_filter_of_the_same_values_keeps(moving_clip):
    unlabelled = replace(moving_clip, depth=None, valid=None, objects=None, flow=None, flow_valid=None)
    disparity = 20 / moving_clip.depth
    kept = {name: one["edges_kept"] for name, one in compare(disparity, disparity, unlabelled, controls=True).items()}
    depth = 1 / (disparity.astype(float) / disparity.astype(float).mean() + 0.1)
    assert kept["model"] == pytest.approx(1)
    assert kept["constant"] == pytest.approx(0, abs=1e-9)
    for name in ("ema_0.8", "median"):
        smooth = filter_depth(name, depth, moving_clip.frames)
        assert kept[name] == pytest.approx(float(metrics.edges_kept(smooth, depth)), rel=1e-6)
    assert kept["ema_0.8"] < kept["ema"] < 1
