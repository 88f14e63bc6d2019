import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import psutil
import pytest
import yaml
from browser import opened_browser
from small_runs import train_until_cut

from steadydepth.config import CompareConfig, FilterName
from steadydepth.config_files import dump_config, load_compare_config
from steadydepth.evaluation.clip_evaluation import CONTROLS
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.experiments import runner
from steadydepth.experiments.compare import compare
from steadydepth.experiments.compare_page import render_comparison
from steadydepth.experiments.compare_plan import plan_runs
from steadydepth.experiments.compare_table import best_row, build_comparison, constant_wins, markdown_table
from steadydepth.experiments.planned_runs import Series, next_stage
from steadydepth.method.relative_loss import RELATIVE
from steadydepth.metrics.protocols import METRICS
from steadydepth.models.load import load_model
from steadydepth.training.lock import alone_in
from steadydepth.training.log import last_step
from steadydepth.training.loop import train
from steadydepth.types import InputError

ROOT = Path(__file__).parent.parent.parent


def write_config(folder, world, **changes):
    """A comparison of plain and steady over two seeds in `folder`; returns its file."""
    base = {
        "data": {"root": str(world), "height": 48, "width": 64},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 16},
        "optim": {"steps": 2, "batch": 2},
        "run": {"folder": "unused", "device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    content = {
        "base": str(folder / "base.yaml"),
        "test": str(world),
        "out": str(folder / "out"),
        "seeds": [0, 3],
        "methods": {"plain": ["loss.relative_weight=0"], "steady": []},
    }
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")
    return path


def plan(folder, world, **changes):
    return plan_runs(load_compare_config(write_config(folder, world, **changes)))


def table_of(clips):
    """What evaluate writes for one method whose clips have these values of abs_rel, flicker and gain."""
    names = ("abs_rel", "flicker", "gain")
    of_clips = {
        name: dict(zip(names, values, strict=True))
        | {"n_frames": 5, "n_fixed": 500, "n_tracked": 500, "fixed_camera": name.startswith("fixed")}
        for name, values in clips.items()
    }

    def means(chosen):
        found = {name: sum(clip[name] for clip in chosen) / len(chosen) for name in names} if chosen else {}
        return dict.fromkeys(METRICS) | found

    return {
        "mean": means(list(of_clips.values())),
        "mean_fixed": means([clip for clip in of_clips.values() if clip["fixed_camera"]]),
        "mean_moving": means([clip for clip in of_clips.values() if not clip["fixed_camera"]]),
        "clips": of_clips,
    }


def test_a_finished_model_of_any_kind_is_scored_next(world, tmp_path):
    run = plan(tmp_path, world).runs()[0]
    series = Series(tmp_path / "out", world, jobs=1, align="auto", protocol="plain")
    run.folder.mkdir(parents=True)
    assert next_stage(run, series) == "train"
    (run.folder / "config.yaml").write_text(dump_config(run.config), encoding="utf-8")
    (run.folder / "steadydepth.json").write_text("{}", encoding="utf-8")  # what a network of the user's own leaves
    assert next_stage(run, series) == "evaluate"
    report = report_of({"a": (1, 1, 1)}, data=str(series.data))
    (run.folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    assert next_stage(replace(run, controls=()), series) is None
    report["header"]["filter"] = "ema"
    (run.folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    assert next_stage(replace(run, controls=()), series) == "evaluate"


def test_how_far_a_run_is_is_read_from_lines_of_any_length(world, tmp_path):
    run = plan(tmp_path, world).runs()[0]
    assert last_step(run.folder / "metrics.jsonl") == 0
    run.folder.mkdir(parents=True)
    long = {f"metric {number}": 1 / 3 for number in range(200)}
    lines = [json.dumps({"step": step} | long) + "\n" for step in range(1, 9)]
    (run.folder / "metrics.jsonl").write_text("".join(lines) + '{"step": 9', encoding="utf-8")
    assert last_step(run.folder / "metrics.jsonl") == 8


def report_of(clips, data="world", **controls):
    header = {"data": data, "align": "none", "protocol": "plain", "max_depth": 80.0, "n_clips": len(clips)}
    tables = {"controls": {name: table_of(of_control) for name, of_control in controls.items()}} if controls else {}
    return {"version": 1, "header": header | {"n_frames": 5 * len(clips)}, **table_of(clips), **tables}


def test_a_plan_has_a_run_for_each_method_and_seed_that_differ_only_in_what_the_method_changes(tmp_path, world):
    runs = {run.name: run for run in plan(tmp_path, world, set=["optim.steps=4"]).runs()}
    assert list(runs) == ["plain-0", "steady-0", "plain-3", "steady-3"]
    assert runs["steady-3"].folder == tmp_path / "out" / "steady-3"
    plain, steady = (runs[name].config.model_dump() for name in ("plain-3", "steady-3"))
    assert plain["run"].pop("seed") == steady["run"].pop("seed") == 3
    assert plain["loss"].pop("relative_weight") == 0
    assert steady["loss"].pop("relative_weight") == 1
    assert plain["run"].pop("folder") != steady["run"].pop("folder")
    assert plain == steady
    assert plain["optim"]["steps"] == 4
    assert runs["plain-0"].controls == ("constant", "ema", "ema_0.8", "median", "flow_ema")
    assert runs["steady-0"].controls == ()


def test_the_command_line_changes_the_comparison_and_what_all_methods_share(tmp_path, world):
    path = write_config(tmp_path, world, set=["optim.steps=4"], curve={"method": "steady", "values": [3]})
    words = ["seeds=[5]", "jobs=2", "curve.values=[2, 1e-1]", "optim.steps=6", "loss.relative_weight=4", "align=scale"]
    config = load_compare_config(path, words)
    assert (config.seeds, config.jobs, config.align, config.protocol) == ((5,), 2, "scale", "plain")
    runs = {run.name: run.config for run in plan_runs(config).runs()}
    weights = {"plain-5": 0, "steady-5": 4, "steady@2-5": 2, "steady@0.1-5": 0.1}
    assert {name: one.loss.relative_weight for name, one in runs.items()} == weights
    assert {one.optim.steps for one in runs.values()} == {6}
    for word in ("jobs", "=3", "optim.=3"):
        with pytest.raises(InputError, match=r"write key=value or section\.key=value"):
            load_compare_config(path, [word])
    with pytest.raises(InputError, match="1 mistake:\n  job: unknown"):
        load_compare_config(path, ["job=3"])


def test_a_value_of_the_curve_that_a_method_has_anyway_is_not_trained_twice(tmp_path, world):
    found = plan(tmp_path, world, curve={"method": "steady", "values": [0, 0.5, 1], "seeds": [3]})
    assert [run.name for run in found.runs()] == ["plain-0", "steady-0", "plain-3", "steady-3", "steady@0.5-3"]
    assert {row: runs[3].name for row, runs in found.curve.items()} == {
        "steady@0": "plain-3", "steady@0.5": "steady@0.5-3", "steady@1": "steady-3"
    }  # fmt: skip


def test_the_values_of_a_curve_are_those_that_were_written(tmp_path, world):
    values = [1234567, 2000000, 3]
    found = plan(tmp_path, world, curve={"method": "steady", "key": "optim.steps", "values": values, "seeds": [0]})
    assert list(found.curve) == [f"steady@{value}" for value in values]
    assert [row[0].config.optim.steps for row in found.curve.values()] == values


def test_all_mistakes_of_a_comparison_are_listed_at_once(tmp_path, world):
    methods = {
        "plain": [],
        "big": ["model.decoder_width=32"],
        "fast": ["optim.learning_rate=1e-2"],
        "odd": ["loss.weigth=1"],
        "seeded": ["run.seed=4"],
        "constant": [],
    }
    changes = {"seeds": [1, 1], "filters": {"stedy": ["ema"]}, "curve": {"method": "calm", "values": [1]}}
    changes |= {"align": "frame", "protocol": "nuy"}
    with pytest.raises(InputError) as caught:
        plan(tmp_path, world, methods=methods, **changes)
    message = str(caught.value)
    for mistake in (
        "10 mistakes",
        "align 'frame': choose auto or one of ",
        "protocol 'nuy': unknown; choose one of ",
        "filters.stedy: no such method; there is plain, big, ",
        "methods.constant: a control has that name",
        "curve.method: calm: no such method",
        "seeds: [1, 1]: each counts once",
        "methods.seeded: run.seed=4: follows from `seeds` and `out`",
        "odd: ",
        "loss.weigth: unknown",
        "big: model.decoder_width: 32 here, 16 in plain: methods share start, data and schedule",
        "fast: optim.learning_rate: 0.01 here, 0.001 in plain",
    ):
        assert mistake in message


def test_mistakes_of_the_file_itself_are_listed_with_path_and_value(tmp_path, world):
    path = write_config(tmp_path, world, jobs=0, methods={"a/b": ["loss"]}, curve={"values": []}, filters={"a": ["x"]})
    path.write_text(path.read_text(encoding="utf-8") + "seed: 3\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_compare_config(path)
    message = str(caught.value)
    for mistake in (
        "7 mistakes",
        "jobs: 0: ",
        "methods.a/b: 'a/b': ",
        "methods.a/b.0: 'loss': ",
        "curve.method: missing",
        "curve.values: []: ",
        "filters.a.0: 'x': Input should be 'ema', ",
        "seed: unknown; a config has base, ",
    ):
        assert mistake in message
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file; compare is one that comes"):
        load_compare_config(tmp_path / "nowhere.yaml")


def test_a_fault_that_all_methods_share_is_said_once(tmp_path, world):
    with pytest.raises(InputError, match="1 mistake:\n  plain, steady: ") as caught:
        plan(tmp_path, world, set=["optim.steps=0"])
    assert str(caught.value).count("optim.steps: 0") == 1


def test_the_shipped_comparison_is_one_and_a_curve_through_its_methods_trains_nothing_twice(monkeypatch):
    monkeypatch.chdir(ROOT)
    shipped = load_compare_config(Path("configs/compare.yaml"))
    n_methods = len(shipped.methods)
    assert len(plan_runs(shipped).runs()) == n_methods * 3
    weight = plan_runs(shipped).methods["steady"][0].config.loss.relative_weight
    curve = {"method": "steady", "values": [0, weight / 2, weight]}
    found = plan_runs(CompareConfig.model_validate(shipped.model_dump() | {"curve": curve}))
    # The plain run has no edge term either, so a weight of 0 is a run of its own; the whole weight is `steady`.
    assert len(found.runs()) == (n_methods + 2) * 3
    assert found.curve["steady@0"] != found.methods["plain"]
    assert found.curve[f"steady@{weight:g}"] == found.methods["steady"]


def test_the_shipped_comparison_of_losses_has_every_one_and_a_curve(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = plan_runs(load_compare_config(Path("configs/relative_losses.yaml")))
    assert {rows[0].config.loss.relative for rows in found.methods.values()} == set(RELATIVE)
    assert {run.config.optim.steps for run in found.runs()} == {300}
    assert found.curve["steady@0.85"][0] == found.methods["steady"][0]
    assert len(found.runs()) == 6 * 3 + 2


def test_the_filters_of_a_comparison_are_those_that_evaluate_has():
    assert sorted(get_args(FilterName)) == sorted(CONTROLS)


PLAIN = {"fixed_0": (0.2, 4.0, 0.5), "moving_0": (0.4, 8.0, 0.7)}
CALM = {"fixed_0": (0.3, 2.0, 0.4), "moving_0": (0.3, 4.0, 0.6)}
FLAT = {"fixed_0": (0.6, 0.0, 0.0), "moving_0": (0.8, 0.0, 0.0)}


def shift(clips, by):
    return {name: tuple(value + by for value in values) for name, values in clips.items()}


@pytest.fixture
def result(tmp_path, world):
    """A comparison of reports that were made up."""
    filters = {"plain": ["ema"]}
    path = write_config(tmp_path, world, filters=filters, curve={"method": "steady", "values": [1, 2], "seeds": [3]})
    steady = {0: report_of(CALM), 3: report_of(shift(CALM, 0.1))}
    return build_comparison(
        {
            "plain": {
                0: report_of(PLAIN, ema=CALM, constant=FLAT),
                3: report_of(shift(PLAIN, 0.2), ema=CALM, constant=FLAT),
            },
            "steady": steady,
        },
        {"steady@1": {3: steady[3]}, "steady@2": {3: report_of(shift(CALM, 0.4))}},
        config=load_compare_config(path),
        frames={"plain": 12, "steady": 12, "steady@1": 12, "steady@2": 24},
    ) | {"failed": {}}


def test_rows_hold_means_spread_and_ratios_worked_by_hand(result):
    assert list(result["rows"]) == ["plain", "plain + ema", "steady", "constant"]
    plain, steady = result["rows"]["plain"], result["rows"]["steady"]
    assert [plain["seeds"][seed]["flicker"] for seed in ("0", "3")] == pytest.approx([6.0, 6.2])
    assert plain["mean"]["flicker"] == pytest.approx(6.1)
    assert plain["std"]["flicker"] == pytest.approx(0.1 * 2**0.5)  # of 6.0 and 6.2, divided by n - 1
    assert steady["mean"]["abs_rel"] == pytest.approx(0.35)
    assert steady["ratio_to_plain"]["flicker"] == pytest.approx(3.05 / 6.1)
    assert plain["ratio_to_plain"]["flicker"] == 1
    assert plain["mean"]["tae"] is None
    assert steady["ratio_to_plain"]["tae"] is None
    assert result["rows_fixed"]["steady"]["ratio_to_plain"]["flicker"] == pytest.approx(2.05 / 4.1)
    assert result["rows_moving"]["plain"]["mean"]["abs_rel"] == pytest.approx(0.5)
    # Two clips, seeds averaged: resamples are the one, the other, or their mean.
    assert plain["interval"]["flicker"] == pytest.approx([4.1, 8.1])


def test_a_point_of_the_curve_is_compared_over_the_seeds_that_both_have(result):
    point = result["curve"][1]
    assert (point["row"], point["value"], point["other_budget"]) == ("steady@2", 2, True)
    assert list(point["seeds"]) == ["3"]
    assert point["std"]["flicker"] is None
    assert point["ratio_to_plain"]["flicker"] == pytest.approx(3.4 / 6.2)
    assert "| steady@2 (1 seed) |" in markdown_table(result)


def test_the_best_is_bold_among_rows_of_all_seeds_and_the_constants_wins_are_marked(result):
    rows = result["rows"]
    assert best_row("flicker", rows) == "plain + ema"
    assert best_row("gain", rows) == "plain"
    assert constant_wins("flicker", rows)
    assert not constant_wins("abs_rel", rows)
    lines = markdown_table(result).splitlines()
    assert lines[0] == "| | abs_rel ↓ | flicker ↓ † | gain →1 | training frames |"
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    assert lines[2] == "| plain | 0.40 ± 0.14 | 6.10 ± 0.14 | **0.70 ± 0.14** | 12 |"
    assert lines[3] == "| plain + ema | **0.3** | **3** | 0.5 | 12 |"
    assert lines[5] == "| constant | 0.7 | 0 | 0 | 12 |"
    assert lines[7].endswith("| 24 (other budget) |")
    assert lines[8] == "| steady / plain | 0.875 | 0.500 | 0.786 | |"


def test_rows_that_lose_edges_are_marked_and_stand_in_a_plane_of_their_own(tmp_path, world):
    def with_edges(clips, edge_gain, **controls):
        report = report_of(clips, **controls)
        for table in (report, *report.get("controls", {}).values()):
            for values in (table["mean"], *table["clips"].values()):
                values["edge_gain"] = edge_gain if table is report else 0.0
        return report

    methods = {"plain": with_edges(PLAIN, 0.5, constant=FLAT), "steady": with_edges(CALM, 0.46)}
    methods["soft"] = with_edges(CALM, 0.44)
    config = write_config(tmp_path, world, filters={}, seeds=[0], methods={name: [] for name in methods})
    found = build_comparison(
        {name: {0: report} for name, report in methods.items()},
        {},
        config=load_compare_config(config),
        frames=dict.fromkeys(methods, 12),
    )
    lines = markdown_table(found).splitlines()
    assert lines[0] == "| | abs_rel ↓ | edge_gain →1 | flicker ↓ † | gain →1 | training frames |"
    marked = {line.split(" | ")[0].strip("| "): "‡" in line for line in lines[2:6]}
    assert marked == {"plain": False, "steady": False, "soft": True, "constant": True}
    assert "‡ less than 0.9 of the first method's edges: part of its temporal consistency is blur" in lines[-1]
    page = render_comparison(found | {"failed": {}})
    assert page.count("<svg") == 2
    assert "edge_gain against flicker" in page
    assert page.count("‡</span>") == 3  # two cells and what it means


def test_a_difference_that_every_clip_shows_is_called_one(tmp_path, world):
    plain = {f"fixed_{n}": (0.2 + n / 10, 5.0 + n, 0.5) for n in range(7)}
    calm = {name: (abs_rel, flicker - 1, gain) for name, (abs_rel, flicker, gain) in plain.items()}
    found = build_comparison(
        {"plain": {0: report_of(plain, constant=FLAT)}, "steady": {0: report_of(calm)}},
        {},
        config=load_compare_config(write_config(tmp_path, world, filters={}, seeds=[0])),
        frames={"plain": 12, "steady": 12},
    )
    versus = found["rows"]["steady"]["versus_plain"]
    assert versus["flicker"]["verdict"] == "better"
    assert versus["flicker"]["difference"] == pytest.approx(-1)
    assert versus["flicker"]["better_in_clips"] == [7, 7]
    assert versus["abs_rel"]["verdict"] == "no difference found"
    assert found["rows"]["plain"]["versus_plain"] == {}
    assert "\N{MULTIPLICATION SIGN} 0.875 better" in render_comparison(found | {"failed": {}})


def test_runs_that_were_scored_otherwise_do_not_stand_in_one_table(tmp_path, world):
    other = report_of(CALM)
    other["header"]["max_depth"] = 10.0
    with pytest.raises(InputError, match=r"steady-0: was scored with max_depth 10\.0, the others with 80\.0"):
        build_comparison(
            {"plain": {0: report_of(PLAIN, constant=FLAT)}, "steady": {0: other}},
            {},
            config=load_compare_config(write_config(tmp_path, world, filters={})),
            frames={"plain": 12, "steady": 12},
        )


def test_the_page_holds_every_row_and_loads_nothing_from_elsewhere(result):
    page = render_comparison(result | {"failed": {"steady-9": "train: <b>exit status 1"}})
    for name in ("plain", "plain + ema", "steady", "constant", "steady@2 (1 seed)"):
        assert f"<td>{name}</td>" in page
    assert "3.050 ± 0.071" in page
    assert "\N{MULTIPLICATION SIGN} 0.500" in page
    assert "24 (other budget)" in page
    assert page.count("<svg") == 1  # flicker; there is no vel
    assert "abs_rel against flicker" in page
    assert "steady-9 failed" in page
    assert "<b>" not in page
    assert "http" not in page


# What a child does here in place of training and evaluating: {0} is the run folder, {1} its config, {2} the report.
FAKE_TRAIN = """
import pathlib, shutil, sys
folder = pathlib.Path({0!r}); folder.mkdir(exist_ok=True)
shutil.copy({1!r}, folder / "config.yaml")
sys.exit("out of luck") if folder.name == {3!r} else (folder / "config.json").write_text("x")
"""
FAKE_EVALUATE = """
import pathlib
scores = pathlib.Path({4!r}); scores.mkdir(exist_ok=True)
(scores / "metrics.json").write_text({2!r})
"""


@pytest.fixture
def children(monkeypatch, world):
    """Quick children; the list says which stages of which runs were started. Set `unlucky` to a run that fails."""

    class Started(list):
        unlucky = ""

    started = Started()

    given = runner._command

    def command(run, stage, config):
        words = given(run, stage, config)
        scores = words[words.index("--out") + 1] if stage == "evaluate" else ""
        started.append(f"{run.name}: {stage}")
        report = json.dumps(report_of(PLAIN, data=str(world), constant=FLAT, ema=CALM))
        script = FAKE_TRAIN if stage == "train" else FAKE_EVALUATE
        words = str(run.folder), str(config.out / "configs" / f"{run.name}.yaml"), report, started.unlucky, scores
        return [sys.executable, "-c", script.format(*words)]

    monkeypatch.setattr(runner, "_command", command)
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.01)
    return started


def test_a_failed_run_is_named_the_others_go_on_and_only_what_is_missing_is_done_again(tmp_path, world, children, run):
    path = write_config(tmp_path, world, jobs=2, filters={"plain": ["ema"]})
    children.unlucky = "steady-0"
    status, printed, complained = run("compare", "-c", path)
    assert status == 1
    assert "| steady (1 seed) |" in printed
    assert "steady-0 failed: train: exit status 1: out of luck (see " in complained
    assert len(children) == 7
    assert not (tmp_path / "out" / "steady-0" / "config.json").exists()
    children.clear()
    children.unlucky = ""
    (tmp_path / "out" / "plain-3" / "metrics.json").unlink()
    # Trained again, by hand: what was measured is not of this model.
    os.utime(tmp_path / "out" / "steady-3" / "config.json")
    found = compare(path)
    again = ["plain-3: evaluate", "steady-0: evaluate", "steady-0: train", "steady-3: evaluate"]
    assert sorted(children) == again
    assert found["failed"] == {}
    assert list(found["rows"]["steady"]["seeds"]) == ["0", "3"]
    children.clear()
    assert compare(path) == found == json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert children == []


def test_another_way_to_score_keeps_the_runs_and_their_scores(tmp_path, world, children):
    path = write_config(tmp_path, world, filters={}, seeds=[3])
    usual = compare(path)
    children.clear()
    other = load_compare_config(path, ["align=scale", "protocol=nyu"])
    compare(other)
    assert sorted(children) == ["plain-3: evaluate", "steady-3: evaluate"]
    assert (tmp_path / "out" / "plain-3" / "nyu-scale" / "metrics.json").is_file()
    children.clear()
    assert compare(path) == usual
    assert children == []


def test_another_comparison_does_not_take_the_folder(tmp_path, world, children):
    compare(write_config(tmp_path, world, filters={}))
    with pytest.raises(InputError, match=r"out: other runs live in plain-0, steady-0, plain-3, steady-3 \(see"):
        compare(write_config(tmp_path, world, set=["optim.steps=3"]))


def test_two_comparisons_in_one_folder_at_once_are_refused(tmp_path, world, children):
    path = write_config(tmp_path, world)
    with alone_in(tmp_path / "out", with_children=True), pytest.raises(InputError, match="trains here"):
        compare(path)
    assert children == []


KILL = signal.SIGBREAK if sys.platform == "win32" else signal.SIGTERM


def interrupt_when(there):
    """Send this process a polite kill as soon as `there` holds."""

    def wait():
        while not there():
            time.sleep(0.01)
        signal.raise_signal(KILL)

    threading.Thread(target=wait, daemon=True).start()


def test_runs_end_with_the_comparison_that_started_them(tmp_path, world, children, monkeypatch):
    script = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(600)"
    monkeypatch.setattr(runner, "_command", lambda *_: [sys.executable, "-c", script])
    before = signal.getsignal(KILL)
    pid = tmp_path / "pid"
    interrupt_when(lambda: pid.is_file() and pid.read_text(encoding="utf-8").endswith("."))
    with pytest.raises(KeyboardInterrupt):
        compare(write_config(tmp_path, world))
    assert signal.getsignal(KILL) is before
    assert not psutil.pid_exists(int(pid.read_text(encoding="utf-8")[:-1]))
    # Nobody holds the folder any longer.
    with alone_in(tmp_path / "out", with_children=True):
        pass


def test_a_real_comparison_goes_on_where_it_was_cut_and_repeats_nothing(tmp_path, world, monkeypatch):
    """Three of four runs are finished and the fourth is cut, with the configs that the plan gives them."""
    path = write_config(tmp_path, world, set=["optim.steps=4"], filters={"plain": ["ema"]})
    *made, last = plan_runs(load_compare_config(path)).runs()
    assert last.name == "steady-3"
    for run in made:
        train(run.config)
        evaluate(load_model(run.folder), world, out=run.folder, controls=bool(run.controls))
    train_until_cut(last.config, 2, monkeypatch)
    before = {file: file.stat().st_mtime_ns for run in made for file in run.folder.iterdir()}
    found = compare(path)
    assert "resuming after step 2 of 4" in (tmp_path / "out" / "logs" / "steady-3.log").read_text(encoding="utf-8")
    assert [file.name for file in (tmp_path / "out" / "logs").iterdir()] == ["steady-3.log"]
    assert found["failed"] == {}
    assert (last.folder / "config.yaml").read_text(encoding="utf-8") == dump_config(last.config)
    log = (last.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in log] == [1, 2, 3, 4]
    assert {file: file.stat().st_mtime_ns for run in made for file in run.folder.iterdir()} == before
    assert list(found["rows"]) == ["plain", "plain + ema", "steady", "constant"]
    steady = found["rows"]["steady"]
    written = json.loads((last.folder / "metrics.json").read_text(encoding="utf-8"))["mean"]
    assert steady["seeds"]["3"]["abs_rel"] == written["abs_rel"]
    assert steady["mean"]["flicker"] == pytest.approx((steady["seeds"]["0"]["flicker"] + written["flicker"]) / 2)
    assert steady["frames_trained_on"] == 4 * 2 * 3
    assert found["rows"]["constant"]["mean"]["flicker"] == pytest.approx(0, abs=1e-9)
    assert "<td>plain + ema</td>" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_the_page_fits_a_phone_whatever_the_data_is_called(result, tmp_path):
    header = result["header"] | {"data": "/data/" + "a" * 90}
    (tmp_path / "compare.html").write_text(
        render_comparison(result | {"header": header, "failed": {}}), encoding="utf-8"
    )
    with opened_browser() as browser:
        page = browser.new_page(viewport={"width": 360, "height": 640})
        page.goto((tmp_path / "compare.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
