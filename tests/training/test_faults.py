"""What goes wrong while a run is under way: steps that cannot be taken, and a run that is asked to stop."""

import gc
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from small_runs import HOLDER, after_calling, make_config, read_log, train_until_cut

from steadydepth.config_files import dump_config
from steadydepth.training import loop, setup, signals
from steadydepth.training.checkpoint import load_checkpoint
from steadydepth.training.failures import explained
from steadydepth.training.loop import train
from steadydepth.training.samples import open_samples
from steadydepth.training.signals import asked_to_stop
from steadydepth.training.step import take_step
from steadydepth.types import InputError


def snapshot(state):
    """Everything that learns, by name."""
    parts = {"model": state.model.state_dict(), "average": state.average.state_dict()}
    found = {f"{part} {name}": value.clone() for part, values in parts.items() for name, value in values.items()}
    for number, held in enumerate(state.optimizer.state_dict()["state"].values()):
        found |= {f"optimizer {number} {name}": value.clone() for name, value in held.items()}
    return found


@pytest.fixture
def spoil(monkeypatch):
    """Losses of the given steps become NaN or infinite, as an overflow in the network would make them."""

    def spoil_steps(steps, value):
        losses, calls = setup.absolute_loss, []

        def spoiled(*arguments, **options):
            calls.append(None)
            loss = losses(*arguments, **options)
            return loss + value if len(calls) in steps else loss

        monkeypatch.setattr(setup, "absolute_loss", spoiled)

    return spoil_steps


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_leaves_everything_as_it_was(world, tmp_path, spoil, clip, value):
    spoil({2}, value)
    fixed, state = setup.set_up(make_config(world, tmp_path))
    state, terms = take_step(fixed, state, clip)
    assert terms.is_finite
    before = snapshot(state)
    state, terms = take_step(fixed, state, clip)
    assert not terms.is_finite
    after = snapshot(state)
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    assert (state.step, state.skipped_in_a_row) == (2, 1)
    state, terms = take_step(fixed, state, clip)
    assert terms.is_finite
    assert state.skipped_in_a_row == 0
    assert [name for name, value in snapshot(state).items() if torch.equal(value, before[name])] == []


def test_skipped_steps_are_counted_and_their_clips_named(world, tmp_path, spoil):
    spoil({2, 3}, float("nan"))
    config = make_config(world, tmp_path / "run", steps=5, data={"strides": [1, 2]}, run={"log_every": 2})
    train(config)
    lines = read_log(tmp_path / "run")
    assert [(line["step"], line["skipped"]) for line in lines] == [(2, 1), (4, 1)]
    assert all(line["target"] > 0 for line in lines)
    skipped = read_log(tmp_path / "run", "skipped.jsonl")
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
    config = make_config(world, tmp_path / "run", steps=5, optim={"max_skipped": 3})
    with pytest.raises(InputError, match=r"skipped\.jsonl: stopped after step 4: the gradient of 3 steps in a row"):
        train(config)
    lines = read_log(tmp_path / "run")
    assert [line["target"] is None for line in lines] == [False, True, True, True]
    # The checkpoint remembers, so that the same command does not begin to count again.
    assert torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["skipped_in_a_row"] == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_asked_to_stop_goes_on_as_if_it_had_not(world, tmp_path, monkeypatch, number):
    uncut = train(make_config(world, tmp_path / "uncut", steps=5, run={"log_every": 3, "checkpoint_every": 100}))

    def ask(step):
        if step == 1:
            signal.raise_signal(number)

    config = make_config(world, tmp_path / "cut", steps=5, run={"log_every": 3, "checkpoint_every": 100})
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_step", after_calling(ask))
        folder = train(config)
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 2
    assert not (folder / "model.safetensors").exists()
    assert not (folder / "README.md").exists()
    train(config)
    assert (folder / "model.safetensors").read_bytes() == (uncut / "model.safetensors").read_bytes()
    assert read_log(folder) == read_log(uncut)


@pytest.fixture
def interruptible():
    """Ctrl-C as Python has it; a shell starts what runs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_the_second_signal_does_what_it_always_did(interruptible, monkeypatch):
    with asked_to_stop() as is_asked:
        assert not is_asked()
        signal.raise_signal(signal.SIGINT)
        assert is_asked()
        # The same wish again, from a launcher.
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(signals, "AGAIN", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is interruptible


def test_a_batch_that_cannot_be_shared_out_is_refused(world, tmp_path):
    with pytest.raises(InputError, match=r"1 process\(es\) x optim\.accumulate 2"):
        train(make_config(world, tmp_path / "run", optim={"batch": 3, "accumulate": 2}))
    assert not (tmp_path / "run").exists()


def test_a_label_that_is_not_a_number_changes_no_weight(world, tmp_path, clip):
    fixed, state = setup.set_up(make_config(world, tmp_path))
    depth = clip.depth.clone()
    depth[1, 2, 7, 11] = torch.nan
    assert clip.valid[1, 2, 7, 11]
    before = snapshot(state)
    state, terms = take_step(fixed, state, replace(clip, depth=depth))
    assert not terms.is_finite
    after = snapshot(state)
    assert [name for name in before if not torch.equal(before[name], after[name])] == []


def test_a_clock_that_jumps_back_changes_nothing(world, tmp_path, monkeypatch):
    plain = train(make_config(world, tmp_path / "plain"))
    hours = count(1_700_000_000, -3600)
    config = make_config(world, tmp_path / "back")
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(hours))
        train_until_cut(config, 2, monkeypatch)
        for age, path in enumerate(sorted(config.run.folder.iterdir())):
            os.utime(path, (10**9 * age, 10**9 * age))
        train(config)
    assert read_log(config.run.folder) == read_log(plain)
    assert (config.run.folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_folder_in_which_a_process_trains_is_refused_to_another(world, tmp_path):
    config = make_config(world, tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, config.run.folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline().split() == [b"held"]
        # A checkpoint of which the other is just writing the next: what it says now is nobody else's to read.
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            (config.run.folder / name).write_bytes(b"half")
        with pytest.raises(InputError, match="run: another process trains here: let it end, or stop it"):
            train(config)
        holder.kill()
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (config.run.folder / name).unlink()
    assert (train(config) / "model.safetensors").is_file()


@pytest.fixture
def disk(tmp_path):
    """A disk of its own, and how it is mounted another way."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no disk is mounted so on Windows")

    def mount(how):
        return subprocess.run(["mount", "-t", "tmpfs", "-o", how, "tmpfs", folder], capture_output=True).returncode

    if mount("size=64m"):
        pytest.skip("may not mount a disk")
    yield folder, lambda how: mount(f"remount,{how}")
    subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_full_or_closed_costs_nothing_but_the_steps_since_the_checkpoint(world, tmp_path, disk):
    plain = train(make_config(world, tmp_path / "plain", steps=4))
    folder, remount = disk
    # Two checkpoints and what else there is, but no third beside them.
    room = int(2.5 * (plain / "checkpoint.pt").stat().st_size)
    assert remount(f"size={room}") == 0
    config = make_config(world, folder / "run", steps=4)
    with pytest.raises(InputError, match=r"No space left on device.*make room.*resumes from the last checkpoint"):
        train(config)
    assert not list(config.run.folder.glob("*part*"))
    assert load_checkpoint(config.run.folder)["step"] == 2
    assert remount(f"size={10 * room},ro") == 0
    with pytest.raises(InputError, match=r"Read-only file system.*get the right to write there"):
        train(config)
    assert remount("rw") == 0
    train(config)
    assert read_log(config.run.folder) == read_log(plain)
    assert (config.run.folder / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("closed", "message"),
    [("runs", "run: cannot be written: .*get the right to write there"), ("world", "world.*: permission denied: ask")],
)
def test_folders_of_another_user_are_refused_with_what_to_do(world, run, closed, message):
    # Not under tmp_path, where no other user may look.
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "runs" / "run"
        shutil.copytree(world, Path(place) / "world")
        (Path(place) / "run.yaml").write_text(dump_config(make_config(Path(place) / "world", folder)), encoding="utf-8")
        folder.parent.mkdir()
        for name in (".", "world", "runs"):
            (Path(place) / name).chmod(0o700 if name == closed else 0o777)
        before = os.geteuid()
        os.seteuid(65534)
        try:
            status, _, complained = run("train", "-c", f"{place}/run.yaml")
        finally:
            os.seteuid(before)
        assert status == 2
        assert re.search(message, complained)
        assert not folder.exists()


@pytest.mark.parametrize(("has_amx", "has_avx512"), [(False, False), (True, False), (False, True)])
def test_bf16_is_warned_about_on_a_cpu_that_has_none(world, tmp_path, monkeypatch, caplog, has_amx, has_avx512):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512)
    config = make_config(world, tmp_path / "run", steps=1, run={"precision": "bf16"})
    with caplog.at_level("WARNING"):
        train(config)
    assert ("neither AMX nor AVX512_BF16" in caplog.text) is not (has_amx or has_avx512)


@pytest.fixture
def meanwhile(monkeypatch):
    """Something happens while a run takes its second step."""

    def meanwhile_do(what):
        monkeypatch.setattr(loop, "take_step", after_calling(lambda step: what() if step == 1 else None))

    return meanwhile_do


def test_a_damaged_image_stops_a_strict_run_and_once_repaired_it_goes_on(world, tmp_path, meanwhile):
    shutil.copytree(world, tmp_path / "world")
    image = tmp_path / "world" / "moving_000004" / "rgb" / "0002.png"
    content = image.read_bytes()
    config = make_config(tmp_path / "world", tmp_path / "run", steps=6, data={"cached_clips": 0, "strict": True})
    meanwhile(lambda: image.write_bytes(content[: len(content) // 2]))
    with pytest.raises(InputError, match=r"moving_000004.rgb.0002\.png"):
        train(config)
    assert load_checkpoint(config.run.folder)["step"] >= 2
    meanwhile(lambda: None)
    image.write_bytes(content)
    train(config)
    assert read_log(config.run.folder) == read_log(train(make_config(world, tmp_path / "plain", steps=6)))


def write_until_a_loader_process_is_lost():
    try:
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    finally:
        raise TypeError("unexpected pos 1084672 vs 1084564")


def test_a_lost_loader_process_is_named_though_what_was_under_way_failed_of_it():
    with pytest.raises(InputError, match=r"a loader process was lost.*pid 7.*lower data\.workers"), explained():
        write_until_a_loader_process_is_lost()


# torch raises in its handler of SIGCHLD, wherever the run is: also where a file has just been opened.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_loader_process_that_is_killed_stops_the_run_with_what_to_do(world, tmp_path, meanwhile):
    config = make_config(world, tmp_path / "run", steps=9, data={"workers": 1})
    meanwhile(lambda: [process.kill() for process in multiprocessing.active_children()])
    with pytest.raises(InputError, match=r"a loader process was lost.*lower data\.workers"):
        train(config)
    gc.collect()  # of the loader, or torch names its lost process again at the end of any other one
    assert load_checkpoint(config.run.folder)["step"] >= 1


def test_a_lost_process_that_renders_is_named():
    with pytest.raises(InputError, match=r"a process that renders was lost.*lower data\.workers"), explained():
        raise BrokenProcessPool("it was terminated")
