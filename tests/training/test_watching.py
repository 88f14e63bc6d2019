"""What looks at a run while it learns: validation, early stopping, the clock and a tracker."""

import re

import numpy as np
import pytest
import torch
from small_runs import make_config, read_log, train_until_cut

from steadydepth.evaluation.evaluate import evaluate
from steadydepth.files.video_write import write_video
from steadydepth.models.load import load_model
from steadydepth.training import validation
from steadydepth.training.failures import explained
from steadydepth.training.log import numbers_of
from steadydepth.training.loop import train
from steadydepth.training.validation import EarlyStopping, distance_from_best
from steadydepth.types import InputError


def test_a_validation_says_what_evaluate_says_of_the_saved_model(world, tmp_path):
    config = make_config(world, tmp_path / "run", data={"validation": str(world)}, run={"validate_every": 3})
    folder = train(config)
    report = evaluate(load_model(folder), world, controls=False)
    found = read_log(folder)[-1]["validation"]
    expected = {name: value for name, value in report["mean"].items() if value is not None}
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["abs_rel"] > 0
    # The first is the best so far.
    assert (folder / "best" / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    # Looking changes nothing of what is learnt.
    plain = train(make_config(world, tmp_path / "plain"))
    assert (plain / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def scored(monkeypatch, values):
    """Evaluations say these values of delta1 one after the other; returns the steps at which they were asked."""
    left = iter(values)
    monkeypatch.setattr(validation, "evaluate", lambda *_, **__: {"mean": {"delta1": next(left), "gain": None}})


def test_the_best_is_kept_and_enough_without_a_better_one_stops_the_run(world, tmp_path, monkeypatch):
    options = {"validate_every": 1, "best_by": "delta1", "patience": 2}
    config = make_config(world, tmp_path / "run", steps=9, data={"validation": str(world)}, run=options)
    scored(monkeypatch, [0.5, 0.7, 0.6, 0.7])  # higher is better, and as good is not better
    train_until_cut(config, 3, monkeypatch)
    best = (tmp_path / "run" / "best" / "model.safetensors").read_bytes()
    folder = train(config)  # a run that goes on still knows what was best, and for how long
    assert [line["validation"]["delta1"] for line in read_log(folder)] == [0.5, 0.7, 0.6, 0.7]
    assert (folder / "best" / "model.safetensors").read_bytes() == best
    assert best != (folder / "model.safetensors").read_bytes()
    two = train(make_config(world, tmp_path / "two", steps=9, run={"checkpoint_every": 2}))
    assert len(read_log(two)) == 9


def test_early_stopping_by_hand_and_taken_up_again():
    early_stopping = EarlyStopping(patience=2)
    assert [early_stopping.is_best(distance) for distance in (0.5, 0.3, 0.4)] == [True, True, False]
    assert not early_stopping.stopped
    resumed = EarlyStopping(patience=2)
    resumed.load_state_dict(early_stopping.state_dict())
    assert not resumed.is_best(0.3)  # as good is not better
    assert resumed.stopped
    never = EarlyStopping(patience=0)
    assert [never.is_best(1.0) for _ in range(5)] == [True, False, False, False, False]
    assert not never.stopped


def test_what_is_best_follows_the_metric():
    assert distance_from_best("abs_rel", 0.1) < distance_from_best("abs_rel", 0.2)
    assert distance_from_best("delta1", 0.9) < distance_from_best("delta1", 0.8)
    assert distance_from_best("gain", 1.1) < distance_from_best("gain", 0.8)


@pytest.mark.parametrize(
    ("data", "run", "rule"),
    [
        ({"validation": "there"}, {}, r"data\.validation and run\.validate_every: give both"),
        ({}, {"validate_every": 2}, r"data\.validation and run\.validate_every: give both"),
        ({"validation": "there"}, {"validate_every": 3, "log_every": 2}, r"must be a multiple of run\.log_every, 2"),
    ],
)
def test_sections_that_do_not_fit_are_refused(world, tmp_path, data, run, rule):
    with pytest.raises(InputError, match=rule):
        make_config(world, tmp_path, data=data, run=run)


def test_a_validation_that_cannot_be_is_refused_before_the_start(world, tmp_path):
    options = {"data": {"validation": str(tmp_path / "nowhere")}, "run": {"validate_every": 1}}
    with pytest.raises(InputError, match="nowhere"):
        train(make_config(world, tmp_path / "run", **options))
    with pytest.raises(InputError, match=r"run\.best_by: wrong: is no metric .* choose abs_rel"):
        train(make_config(world, tmp_path / "run", run={"best_by": "wrong"}))
    (tmp_path / "bare").mkdir()
    write_video(tmp_path / "bare" / "a.mp4", iter(np.zeros((2, 32, 48, 3), np.uint8)), 10.0)
    options["data"] = {"validation": str(tmp_path / "bare")}
    with pytest.raises(InputError, match=r"bare: no sequence has depth/, which abs_rel needs: .*best_by=flicker_flow"):
        train(make_config(world, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_the_clock_counts_all_of_a_step_and_changes_nothing(world, tmp_path, caplog):
    with caplog.at_level("INFO"):
        watched = train(make_config(world, tmp_path / "watched"), profile=True)
    lines = [line for line in caplog.messages if "data wait" in line]
    assert len(lines) == 3
    shares = dict(re.findall(r"([a-z ]+) ([\d.]+) %", lines[1].split(": ", 1)[1]))
    parts = ["data wait", "to the device", "forward", "relative loss", "absolute loss", "backward", "update"]
    assert {name.strip() for name in shares} == {*parts, "log and checkpoints"}
    assert sum(float(share) for share in shares.values()) == pytest.approx(100, abs=0.5)
    plain = train(make_config(world, tmp_path / "plain"))
    assert read_log(plain) == read_log(watched)


def test_a_tracker_gets_the_numbers_of_a_line():
    line = {"step": 4, "target": 0.5, "absolute": None, "sources": [{"clips": 1}], "validation": {"abs_rel": 0.2}}
    assert numbers_of(line) == {"step": 4, "target": 0.5, "validation/abs_rel": 0.2}


def test_a_tracker_that_is_not_installed_is_named(world, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *_: None)
    with pytest.raises(InputError, match=r"run\.tracker: mlflow: is not installed: pip install mlflow"):
        train(make_config(world, tmp_path / "run", run={"tracker": "mlflow"}))


def test_a_tracker_is_told_every_line(world, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(make_config(world, tmp_path / "run", run={"tracker": "tensorboard"}))
    events = EventAccumulator(str(next(folder.rglob("events.out.*")).parent)).Reload()
    told = {event.step: event.value for event in events.Scalars("absolute")}
    assert told == pytest.approx({line["step"]: line["absolute"] for line in read_log(folder)})


@pytest.mark.parametrize(
    ("error", "rule"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), r"out of memory on the GPU: raise optim\.accumulate"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), r"out of memory: raise optim"),
        (
            RuntimeError("[pair.cc:547] Connection closed by peer [127.0.0.1]:17"),
            r"another process of this run was lost",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."), r"pid 7.*lower data\.workers"),
        (
            InputError("Caught InputError in DataLoader worker process 0.\n...\nx.InputError: a.png: cut"),
            r"^a\.png: cut$",
        ),
    ],
)
def test_what_a_run_meets_is_said_with_what_to_do(error, rule):
    with pytest.raises(InputError, match=rule), explained():
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="something else"), explained():
        raise RuntimeError("something else")
