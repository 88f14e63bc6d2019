import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.evaluation.clip_evaluation import CONTROLS
from steadydepth.evaluation.evaluate import evaluate, evaluate_clip
from steadydepth.evaluation.sources import predict_sequence
from steadydepth.evaluation.summary import is_better, mean_over_clips, table_rows
from steadydepth.files.predictions import write_predictions
from steadydepth.inference.filters import FILTERS, filter_depth
from steadydepth.inference.predictor import Predictor
from steadydepth.metrics.protocols import METRICS

LABEL_FREE = {"flicker_flow", "rough_flow", "n_frames", "n_skipped", "n_nonfinite", "n_static", "n_moving"}


class Brightness(nn.Module):
    """Dark is far; the mean of all frames so far is its memory. Counts what it was shown."""

    claims = "disparity"

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.frozen = nn.BatchNorm2d(3)
        self.calls = []

    def forward(self, frames, state=None):
        self.calls.append((frames.shape[1], self.training, torch.is_grad_enabled()))
        depths = []
        past = state["mean"] if state else None
        for frame in frames.mean(dim=2).unbind(dim=1):
            past = frame if past is None else 0.5 * (past + frame)
            depths.append(self.scale * (0.1 + past))
        return torch.stack(depths, dim=1), {"mean": past}


@pytest.fixture(scope="module")
def noisy_depths(fixed_clip, moving_clip):
    """Versions of the label that are worse than it, for both clips."""
    generator = np.random.default_rng(0)
    versions = {}
    for clip in (fixed_clip, moving_clip):
        truth = clip.depth
        t = np.arange(len(truth))[:, None, None]
        lagged = np.stack([truth[max(0, i - 1)] for i in range(len(truth))])
        versions[clip.name] = {
            "noisy": truth * np.exp(0.05 * generator.normal(size=truth.shape)),
            "flickering": truth * np.exp(0.05 * generator.normal(size=(len(truth), 1, 1))),
            "drifting": truth * np.exp(0.02 * t),
            "lagged": np.sqrt(truth * lagged),
            "constant": np.full_like(truth, np.exp(np.log(truth).mean())),
        }
        versions[clip.name] = {name: depth.astype(np.float32) for name, depth in versions[clip.name].items()}
    return versions


@pytest.fixture(scope="module")
def exact(fixed_clip, moving_clip):
    """What the label itself scores as a prediction."""
    return {clip.name: evaluate_clip(clip.depth, clip, claims="metric") for clip in (fixed_clip, moving_clip)}


@pytest.fixture(scope="module")
def report(world):
    return evaluate(Brightness(), world)


def test_every_promised_name_is_there_and_is_a_plain_number_or_none(fixed_clip, exact):
    values = exact[fixed_clip.name]
    assert set(METRICS) <= set(values)
    json.dumps(values, allow_nan=False)
    assert values["n_frames"] == 5
    assert values["n_skipped"] == values["n_nonfinite"] == 0
    assert values["scale"] == 1
    assert values["negative_scale"] is False


def test_the_label_scores_no_error_and_gain_one(exact):
    for values in exact.values():
        for name in ("abs_rel", "rmse", "silog", "abs_rel_static", "abs_rel_moving", "vel", "acc", "ltg_static"):
            assert values[name] == pytest.approx(0, abs=1e-9), name
        assert values["gain"] == pytest.approx(1)
        assert values["delta1"] == values["delta1_moving"] == 1
        assert values["tcc"] == pytest.approx(1)
        assert values["sre"] < 0.1


def test_what_a_camera_that_moves_cannot_be_asked_is_none(fixed_clip, moving_clip, exact):
    moving, fixed = exact[moving_clip.name], exact[fixed_clip.name]
    assert [moving[name] for name in ("tsd", "tsd_p95", "flicker", "drift")] == [None] * 4
    assert max(fixed[name] for name in ("tsd", "tsd_p95", "flicker", "drift")) < 0.1
    unknown = evaluate_clip(fixed_clip.depth, replace(fixed_clip, fixed_camera=None, K=None), claims="metric")
    assert [unknown[name] for name in ("tsd", "sre", "tae", "tae_static")] == [None] * 4


@pytest.mark.parametrize(
    ("version", "fixed", "moving"),
    [
        ("noisy", "tsd flicker vel acc abs_rel ltg_static tcc", "sre vel acc abs_rel tae_static tcc"),
        ("flickering", "tsd flicker vel acc abs_rel ltg_static tcc", "sre vel acc abs_rel tae_static tcc"),
        ("drifting", "tsd drift vel abs_rel", "sre vel abs_rel"),
        ("lagged", "vel gain acc abs_rel_moving ltg_moving", "sre vel gain abs_rel_static abs_rel_moving"),
        ("constant", "vel gain acc abs_rel delta1 abs_rel_static tcc", "sre vel gain abs_rel delta1 tcc"),
    ],
)
def test_the_label_beats_every_worse_version(fixed_clip, moving_clip, exact, noisy_depths, version, fixed, moving):
    for clip, names in ((fixed_clip, fixed), (moving_clip, moving)):
        best, worse = exact[clip.name], evaluate_clip(noisy_depths[clip.name][version], clip, claims="metric")
        for name in names.split():
            assert is_better(name, best[name], worse[name]), (clip.name, name, best[name], worse[name])


@pytest.mark.parametrize(
    ("claims", "align", "predict"),
    [
        ("scale", "auto", lambda depth: 2.5 * depth),
        ("affine", "auto", lambda depth: 0.3 * depth + 2),
        ("disparity", "auto", lambda depth: 40 / depth + 3),
        ("metric", "scale", lambda depth: 2.5 * depth),
        ("metric", "disparity", lambda depth: 1 / (0.4 / depth + 0.01)),
        ("disparity", "none", lambda depth: 1 / depth),
        ("disparity", "scale", lambda depth: 3 / depth),
    ],
)
def test_what_the_claims_forgive_costs_nothing(fixed_clip, claims, align, predict):
    values = evaluate_clip(predict(fixed_clip.depth), fixed_clip, claims=claims, align=align)
    assert values["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert values["negative_scale"] is False


UNITS = [(1.0, 0.0), (5.0, 3.0), (5.0, -3.0), (1e-3, 0.0), (1e-2, -1.0), (-2.0, 0.1), (300.0, -200.0)]


@pytest.mark.parametrize(("factor", "offset"), UNITS)
@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_no_score_depends_on_factor_and_offset(fixed_clip, noisy_depths, claims, factor, offset):
    """Of values of any sign and size: an exact prediction is exact, and a noisy one always equally wrong."""
    exact, noisy = fixed_clip.depth.astype(np.float64), noisy_depths[fixed_clip.name]["noisy"].astype(np.float64)
    if claims == "disparity":
        exact, noisy = 1 / exact, 1 / noisy
    values = evaluate_clip(factor * exact + offset, fixed_clip, claims=claims)
    assert values["abs_rel"] == pytest.approx(0, abs=1e-5)
    assert values["flicker"] == pytest.approx(evaluate_clip(exact, fixed_clip, claims=claims)["flicker"], abs=1e-3)
    values, plain = (evaluate_clip(x, fixed_clip, claims=claims) for x in (factor * noisy + offset, noisy))
    assert values["abs_rel"] == pytest.approx(plain["abs_rel"], rel=1e-3)
    assert values["n_nonfinite"] == 0


@pytest.mark.parametrize("claims", ["affine", "disparity"])
def test_without_a_label_no_score_depends_on_the_factor_and_values_about_zero_have_one(
    fixed_clip, noisy_depths, claims
):
    unlabelled = replace(fixed_clip, depth=None, valid=None)
    noisy = noisy_depths[fixed_clip.name]["noisy"]
    plain = evaluate_clip(noisy, unlabelled, claims=claims)["flicker_flow"]
    assert plain > 1
    assert evaluate_clip(1e-4 * noisy, unlabelled, claims=claims)["flicker_flow"] == pytest.approx(plain, rel=1e-4)
    centred = noisy - np.median(noisy)
    about_zero = evaluate_clip(centred, unlabelled, claims=claims)["flicker_flow"]
    assert about_zero > 1
    assert evaluate_clip(100 * centred, unlabelled, claims=claims)["flicker_flow"] == pytest.approx(
        about_zero, rel=1e-4
    )


def test_the_vda_protocols_raise_disparity_first_as_their_authors_do_and_warn(world, tmp_path, caplog):
    """max(x, 1e-3), the fit, max(a, 1e-3): in other units than 1 / metres most of the image is lost."""
    for path in sorted(world.iterdir()):
        clip = open_sequence(path).read()
        write_predictions(tmp_path / "small", path.name, (4e-3 / clip.depth).astype(np.float32), "disparity")
        write_predictions(tmp_path / "metres", path.name, (1 / clip.depth).astype(np.float32), "disparity")
    clip, x = open_sequence(path).read(), 4e-3 / open_sequence(path).read().depth.astype(np.float64)
    valid = clip.valid & (clip.depth < 70)
    raised = np.maximum(x, 1e-3)
    (scale, shift), *_ = np.linalg.lstsq(
        np.stack((raised[valid], np.ones(valid.sum())), 1), 1 / (clip.depth[valid] + 1e-8), rcond=None
    )
    values = evaluate(tmp_path / "small", world, protocol="vda_sintel", controls=False)["clips"][clip.name]
    assert (values["scale"], values["shift"]) == pytest.approx((scale, shift), rel=1e-4)
    share = float((x[valid] < 1e-3).mean())
    assert 0.1 < share < 0.9
    assert f"{share:.0%} of {clip.name}" in caplog.text
    assert "--protocol plain" in caplog.text
    caplog.clear()
    evaluate(tmp_path / "metres", world, protocol="vda_sintel", controls=False)
    evaluate(tmp_path / "small", world, protocol="sintel", controls=False)
    assert "raises disparity" not in caplog.text


def test_a_metric_model_is_forgiven_nothing(fixed_clip, exact):
    values = evaluate_clip(1.2 * fixed_clip.depth, fixed_clip, claims="metric")
    assert values["abs_rel"] == pytest.approx(0.2, rel=1e-5)
    assert values["flicker"] == pytest.approx(exact[fixed_clip.name]["flicker"], abs=1e-5)


def test_one_alignment_a_clip_hides_no_flicker(fixed_clip, noisy_depths):
    values = evaluate_clip(noisy_depths[fixed_clip.name]["flickering"], fixed_clip, claims="scale")
    assert values["flicker"] > 2


def test_an_inverted_prediction_is_flagged(fixed_clip):
    values = evaluate_clip(fixed_clip.depth, fixed_clip, claims="disparity")
    assert values["negative_scale"] is True
    assert values["scale"] < 0


def test_a_constant_is_aligned_to_the_mean_disparity(fixed_clip):
    values = evaluate_clip(np.full_like(fixed_clip.depth, 0.5), fixed_clip, claims="disparity")
    assert values["scale"] == 0
    assert values["shift"] == pytest.approx(float((1 / fixed_clip.depth.astype(float)).mean()), rel=1e-6)
    assert values["gain"] == pytest.approx(0, abs=1e-9)


def test_holes_are_counted_left_out_of_the_fit_and_scored_as_very_wrong(fixed_clip):
    depth = 2 * fixed_clip.depth
    depth[0, 3, 4], depth[2, 5, 6], depth[2, 5, 7] = np.nan, np.inf, -np.inf
    values = evaluate_clip(depth, fixed_clip, claims="scale")
    assert values["n_nonfinite"] == 3
    assert values["scale"] == pytest.approx(0.5)
    assert values["rmse"] > 0.1


@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_labels_that_do_not_count_change_nothing(fixed_clip, moving_clip, poison):
    for clip in (fixed_clip, moving_clip):
        valid = np.random.default_rng(0).random(clip.depth.shape) > 0.1
        zero = replace(clip, valid=valid, depth=np.where(valid, clip.depth, np.float32(0)))
        dirty = replace(zero, depth=np.where(valid, clip.depth, np.float32(poison)))
        depth = 1 + 1.1 * clip.depth
        assert evaluate_clip(depth, dirty, claims="disparity") == evaluate_clip(depth, zero, claims="disparity")


def test_frames_and_clips_without_a_label_are_counted_and_have_no_value(fixed_clip):
    some = fixed_clip.valid.copy()
    some[1] = False
    values = evaluate_clip(fixed_clip.depth, replace(fixed_clip, valid=some), claims="metric")
    assert values["n_skipped"] == 1
    assert values["abs_rel"] == 0
    for unlabelled in (replace(fixed_clip, depth=None, valid=None), replace(fixed_clip, valid=np.zeros_like(some))):
        values = evaluate_clip(1 / fixed_clip.depth, unlabelled, claims="disparity")
        assert {name for name in METRICS if values[name] is not None} == LABEL_FREE
        assert values["n_skipped"] == 5
        assert values["flicker_flow"] > 0


def test_one_frame_has_no_temporal_value(fixed_clip):
    first = replace(
        fixed_clip,
        **{name: getattr(fixed_clip, name)[:1] for name in ("frames", "depth", "valid", "objects", "cam_to_world")},
        flow=fixed_clip.flow[:0],
        flow_valid=fixed_clip.flow_valid[:0],
    )
    values = evaluate_clip(first.depth, first, claims="metric")
    assert values["abs_rel"] == 0
    for name in ("tae", "tcc", "opw", "rtc_1.01", "tsd", "flicker", "sre", "vel", "acc", "ltg_static", "flicker_flow"):
        assert values[name] is None, name


def test_without_label_flow_and_objects_the_frames_and_poses_serve(moving_clip):
    bare = replace(moving_clip, flow=None, flow_valid=None, objects=None)
    values = evaluate_clip(bare.depth, bare, claims="metric")
    assert values["vel"] is None
    assert values["opw"] is not None
    assert values["sre"] < 0.2
    assert values["n_static"] > 1000
    still = replace(bare, K=None, cam_to_world=None, fixed_camera=None)
    assert evaluate_clip(still.depth, still, claims="metric")["abs_rel_static"] is None


def test_a_smaller_prediction_is_resized_with_half_pixel_centres(fixed_clip):
    y, x = np.mgrid[:48, :64]
    plane = replace(fixed_clip, depth=np.tile(3 + 0.01 * x + 0.02 * y, (5, 1, 1)).astype(np.float32))
    y, x = np.mgrid[:24, :32] * 2 + 0.5
    values = evaluate_clip(np.tile(3 + 0.01 * x + 0.02 * y, (5, 1, 1)), plane, claims="metric")
    assert values["abs_rel"] < 2e-4  # the border only


def test_another_number_of_frames_is_a_mistake(fixed_clip):
    with pytest.raises(InputError, match="4 predicted frames for 5"):
        evaluate_clip(fixed_clip.depth[:4], fixed_clip, claims="metric")


def test_the_report_has_what_is_promised(report):
    assert list(report)[:3] == ["version", "header", "mean"]
    assert report["version"] == 1
    header = report["header"]
    assert header["align"] == header["claims"] == "disparity"
    assert (header["n_clips"], header["n_frames"], header["n_failed"]) == (2, 10, 0)
    assert header["max_depth"] == header["dmax"] == 80
    assert (header["flow_source"], header["split_source"], header["crop"]) == ("label", "objects", None)
    assert set(report["clips"]) == set(report["label"]) == {"fixed_000003", "moving_000004"}
    assert set(report["mean"]) == set(METRICS)
    pair = [clip["abs_rel"] for clip in report["clips"].values()]
    assert report["mean"]["abs_rel"] == pytest.approx(sum(pair) / 2)
    assert report["mean_fixed"]["abs_rel"] == pair[0]
    assert report["mean_moving"]["abs_rel"] == pair[1]
    assert report["label"]["fixed_000003"]["flicker"] < 0.1
    assert report["label"]["moving_000004"]["sre"] < 0.2
    assert report["label"]["moving_000004"]["tae"] > 0
    assert "flicker" not in report["label"]["moving_000004"]


def test_a_model_and_its_stored_predictions_score_the_same(world, report, tmp_path):
    model = Brightness()
    for path in sorted(world.iterdir()):
        write_predictions(tmp_path, path.name, predict_sequence(model, open_sequence(path)), "disparity")
    stored = evaluate(tmp_path, world, out=tmp_path / "out")
    for name, clip in report["clips"].items():
        known = {metric: value for metric, value in clip.items() if value is not None}
        found = {metric: value for metric, value in stored["clips"][name].items() if value is not None}
        assert found == pytest.approx(known, rel=1e-6)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8")) == stored
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["metrics.json"]


class Holes(nn.Module):
    """Metres, 0 where the image is dark and infinite where it is bright."""

    claims = "metric"

    def forward(self, frames, state=None):
        grey = frames.mean(dim=2)
        depth = torch.where(grey < 0.3, 0.0, 1 + 4 * grey)
        return torch.where(grey > 0.8, torch.inf, depth), {}


@pytest.mark.parametrize("align", ["none", "scale"])
def test_what_is_no_depth_scores_as_the_same_numbers_in_a_file(world, tmp_path, align):
    for path in sorted(world.iterdir()):
        write_predictions(tmp_path, path.name, predict_sequence(Holes(), open_sequence(path)), "metric")
    own, stored = (evaluate(one, world, align=align, controls=False) for one in (Holes(), tmp_path))
    assert own["mean"]["n_nonfinite"] > 0
    assert own["clips"] == stored["clips"]


def test_the_model_is_run_in_chunks_and_left_as_it_was(world):
    model = Brightness().train()
    model.frozen.eval()
    sequence = open_sequence(sorted(world.iterdir())[0])
    in_chunks = [result.depth for result in Predictor(model).session(chunk=2).run(sequence.images())]
    # The first frame by itself tells whether the model has a state.
    assert model.calls == [(1, False, False), (2, False, False), (2, False, False)]
    assert model.training
    assert not model.frozen.training
    np.testing.assert_array_equal(in_chunks, predict_sequence(model, sequence))


def test_each_sequence_is_predicted_once_and_progress_is_told(world):
    model, told = Brightness(), []
    evaluate(model, world, progress=lambda what, done, total: told.append((what, done, total)))
    assert sum(n_frames for n_frames, *_ in model.calls) == 2 * 5
    assert told[0] == ("predicting fixed_000003", 0, 2)
    assert told[-1] == ("scored", 2, 2)


def test_controls_are_filters_of_the_same_predictions(world, report, tmp_path):
    assert set(report["controls"]) == {"constant", *CONTROLS}
    assert set(CONTROLS) == set(FILTERS)
    for name in FILTERS:
        for path in sorted(world.iterdir()):
            sequence = open_sequence(path)
            clip, model = sequence.read(), Brightness()
            scene_depth = 1 / predict_sequence(model, sequence)
            aligned = report["clips"][path.name]
            disparity = np.maximum(aligned["scale"] / scene_depth + aligned["shift"], 1e-3)
            depth = np.clip(1 / disparity, 1e-3, 80)
            write_predictions(
                tmp_path / name, path.name, filter_depth(name, depth, clip.frames, claims="metric"), "metric"
            )
        filtered = evaluate(tmp_path / name, world, controls=False)
        assert "controls" not in filtered
        for metric in ("abs_rel", "flicker", "sre", "vel", "flicker_flow"):
            expected = filtered["mean"][metric]
            assert report["controls"][name]["mean"][metric] == pytest.approx(expected, rel=1e-4), (name, metric)


def test_the_constant_shows_what_temporal_consistency_alone_is_worth(report):
    constant = report["controls"]["constant"]["mean"]
    assert constant["flicker"] == pytest.approx(0, abs=1e-9)
    assert constant["opw"] == pytest.approx(0, abs=1e-9)
    assert constant["gain"] == pytest.approx(0, abs=1e-9)
    rows = {row["metric"]: row for row in table_rows({"ours": report, "again": report})}
    assert rows["opw"]["note"] == rows["flicker"]["note"] == "a constant wins"
    assert list(rows["abs_rel"])[:5] == ["metric", "unit", "better", "ours", "again"]
    assert rows["abs_rel"]["better"] == "lower"
    assert rows["tcc"]["better"] == "higher"
    assert rows["flicker"]["constant"] != ""


def test_the_note_is_for_what_the_constant_wins_against_every_report():
    control = {"constant": {"mean": {"gain": 0.0, "flicker": 1.0, "opw": 0.5}}}
    ours = {"mean": {"gain": 0.8, "flicker": 2.0, "opw": 0.2}, "controls": control}
    plain = {"mean": {"gain": 0.9, "flicker": 4.0, "opw": 0.9}}
    rows = {row["metric"]: row for row in table_rows({"ours": ours, "plain": plain})}
    assert {name: row["best"] for name, row in rows.items()} == {"gain": "plain", "flicker": "ours", "opw": "ours"}
    assert {name: row["note"] for name, row in rows.items()} == {"gain": "", "flicker": "a constant wins", "opw": ""}


def test_the_note_names_what_loses_the_edges_of_the_first_report():
    controls = {
        name: {"mean": {"edge_gain": gain}} for name, gain in (("constant", 0.0), ("ema", 0.46), ("late", 0.43))
    }
    plain = {"mean": {"edge_gain": 0.5, "boundary_f1": 0.04, "edges_kept": 0.95}, "controls": controls}
    steady = {"mean": {"edge_gain": 0.44, "boundary_f1": 0.037, "edges_kept": 0.89}}
    rows = {row["metric"]: row["note"] for row in table_rows({"plain": plain, "steady": steady})}
    assert rows == {
        "edge_gain": "less than 0.9 of plain's edges: steady, constant, late",
        "boundary_f1": "",
        "edges_kept": "less than 0.9 of the reference's edges: steady",
    }


def test_a_clip_that_cannot_be_read_is_named_once_and_the_rest_counts(world, tmp_path, caplog):
    data = tmp_path / "data"
    shutil.copytree(world, data)
    (data / "fixed_000003" / "rgb" / "0002.png").write_bytes(b"not an image")
    report = evaluate(Brightness(), data, controls=False)
    assert list(report["clips"]) == ["moving_000004"]
    assert "0002.png" in report["failed"]["fixed_000003"]
    assert report["header"]["n_failed"] == 1
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["fixed_000003 is left out"]
    caplog.clear()
    (data / "moving_000004" / "rgb" / "0000.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"(?s)fixed_000003.*moving_000004"):
        evaluate(Brightness(), data)
    assert not caplog.records  # the error has named them


def test_missing_predictions_and_claims_are_named(world, tmp_path):
    write_predictions(tmp_path, "fixed_000003", np.ones((5, 48, 64), np.float32), "scale")
    report = evaluate(tmp_path, world, controls=False)
    assert list(report["failed"]) == ["moving_000004"]
    with pytest.raises(InputError, match="nowhere"):
        evaluate(tmp_path / "nowhere", world)
    with pytest.raises(InputError, match="claims"):
        evaluate(nn.Linear(1, 1), world)


def test_a_clip_with_few_samples_is_not_in_the_mean():
    many = {"flicker": 2.0, "n_fixed": 100, "abs_rel": 0.1, "abs_rel_moving": None, "n_moving": 5000}
    few = {"flicker": 9.0, "n_fixed": 99, "abs_rel": 0.3, "abs_rel_moving": 0.5, "n_moving": 50}
    mean = mean_over_clips([many, few])
    assert mean["flicker"] == 2
    assert mean["abs_rel"] == pytest.approx(0.2)
    assert mean["abs_rel_moving"] is None
    assert mean["tsd"] is None


def test_nearer_to_one_is_a_better_gain():
    assert is_better("gain", 0.9, 1.3)
    assert not is_better("gain", 0.0, 1.9)
    assert is_better("delta1", 0.9, 0.8)
    assert is_better("rmse", 0.8, 0.9)
    assert not is_better("rmse", None, 0.9)
    assert not is_better("scale", 1.0, 2.0)
