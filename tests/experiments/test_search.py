"""A search: what it tries, what it calls the best, and that a cut one ends as one that was not."""

import json
import sys
from math import inf, log10
from pathlib import Path

import pytest
import yaml

from steadydepth.config import SearchConfig
from steadydepth.config_files import load_config, load_search_config
from steadydepth.experiments import runner
from steadydepth.experiments.search import _excess, markdown_table, search
from steadydepth.experiments.search_plan import Trial, check_search, plan_runs, propose
from steadydepth.metrics.protocols import METRICS
from steadydepth.types import InputError

pytest.importorskip("optuna")
ROOT = Path(__file__).parent.parent.parent


def write_config(folder, world, **changes):
    """A search over a weight and the clips of a step in `folder`; returns its file."""
    base = {
        "data": {"root": str(world), "height": 32, "width": 40, "motion": "none"},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 8},
        "loss": {"relative_weight": 5.0},
        "optim": {"steps": 2, "batch": 2},
        "run": {"folder": "unused", "device": "cpu", "log_every": 1, "checkpoint_every": 1, "seed": 3},
    }
    (folder / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    content = {
        "base": str(folder / "base.yaml"),
        "validation": str(world),
        "out": str(folder / "out"),
        "trials": 7,
        "keep": {"abs_rel": 0.02},
        "ranges": {
            "loss.relative_weight": {"low": 0.05, "high": 20.0, "log": True},
            "optim.batch": {"low": 1, "high": 4},
        },
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False), encoding="utf-8")
    return path


def flicker_of(config):
    """The steadiest weight is 2, the steadiest batch 3."""
    weight = max(config.loss.relative_weight, 1e-3)
    return 3 + (log10(weight) - log10(2)) ** 2 + abs(config.optim.batch - 3) / 10


def abs_rel_of(config):
    """A weight costs accuracy: 2 % of the plain run's at 1.25."""
    return 0.2 + 0.0032 * config.loss.relative_weight


@pytest.fixture
def children(monkeypatch, world):
    """Runs that score as the two functions say; the list names those that are trained, `unlucky` one that fails."""

    class Started(list):
        unlucky = ""

    started = Started()

    def command(run, stage, series):
        run.folder.mkdir(exist_ok=True)
        if stage == "train":
            started.append(run.name)
            if run.name == started.unlucky:
                return [sys.executable, "-S", "-c", "import sys; sys.exit('out of luck')"]
            (run.folder / "config.yaml").write_bytes((series.out / "configs" / f"{run.name}.yaml").read_bytes())
            (run.folder / "config.json").write_text("{}", encoding="utf-8")
        else:
            mean = dict.fromkeys(METRICS) | {"flicker": flicker_of(run.config), "abs_rel": abs_rel_of(run.config)}
            header = {"data": str(world), "align": "scale", "n_clips": 0, "n_frames": 0}
            report = {"version": 1, "header": header, "mean": mean, "clips": {}}
            (run.folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
        return [sys.executable, "-S", "-c", ""]

    monkeypatch.setattr(runner, "_command", command)
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.01)
    return started


def test_the_best_is_the_steadiest_that_keeps_its_accuracy(tmp_path, world, children):
    result = search(write_config(tmp_path, world))
    assert children == ["plain", *(f"trial-{number}" for number in range(7))]
    assert result["plain"] == {"flicker": pytest.approx(3 + (log10(1e-3) - log10(2)) ** 2 + 0.1), "abs_rel": 0.2}
    trials = result["trials"]
    assert trials["trial-0"]["values"] == {"loss.relative_weight": 5.0, "optim.batch": 2}
    assert trials["trial-0"]["excess"] == {"abs_rel": pytest.approx(0.016 - 0.004)}
    for trial in trials.values():
        assert 0.05 <= trial["values"]["loss.relative_weight"] <= 20
        assert trial["values"]["optim.batch"] in (1, 2, 3, 4)
        assert trial["is_kept"] == (trial["values"]["loss.relative_weight"] <= 1.25)
    kept = {name: trial["scores"]["flicker"] for name, trial in trials.items() if trial["is_kept"]}
    assert 0 < len(kept) < 7
    assert result["best"] == result["order"][0] == min(kept, key=kept.get)
    best = load_config(tmp_path / "out" / "best.yaml")
    assert best.run.folder == tmp_path / "out" / "best"
    assert best.loss.relative_weight == trials[result["best"]]["values"]["loss.relative_weight"]
    assert best.optim.batch == trials[result["best"]]["values"]["optim.batch"]
    assert best.run.seed == 3
    lines = markdown_table(result).splitlines()
    assert lines[0] == "| | loss.relative_weight | optim.batch | flicker ↓ | abs_rel ↓ | |"
    assert lines[2].startswith(f"| {result['best']} | ")
    notes = [line.split("|")[-2].strip() for line in lines[2:]]
    assert notes == [""] * len(kept) + ["loses too much"] * (7 - len(kept)) + [""]
    assert lines[-1].startswith("| plain |  |  | 14 | 0.2 |")


def test_a_search_that_was_cut_ends_as_one_that_was_not(tmp_path, world, children, monkeypatch):
    (tmp_path / "cut").mkdir()
    whole = search(write_config(tmp_path, world))
    path = write_config(tmp_path / "cut", world)
    start = runner._start

    def start_until_cut(run, stage, series):
        if (run.name, stage) == ("trial-4", "evaluate"):
            raise KeyboardInterrupt
        return start(run, stage, series)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "_start", start_until_cut)
        with pytest.raises(KeyboardInterrupt):
            search(path)
    before = json.loads((tmp_path / "cut" / "out" / "search.json").read_text(encoding="utf-8"))
    assert before["trials"]["trial-4"]["scores"] == {}
    children.clear()
    found = search(path)
    assert children == ["trial-5", "trial-6"]
    for part in ("trials", "order", "best", "plain"):
        assert found[part] == whole[part]
    children.clear()
    # More of them, side by side.
    more = search(load_search_config(path, ["trials=9", "jobs=2"]))
    assert children == ["trial-7", "trial-8"]
    assert {name: more["trials"][name] for name in found["trials"]} == found["trials"]
    with pytest.raises(InputError, match=r"search\.json: another search lives there, with its own metric: choose"):
        search(load_search_config(path, ["metric=tsd"]))
    file = tmp_path / "cut" / "out" / "search.json"
    written = file.read_text(encoding="utf-8")
    for damage in ("{", "[]", '{"config": {}}', json.dumps(json.loads(written) | {"trials": {"trial-4": 1}})):
        file.write_text(damage, encoding="utf-8")
        with pytest.raises(InputError, match=r"search\.json: cannot be read as what a search wrote .*another `out`"):
            search(path)
    file.write_text(written, encoding="utf-8")
    with pytest.raises(InputError, match="out: other runs live in plain, trial-0"):
        search(load_search_config(path, []).model_copy(update={"base": changed_base(tmp_path)}))


def test_a_trial_that_somebody_scored_otherwise_is_named_and_not_ranked(tmp_path, world, children):
    """As `evaluate --align none --out` leaves it, into the folder of a trial."""
    path = write_config(tmp_path, world, trials=2)
    search(path)
    scores = tmp_path / "out" / "trial-1" / "metrics.json"
    report = json.loads(scores.read_text(encoding="utf-8"))
    report["header"]["align"] = "none"
    report["mean"]["flicker"] = 0.1
    scores.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(
        InputError, match="trial-1: was scored with align none, the others with scale: delete the metri"
    ):
        search(path)
    scores.unlink()
    assert search(path)["trials"]["trial-1"]["scores"]["flicker"] > 1


def changed_base(folder):
    path = folder / "cut" / "base.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("steps: 2", "steps: 3"), encoding="utf-8")
    return path


def first_weights(trials, config):
    """What is tried next, for several seeds."""
    configs = [config.model_copy(update={"set": (f"run.seed={seed}",)}) for seed in range(6)]
    found = [propose(trials, 1, base=check_search(one), config=one) for one in configs]
    return [values["loss.relative_weight"] for (values,) in found]


def test_the_next_trial_is_near_what_was_best_before_and_where_accuracy_is_kept(tmp_path, world):
    config = load_search_config(write_config(tmp_path, world, keep={}))
    trials = [
        Trial({"loss.relative_weight": weight, "optim.batch": 2}, {"flicker": abs(log10(weight / 2))}, {})
        for weight in (0.05 * 1.35**step for step in range(20))
    ]
    assert all(1 < weight < 4 for weight in first_weights(trials, config))
    costly = [Trial(one.values, one.scores, {"abs_rel": one.values["loss.relative_weight"] - 0.3}) for one in trials]
    assert all(weight < 0.6 for weight in first_weights(costly, config))
    together = propose(trials, 4, base=check_search(config), config=config)
    assert len({values["loss.relative_weight"] for values in together}) == 4
    # The same trials before, the same next.
    assert propose(trials, 4, base=check_search(config), config=config) == together


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path, world, children, run):
    path = write_config(tmp_path, world, trials=3)
    children.unlucky = "trial-1"
    status, printed, complained = run("search", "-c", path)
    assert status == 1
    assert "trial-1 failed: train: exit status 1: out of luck (see " in complained
    assert printed.count("| failed |") == 1
    assert children == ["plain", "trial-0", "trial-1", "trial-2"]
    children.clear()
    children.unlucky = ""
    assert search(path)["failed"] == {}
    assert children == ["trial-1"]


def test_without_the_run_that_others_are_measured_by_nothing_goes_on(tmp_path, world, children):
    children.unlucky = "plain"
    with pytest.raises(InputError, match="the plain run, which others are measured by, failed: train: exit status 1"):
        search(write_config(tmp_path, world))
    assert children == ["plain"]


def test_a_share_of_the_edges_may_be_lost(tmp_path, world):
    config = load_search_config(write_config(tmp_path, world, keep={"edge_gain": 0.03}))
    plain = {"edge_gain": 0.5}
    excess = {gain: _excess({"edge_gain": gain}, plain, config)["edge_gain"] for gain in (0.486, 0.484, 0.9)}
    assert excess == pytest.approx({0.486: -0.001, 0.484: 0.001, 0.9: -0.415})
    assert SearchConfig.model_fields["keep"].default == {"abs_rel": 0.02, "edge_gain": 0.03}


def test_where_nothing_keeps_its_accuracy_there_is_no_best(tmp_path, world, children, run):
    path = write_config(tmp_path, world, trials=2, keep={"abs_rel": 0.0})
    status, printed, _ = run("search", "-c", path)
    assert status == 0
    assert "no trial keeps what it must" in printed
    assert not (tmp_path / "out" / "best.yaml").exists()


def test_a_metric_that_the_clips_do_not_give_is_named(tmp_path, world, children):
    with pytest.raises(InputError, match="these clips give no tsd: choose another metric"):
        search(write_config(tmp_path, world, metric="tsd"))


def test_all_mistakes_of_a_search_are_listed_at_once(tmp_path, world):
    ends = {"low": 0.5, "high": 2}
    ranges = {
        "loss.weigth": ends,
        "loss.absolute": ends,
        "loss.both_frames": ends,
        "loss.trim": ends,
        "optim.batch": ends,
    }
    path = write_config(tmp_path, world, ranges=ranges, metric="n_frames", keep={"rmsee": 0.1}, align="frame")
    with pytest.raises(InputError) as caught:
        search(path)
    message = str(caught.value)
    for mistake in (
        "search: 8 mistakes",
        "ranges.loss.weigth: is no number of a config",
        "ranges.loss.absolute: is no number",
        "ranges.loss.both_frames: is no number",
        "loss.trim: 2.0: ",
        "optim.batch: 0.5: ",
        "metric: n_frames: is no metric with a best value; choose abs_rel",
        "keep: rmsee: is no metric",
        "align 'frame': choose auto or one of ",
    ):
        assert mistake in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("low", "high", "log"), [(2, 1, False), (1, 1, False), (0, 1, True), (0, inf, False)])
def test_a_range_without_room_is_refused(tmp_path, world, low, high, log):
    path = write_config(tmp_path, world, ranges={"loss.relative_weight": {"low": low, "high": high, "log": log}})
    with pytest.raises(InputError, match=r"ranges\.loss\.relative_weight.*(below high|finite)"):
        load_search_config(path)


def test_without_optuna_the_package_is_named(tmp_path, world, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"search needs Optuna: pip install 'steadydepth\[search\]'"):
        search(write_config(tmp_path, world))
    assert not (tmp_path / "out").exists()


def test_the_shipped_search_is_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_search_config(ROOT / "configs" / "search.yaml")
    check_search(config)
    assert [run.name for run in plan_runs([{"loss.relative_weight": 0.3}], config)] == ["plain", "trial-0"]


def test_a_real_trial_is_trained_and_scored(tmp_path, world, run):
    path = write_config(tmp_path, world, trials=1, keep={}, metric="abs_rel")
    [planned] = plan_runs([{"loss.relative_weight": 5.0, "optim.batch": 2}], load_search_config(path))
    status, printed, _ = run("search", "-c", path)
    assert status == 0
    found = json.loads((tmp_path / "out" / "search.json").read_text(encoding="utf-8"))
    written = json.loads((planned.folder / "metrics.json").read_text(encoding="utf-8"))["mean"]
    assert found["trials"]["trial-0"]["scores"] == {"abs_rel": written["abs_rel"]}
    assert f"best: {planned.folder}; {tmp_path / 'out' / 'best.yaml'} trains it again" in printed
    # The best config trains what the trial was.
    best, tried = (load_config(path) for path in (tmp_path / "out" / "best.yaml", planned.folder / "config.yaml"))
    assert best.model_copy(update={"run": tried.run}) == tried
    assert best.run.model_copy(update={"folder": planned.folder}) == tried.run


def test_a_misspelt_key_of_a_range_is_named(tmp_path, world):
    path = write_config(tmp_path, world, ranges={"loss.relative_weight": {"low": 0.1, "hihg": 2}})
    with pytest.raises(InputError, match=r"ranges\.loss\.relative_weight\.hihg: unknown; .* has low, high"):
        load_search_config(path)
