"""The page of runs and evaluations: what it shows of a metrics.json, and each depth as it was scored."""

import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from steadydepth.data.sequence_folder import open_sequence
from steadydepth.errors import InputError
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.exporters.verify import verify
from steadydepth.files.predictions import write_predictions
from steadydepth.inference.predictor import Predictor
from steadydepth.metrics.protocols import choose_protocol
from steadydepth.reports.clips import Shown, _enlarge, scored_depth, scored_frames, view_sequence
from steadydepth.reports.report import write_report
from steadydepth.reports.run_charts import draw_clip, draw_planes
from steadydepth.training.checkpoint import save_model

HEADER = {
    "align": "none",
    "protocol": "plain",
    "dmin": 1e-3,
    "dmax": 80.0,
    "max_depth": 80.0,
    "n_clips": 2,
    "n_frames": 10,
}
CLIPS = ("fixed_000003", "moving_000004")


class Stored(nn.Module):
    """Says what it was given, frame by frame, whatever it sees; the frame it is at is its state."""

    def __init__(self, depth, claims="metric"):
        super().__init__()
        self.depth, self.claims = torch.from_numpy(depth), claims

    def forward(self, frames, state=None):
        start = int(state["at"]) if state else 0
        stop = start + frames.shape[1]
        return self.depth[None, start:stop], {"at": torch.tensor([stop])}


def report_of(data, model, *, abs_rel, flicker, **more):
    mean = {"abs_rel": abs_rel, "delta1": 0.7, "flicker": flicker, "sre": 2 * flicker, "gain": 0.5}
    return {
        "version": 1,
        "header": HEADER | {"data": str(data), "model": str(model)},
        "mean": mean,
        "mean_fixed": mean,
        "mean_moving": {},
        "clips": {name: {"scale": 1.0, "shift": 0.0, "n_frames": 5} | mean for name in CLIPS},
    } | more


def controls_of(abs_rel, flicker):
    return {"mean": {"abs_rel": abs_rel, "flicker": flicker, "sre": flicker}, "clips": {}}


@pytest.fixture
def runs(world, model, tmp_path):
    """Two runs that were evaluated on the world: plain with everything an evaluation can hold, steady with little."""
    whole = {
        "controls": {"constant": controls_of(0.9, 0.0), "ema": controls_of(0.21, 2.0)},
        "interval": {"abs_rel": [0.1, 0.3], "gain": None},
        "lengths": {"8": {"mean": {"flicker": 3.75}, "clips": {}}, "all": {"mean": {"flicker": 4.25}, "clips": {}}},
        "curves": {
            CLIPS[0]: {"abs_rel": [0.2, None, 0.3, 0.2, 0.1], "flicker": [1.0, 2.0, None, 3.0]},
            CLIPS[1]: {"abs_rel": [0.1] * 5, "flicker": [None] * 4, "sre": [1.0, 2.0, 3.0, 4.0]},
        },
    }
    for name, abs_rel, more in (("plain", 0.22, whole), ("steady", 0.2, {})):
        folder = tmp_path / "runs" / name
        save_model(model, folder)
        report = report_of(world, folder, abs_rel=abs_rel, flicker=4.0, **more)
        (folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
        log = [{"step": step, "absolute": 1 / step, "relative": 0.1} for step in (1, 2)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")
    return tmp_path / "runs"


def test_the_page_shows_all_that_the_evaluations_hold_and_loads_nothing(runs):
    page = write_report([runs]).read_text(encoding="utf-8")
    for title in ("accuracy and flicker", "accuracy and sre", "absolute loss", "relative loss"):
        assert f'aria-label="{title}"' in page
    assert "plain + ema" in page
    assert "constant (off the chart: 0, 0.9)" in page
    assert re.search(r"0\.22 <small>\[0\.1, 0\.3\]</small>", page)
    assert "By length of video" in page
    assert "<th>plain, 8 frames</th><th>plain, complete clips</th>" in page
    assert page.count('aria-label="error of each frame"') == len(CLIPS)
    assert page.count('aria-label="change of static depth, frame to frame"') == 1
    assert page.count('aria-label="static rigid error, frame to frame"') == 1
    assert page.count("Error |ln d - ln g|") == len(CLIPS)
    loaded = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page)
    assert len(loaded) > 20
    assert all(link.startswith("data:") for link, _ in loaded)
    assert not re.search("<script src|<link|@import", page)
    assert (runs / "flicker.webp").stat().st_size > 1000


def test_what_verify_found_stands_on_the_page(runs):
    found = verify(str(runs / "plain"), str(runs / "steady"), rounds=1)
    operators = found["graph"]["operators"]
    found["parameters"]["different"] = ["head.bias: only before"]
    (runs / "verify.json").write_text(json.dumps(found), encoding="utf-8")
    page = write_report([runs]).read_text(encoding="utf-8")
    cost = page[page.index("Cost to run") :]
    assert f"<th>{runs / 'steady'} after {runs / 'plain'}</th>" in cost
    assert re.search(rf"<td>graph</td>.*?same <small>\({operators} operators\)", cost, re.DOTALL)
    assert re.search(r"<td>parameters</td>.*?different <small>\(\d+ tensors\)", cost, re.DOTALL)


def test_runs_under_way_have_one_page_of_the_curves_so_far(tmp_path):
    for name, steps in (("plain", 3), ("steady", 2), ("begun", 0)):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": step, "absolute": 1 / step, "relative": None}) for step in range(1, steps + 1)]
        (tmp_path / name / "metrics.jsonl").write_text(
            "".join(f"{line}\n" for line in lines) + '{"step": 9, "abs', encoding="utf-8"
        )
    page = write_report([tmp_path / name for name in ("plain", "steady", "begun")], tmp_path / "page.html").read_text(
        encoding="utf-8"
    )
    assert page.count("<svg") == 1
    assert "absolute loss" in page
    assert "relative loss" not in page
    assert all(name in page for name in ("plain", "steady"))


def test_an_evaluation_of_old_without_curves_controls_and_intervals_has_a_page(runs):
    page = write_report([runs / "steady"]).read_text(encoding="utf-8")
    assert 'aria-label="accuracy and flicker"' in page
    assert "error of each frame" not in page
    assert "By length" not in page
    assert "<small>" not in page


def test_runs_of_one_name_are_told_apart_by_the_folder_above(runs, tmp_path):
    (tmp_path / "more").mkdir()
    (runs / "plain").rename(tmp_path / "more" / "steady")
    page = write_report([runs, tmp_path / "more"]).read_text(encoding="utf-8")
    assert "<th>runs/steady</th>" in page
    assert "<th>more/steady</th>" in page


def test_runs_of_two_folders_of_one_name_are_all_shown(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "tuesday" / "runs")
    page = write_report([runs, tmp_path / "tuesday" / "runs"]).read_text(encoding="utf-8")
    assert "<th>tuesday/runs/steady</th>" in page
    assert f"<th>{tmp_path.name}/runs/steady</th>" in page


def test_what_differs_between_evaluations_is_said_with_whose_it_is(runs):
    file = runs / "steady" / "metrics.json"
    report = json.loads(file.read_text(encoding="utf-8"))
    report["header"] |= {"align": "disparity", "filter": "ema"}
    file.write_text(json.dumps(report), encoding="utf-8")
    page = write_report([runs]).read_text(encoding="utf-8")
    assert "align none (plain), disparity (steady)" in page
    assert "filter ema (steady)" in page
    assert "protocol plain" in page


def test_a_broken_metrics_json_is_named(runs):
    (runs / "plain" / "metrics.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"plain.metrics\.json: cannot be read"):
        write_report([runs])


def test_what_verify_did_not_write_is_named(runs):
    for content in ("{", "[]", '{"after": "a", "before": "b", "parameters": {}}', '{"after": "a"}'):
        (runs / "verify.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=r"verify\.json: cannot be read as what steadydepth verify wrote"):
            write_report([runs])


def test_the_hub_is_not_asked_for_the_model_of_a_run_that_has_moved(runs, monkeypatch, tmp_path):
    def ask(name, **_):
        raise AssertionError(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", ask)
    monkeypatch.chdir(tmp_path)
    for name in ("plain", "steady"):
        report = json.loads((runs / name / "metrics.json").read_text(encoding="utf-8"))
        report["header"]["model"] = f"elsewhere/{name}"
        (runs / name / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    page = write_report([runs]).read_text(encoding="utf-8")
    assert "<td>abs_rel</td>" in page
    assert "flicker shows as stripes" not in page


def test_of_large_frames_fewer_are_shown(world, tmp_path, monkeypatch):
    sequence, read = open_sequence(world / CLIPS[0]), []
    monkeypatch.setattr("steadydepth.reports.clips.MOST_PIXELS", 4 * 48 * 64 + 1)
    monkeypatch.setattr("steadydepth.reports.clips.draw_clip", lambda *_: [])
    raw = Stored(np.ones((5, 48, 64), np.float32))
    forward, raw.forward = (
        raw.forward,
        lambda frames, state=None: read.append(frames.shape[1]) or forward(frames, state),
    )
    assert len(view_sequence(sequence, {"a": Shown(raw, {"header": HEADER, "clips": {}})}, tmp_path / "m.webp")) == 1
    assert sum(read) == 4


def test_a_page_that_would_be_a_folder_is_refused(runs):
    with pytest.raises(InputError, match="plain is a folder, and a file is to be written"):
        write_report([runs], runs / "plain")


@pytest.mark.parametrize(
    ("claims", "align", "expected"),
    [
        ("metric", "none", lambda raw: raw),
        ("scale", "scale", lambda raw: 2.5 * raw + 0.25),
        ("affine", "affine", lambda raw: 2.5 * raw + 0.25),
        ("metric", "disparity", lambda raw: 1 / np.maximum(2.5 / np.maximum(raw, 1e-3) + 0.25, 1e-3)),
        ("disparity", "disparity", lambda raw: 1 / np.maximum(2.5 * np.maximum(raw, 1e-3) + 0.25, 1e-3)),
    ],
)
def test_depth_is_shown_with_the_alignment_it_was_scored_with(world, claims, align, expected):
    sequence = open_sequence(world / CLIPS[0])
    raw = np.random.default_rng(0).uniform(0.1, 60, (5, 48, 64)).astype(np.float32)
    report = {"header": HEADER | {"align": align}, "clips": {CLIPS[0]: {"scale": 2.5, "shift": 0.25}}}
    found = scored_depth(Shown(Stored(raw, claims), report), sequence, sequence.read())
    np.testing.assert_allclose(found, np.clip(expected(raw.astype(float)), 1e-3, 80), rtol=1e-6)


def test_holes_are_cleaned_and_what_was_not_scored_is_shown_as_it_is(world):
    sequence = open_sequence(world / CLIPS[0])
    raw = np.full((5, 48, 64), 2.0, np.float32)
    raw[0, 0, :3] = np.nan, np.inf, -1
    shown = Shown(Stored(raw), {"header": HEADER, "clips": {CLIPS[0]: {"scale": 1.0, "shift": 0.0}}})
    assert scored_depth(shown, sequence, sequence.read())[0, 0, :4].tolist() == [1e-3, 80, 1e-3, 2]
    unscored = Shown(Stored(raw, "disparity"), {"header": HEADER, "clips": {}})
    # Of an offset that is not known the least value, -1, is a tenth of the mean above it, which is 3 but for the hole.
    assert scored_depth(unscored, sequence, sequence.read())[1, 0, 0] == pytest.approx(1 / 1.1, rel=1e-3)
    raw[0, 0, 2] = 0.5
    assert scored_depth(unscored, sequence, sequence.read())[0, 0, 2] == pytest.approx(4, rel=1e-3)


def test_the_error_map_is_the_difference_of_logarithms(world, tmp_path):
    sequence = open_sequence(world / CLIPS[1])
    truth = sequence.read().depth
    report = {"header": HEADER, "clips": {CLIPS[1]: {"scale": 1.0, "shift": 0.0}}}
    models = {"a": Shown(Stored(truth * np.float32(1.2)), report), "b": Shown(Stored(truth), report)}
    (view,) = view_sequence(sequence, models, tmp_path / "moving.webp")
    assert view.errors.top == pytest.approx(np.log(1.2), rel=1e-4)
    assert [label for label, _ in view.errors.rows] == ["a", "b"]
    assert view.labels == ["input", "label", "a", "b"]
    unscored = {"a": Shown(Stored(truth), {"header": HEADER, "clips": {}})}
    assert view_sequence(sequence, unscored, tmp_path / "moving.webp")[0].errors is None


def test_stored_predictions_are_shown_as_they_were_scored(world, tmp_path):
    truth = {name: open_sequence(world / name).read().depth for name in CLIPS}
    write_predictions(tmp_path / "a", CLIPS[0], 1 / (2 * truth[CLIPS[0]]), "disparity")
    report = {"header": HEADER | {"align": "disparity"}, "clips": {CLIPS[0]: {"scale": 2.0, "shift": 0.0}}}
    sequence, shown = open_sequence(world / CLIPS[0]), Shown(tmp_path / "a", report)
    np.testing.assert_allclose(scored_depth(shown, sequence, sequence.read()), truth[CLIPS[0]], rtol=1e-5)


class Mean(nn.Module):
    """Depth is one and the mean of the image that it is shown; notes the sizes of the images."""

    claims = "metric"

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def forward(self, frames, state=None):
        self.sizes.add(tuple(frames.shape[-2:]))
        return (1 + frames.mean(dim=(2, 3, 4), keepdim=True)[:, :, 0]).expand(-1, -1, *frames.shape[-2:]), {}


def test_of_a_protocol_that_cuts_and_leaves_out_frames_what_was_scored_is_shown(world, tmp_path):
    sequence = open_sequence(world / CLIPS[0])
    whole = sequence.read()
    header = HEADER | {"protocol": "vda_scannet", "max_depth": 10.0}
    cut, plain = Shown(Mean(), {"header": header, "clips": {}}), Shown(Mean(), {"header": HEADER, "clips": {}})
    clip = scored_frames(sequence, choose_protocol("vda_scannet"))
    np.testing.assert_array_equal(clip.frames, whole.frames[::3, 8:-8, 11:-11])
    np.testing.assert_array_equal(clip.depth, whole.depth[::3, 8:-8, 11:-11])
    np.testing.assert_array_equal(clip.valid, whole.valid[::3, 8:-8, 11:-11])
    assert clip.fps == pytest.approx(whole.fps / 3)
    means = 1 + clip.frames.mean(axis=(1, 2, 3)) / 255
    np.testing.assert_allclose(scored_depth(cut, sequence, clip)[:, 3, 5], means, rtol=1e-5)
    views = view_sequence(sequence, {"a": plain, "b": cut, "c": plain}, tmp_path / "moving.webp")
    assert [view.name for view in views] == [CLIPS[0], f"{CLIPS[0]}, frames as taken by vda_scannet"]
    assert [view.labels for view in views] == [["input", "label", "a", "c"], ["input", "label", "b"]]
    assert (plain.source.sizes, cut.source.sizes) == ({(48, 64)}, {(32, 42)})


def test_stored_predictions_of_a_part_of_each_frame_are_shown_on_that_part(world, tmp_path):
    sequence = open_sequence(world / CLIPS[0])
    part = sequence.read().depth[:, 8:-8, 11:-11]
    shown = Shown(tmp_path / "a", {"header": HEADER | {"protocol": "vda_scannet", "max_depth": 80.0}, "clips": {}})
    clip = scored_frames(sequence, choose_protocol("vda_scannet"))
    for predicted in (part, part[::3]):  # of every frame, and of those that are scored
        write_predictions(tmp_path / "a", CLIPS[0], predicted, "metric")
        found = scored_depth(shown, sequence, clip)
        np.testing.assert_allclose(found[part[::3] > 0], part[::3][part[::3] > 0], rtol=1e-5)


def test_a_clip_that_the_protocol_is_not_for_has_no_view(world, tmp_path, caplog):
    shown = {"a": Shown(Mean(), {"header": HEADER | {"protocol": "vda_nyu", "max_depth": 10.0}, "clips": {}})}
    assert view_sequence(open_sequence(world / CLIPS[0]), shown, tmp_path / "moving.webp") == []
    assert "crop eigen_nyu is for 480 x 640, not 48 x 64" in caplog.text


def test_predictions_of_different_claims_are_each_shown_as_they_were_aligned(world, tmp_path):
    truth = {name: open_sequence(world / name).read().depth for name in CLIPS}
    write_predictions(tmp_path / "a", CLIPS[0], 1 / (2 * truth[CLIPS[0]]), "disparity")
    write_predictions(tmp_path / "a", CLIPS[1], truth[CLIPS[1]], "metric")
    report = evaluate(tmp_path / "a", world, controls=False)
    assert report["header"]["align"] == ["disparity", "none"]
    for name in CLIPS:
        sequence = open_sequence(world / name)
        found = scored_depth(Shown(tmp_path / "a", report), sequence, sequence.read())
        np.testing.assert_allclose(found, truth[name], rtol=1e-5)


def test_a_damaged_clip_costs_the_page_its_images_alone(world, tmp_path, caplog):
    data, out = shutil.copytree(world, tmp_path / "data"), tmp_path / "theirs"
    for name in CLIPS:
        write_predictions(tmp_path / "stored", name, open_sequence(data / name).read().depth, "metric")
    (data / CLIPS[0] / "meta.json").write_text("{", encoding="utf-8")
    assert list(evaluate(tmp_path / "stored", data, out=out, controls=False)["failed"]) == [CLIPS[0]]
    page = write_report([out]).read_text(encoding="utf-8")
    assert f"<h3>{CLIPS[1]}</h3>" in page
    assert not caplog.text.count("no images")
    (data / CLIPS[1] / "meta.json").write_text("{", encoding="utf-8")  # since it was scored
    page = write_report([out]).read_text(encoding="utf-8")
    assert "<td>abs_rel</td>" in page
    assert f"<h3>{CLIPS[1]}</h3>" not in page
    assert f"no images of {data}: " in caplog.text


def test_more_depths_than_are_as_wide_as_a_video_can_be_are_shown_smaller(monkeypatch):
    monkeypatch.setattr("steadydepth.reports.clips.H264_SIDE", 400)
    wide = np.random.default_rng(0).integers(0, 255, (2, 40, 300, 3), dtype=np.uint8)
    found = _enlarge({"input": wide, "a": wide})
    assert found["a"].shape == (2, 26, 196, 3)
    assert abs(found["a"].mean() - wide.mean()) < 1
    assert _enlarge({"input": wide[:, :, :30]})["input"].shape == (2, 240, 180, 3)


def test_depth_is_shown_behind_the_filter_that_it_was_scored_behind(world, tmp_path):
    sequence = open_sequence(world / CLIPS[0])
    raw = np.ones((5, 48, 64), np.float32)
    raw[1::2] = 4
    write_predictions(tmp_path / "a", CLIPS[0], raw, "metric")
    report = {"header": HEADER | {"filter": "ema"}, "clips": {}}
    expected = np.stack([one.depth for one in Predictor(Stored(raw)).session(filter="ema").run(sequence.images())])
    assert 1.01 < expected[1].max() < 3.9
    for source in (Stored(raw), tmp_path / "a"):
        found = scored_depth(Shown(source, report), sequence, sequence.read())
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_page_of_stored_predictions_has_images_of_the_clips_they_are_for(world, tmp_path):
    evaluated = tmp_path / "theirs"
    write_predictions(tmp_path / "stored", CLIPS[1], 1.1 * open_sequence(world / CLIPS[1]).read().depth, "metric")
    evaluate(tmp_path / "stored", world, out=evaluated, controls=False)
    moving_image = evaluated / "flicker.webp"
    page = write_report([evaluated]).read_text(encoding="utf-8")
    assert f"<h3>{CLIPS[1]}</h3>" in page
    assert f"<h3>{CLIPS[0]}</h3>" not in page
    assert page.count("Error |ln d - ln g|") == page.count("flicker shows as stripes") == 1
    assert "input | label | theirs" in page
    write_predictions(tmp_path / "stored", CLIPS[0], np.ones((4, 48, 64), np.float32), "metric")
    short = {"short": Shown(tmp_path / "stored", {"header": HEADER, "clips": {}})}
    assert view_sequence(open_sequence(world / CLIPS[0]), short, moving_image) == []


def test_each_kind_of_camera_has_its_own_intervals(runs):
    file = runs / "plain" / "metrics.json"
    report = json.loads(file.read_text(encoding="utf-8")) | {"interval_fixed": {"abs_rel": [0.15, 0.25]}}
    file.write_text(json.dumps(report), encoding="utf-8")
    page = write_report([runs]).read_text(encoding="utf-8")
    assert re.search(r"Fixed camera.*0\.22 <small>\[0\.15, 0\.25\]</small>", page, re.DOTALL)


def test_without_labels_the_plane_has_no_accuracy_and_is_left_out():
    assert draw_planes({"a": {"mean": {"abs_rel": None, "flicker_flow": 3.0}}}) == []
    [chart] = draw_planes({"a": {"mean": {"abs_rel": 0.1, "flicker_flow": 3.0}}})
    assert 'aria-label="accuracy and flicker_flow"' in chart


def test_filters_are_joined_with_their_own_model_and_the_constant_stands_once():
    one = {"mean": {"abs_rel": 0.2, "sre": 4.0}, "controls": {"constant": controls_of(0.21, 3.5)}}
    one["controls"]["ema"] = controls_of(0.2, 2.0)
    [chart] = draw_planes({"plain": one, "steady": SimpleNamespace(**one).__dict__})
    assert chart.count("<polyline") == 2
    assert re.findall(r"<title>([^:<]*):", chart) == ["plain", "plain + ema", "steady", "steady + ema", "constant"]


def test_edges_stand_against_the_first_measure_of_temporal_consistency_that_is_known():
    means = {"abs_rel": 0.2, "sre": 4.0, "flicker_flow": 2.0, "edge_gain": 0.5}
    charts = draw_planes({"plain": {"mean": means}, "steady": {"mean": means | {"edge_gain": None}}})
    assert [re.search('aria-label="([^"]*)"', chart)[1] for chart in charts] == ["accuracy and sre", "edges and sre"]
    assert re.findall(r"<title>([^:<]*):", charts[1]) == ["plain"]
    assert "edge_gain, 1" in charts[1]


def test_a_clip_shows_the_steadiest_word_it_has():
    curves = {"a": {"curves": {"room": {"abs_rel": [None, None], "flicker_flow": [2.0]}}}, "b": {}}
    [chart] = draw_clip("room", curves)
    assert "change of depth along flow" in chart
    assert draw_clip("hall", curves) == []
