"""`steadydepth evaluate` with its options, and on what has no labels."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from steadydepth.cli import app
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.files.predictions import write_predictions
from steadydepth.files.video_write import write_video


@pytest.fixture
def stored(world, tmp_path):
    for path in sorted(world.iterdir()):
        write_predictions(tmp_path / "stored", path.name, 1.2 * open_sequence(path).read().depth, "metric")
    return tmp_path / "stored"


def call(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_the_options_reach_the_report_and_the_terminal(world, stored, tmp_path):
    options = ("--lengths", "2,all", "--opw", "nvds", "--protocol", "sintel", "--align", "scale", "--strict")
    result = call("--predictions", stored, "--data", world, "--out", tmp_path, "--no-controls", *options)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert list(report["lengths"]) == ["2", "all"]
    assert report["mean"]["opw_nvds"] is not None
    assert (report["header"]["protocol"], report["header"]["dmax"]) == ("sintel", 70)
    assert report["mean"]["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert set(report["curves"]) == {"fixed_000003", "moving_000004"}
    for words in ("over windows of a clip", "2 frames", "all frames", "flicker_flow"):
        assert words in result.output


@pytest.mark.parametrize("lengths", ["8,x", "", "-3", "all,2.5"])
def test_lengths_that_are_none(world, stored, tmp_path, lengths):
    result = call("--predictions", stored, "--data", world, "--out", tmp_path, "--lengths", lengths)
    assert isinstance(result.exception, InputError)
    assert "such as 8,32,all" in str(result.exception)


def test_a_video_file_has_what_needs_no_label(moving_clip, tmp_path):
    write_video(tmp_path / "data" / "walk.mp4", list(moving_clip.frames), 15.0)
    noise = np.exp(0.05 * np.random.default_rng(0).normal(size=moving_clip.depth.shape))
    write_predictions(tmp_path, "walk", (moving_clip.depth * noise).astype(np.float32), "metric")
    report = evaluate(tmp_path, tmp_path / "data", lengths=(2,))
    assert report["mean"]["flicker_flow"] > report["controls"]["ema_0.8"]["mean"]["flicker_flow"] > 0
    assert report["mean"]["rough_flow"] > 0
    assert report["mean"]["abs_rel"] is None
    assert report["label"] == {"walk": {}}
    assert report["curves"]["walk"]["abs_rel"] == [None] * 5
    assert report["lengths"]["2"]["mean"]["flicker_flow"] > 0
