"""What goes wrong while a run is under way: steps that cannot be taken, and a run that is asked to stop."""

import json
import os
import signal

import pytest
import torch

from steadydepth.config_files import resolve_config
from steadydepth.training import learner, stopping
from steadydepth.training.learner import Run
from steadydepth.training.log import keep_lines_until
from steadydepth.training.run import open_samples, train
from steadydepth.training.stopping import asked_to_stop
from steadydepth.types import InputError


def make_config(world, folder, steps=5, **sections):
    content = {
        "data": {"root": str(world), "motion": "none", "height": 32, "width": 40, "strides": [1, 2]},
        "model": {"encoder": "test_efficientnet", "weights": "none", "decoder_width": 8},
        "optim": {"steps": steps, "batch": 2},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 1},
    }
    for name, values in sections.items():
        content[name] = content.get(name, {}) | values
    return resolve_config(content, "test")


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def snapshot(run):
    """Everything that learns, by name."""
    parts = {"model": run.model.state_dict(), "average": run.average.state_dict()}
    found = {f"{part} {name}": value.clone() for part, values in parts.items() for name, value in values.items()}
    for number, state in enumerate(run.optimizer.state_dict()["state"].values()):
        found |= {f"optimizer {number} {name}": value.clone() for name, value in state.items()}
    return found


@pytest.fixture
def spoil(monkeypatch):
    """Losses of the given steps become NaN or infinite, as an overflow in the network would make them."""

    def spoil_steps(steps, value):
        losses, calls = learner.absolute_loss, []

        def spoiled(*arguments, **options):
            calls.append(None)
            loss = losses(*arguments, **options)
            return loss + value if len(calls) in steps else loss

        monkeypatch.setattr(learner, "absolute_loss", spoiled)

    return spoil_steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(world, tmp_path, spoil, clip, value):
    spoil({2}, value)
    run = Run(make_config(world, tmp_path))
    assert run.learn(clip).is_finite
    before = snapshot(run)
    assert not run.learn(clip).is_finite
    after = snapshot(run)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert (run.step, run.skipped_in_a_row) == (2, 1)
    assert run.learn(clip).is_finite
    assert run.skipped_in_a_row == 0
    assert [name for name, value in snapshot(run).items() if torch.equal(value, before[name])] == []


def test_skipped_steps_are_counted_and_their_clips_named(world, tmp_path, spoil):
    spoil({2, 3}, float("nan"))
    config = make_config(world, tmp_path / "run", run={"log_every": 2})
    train(config)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [(line["step"], line["skipped"]) for line in lines] == [(2, 1), (4, 1)]
    assert all(line["target"] > 0 for line in lines)
    skipped = read_lines(tmp_path / "run" / "skipped.jsonl")
    assert [line["step"] for line in skipped] == [2, 3]
    samples = open_samples(config, 0, 0, 1)
    names = sorted(path.name for path in world.iterdir() if path.is_dir())
    for line in skipped:
        for place, clip in enumerate(line["clips"]):
            assert clip["sequence"] in names
            sequence = next(s for s, _ in samples.clips if s.name == clip["sequence"])
            read = sequence.read(clip["frames"][0], clip["frames"][-1] + 1)
            item = samples.sample((line["step"] - 1) * 2 + place)
            step = clip["frames"][1] - clip["frames"][0]
            assert item["depth"].shape[0] == len(read.frames[::step])
            # Mirrored or not, the depths are those of the frames that are named.
            assert float(item["depth"].max()) == pytest.approx(float(read.depth[::step].max()), rel=0.05)


def test_where_all_steps_are_skipped_there_are_no_losses_and_the_run_stops(world, tmp_path, spoil):
    spoil({2, 3, 4, 5}, float("nan"))
    config = make_config(world, tmp_path / "run", optim={"most_skipped": 3})
    with pytest.raises(InputError, match=r"skipped\.jsonl: stopped after step 4: the gradient of 3 steps in a row"):
        train(config)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["target"] is None for line in lines] == [False, True, True, True]
    # The checkpoint remembers, so that the same command does not begin to count again.
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["skipped_in_a_row"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_goes_on_as_if_it_had_not(world, tmp_path, monkeypatch, number):
    whole = train(make_config(world, tmp_path / "whole", run={"log_every": 3, "checkpoint_every": 100}))
    learn = Run.learn

    def learn_and_ask(self, batch):
        if self.step == 1:
            os.kill(os.getpid(), number)
        return learn(self, batch)

    config = make_config(world, tmp_path / "cut", run={"log_every": 3, "checkpoint_every": 100})
    monkeypatch.setattr(Run, "learn", learn_and_ask)
    folder = train(config)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "README.md").exists()
    monkeypatch.setattr(Run, "learn", learn)
    train(config)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [read_lines(one / "metrics.jsonl") for one in (folder, whole)]
    assert [line | {"seconds": 0} for line in logs[0]] == [line | {"seconds": 0} for line in logs[1]]


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it; a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_second_signal_does_what_it_always_did(interruptible, monkeypatch):
    with asked_to_stop() as is_asked:
        assert not is_asked()
        os.kill(os.getpid(), signal.SIGINT)
        assert is_asked()
        # The same wish again, from a launcher.
        os.kill(os.getpid(), signal.SIGINT)
        monkeypatch.setattr(stopping, "AGAIN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is interruptible


def test_lines_of_steps_that_are_taken_again_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    keep_lines_until(path, 3)
    assert not path.exists()
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    keep_lines_until(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize(("optim", "rule"), [({"batch": 3, "accumulate": 2}, r"1 process\(es\) x optim\.accumulate 2")])
def test_a_batch_that_cannot_be_shared_out_is_refused(world, tmp_path, optim, rule):
    with pytest.raises(InputError, match=rule):
        train(make_config(world, tmp_path / "run", optim=optim))
    assert not (tmp_path / "run").exists()
