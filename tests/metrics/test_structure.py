import json
import math

import pytest
import torch

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.evaluation.evaluate import evaluate, predict_sequence
from steadydepth.files.predictions import write_predictions
from steadydepth.metrics.accuracy import log_depth_correlation


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


def test_evaluate_says_how_much_of_a_reference_is_kept(world, model, tmp_path):
    report = evaluate(model, world, out=tmp_path, reference=model, model_name="mine", controls=False)
    assert report["mean"]["log_depth_correlation"] == pytest.approx(1.0)
    assert json.loads((tmp_path / "metrics.json").read_text())["header"]["model"] == "mine"
    without = evaluate(model, world, controls=False)
    assert without["mean"]["log_depth_correlation"] is None


def test_stored_predictions_have_a_reference_too(world, model, tmp_path):
    for path in find_sequences(world):
        depth = predict_sequence(model, open_sequence(path))
        write_predictions(tmp_path, open_sequence(path).name, depth, "metric")
        assert predict_sequence(model, open_sequence(path), stop=2).shape[0] == 2
    report = evaluate(tmp_path, world, reference=model, controls=False)
    assert report["mean"]["log_depth_correlation"] == pytest.approx(1.0)
