import logging
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

from steadydepth.training.checkpoint import (
    CHECKPOINT,
    PREVIOUS,
    load_checkpoint,
    remove_remains,
    save_checkpoint,
    save_model,
)
from steadydepth.types import InputError


def test_a_state_comes_back_as_it_was(tmp_path):
    assert load_checkpoint(tmp_path) is None
    save_checkpoint({"step": 3, "weights": torch.arange(4.0)}, tmp_path)
    state = load_checkpoint(tmp_path)
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_state_before_it(tmp_path, monkeypatch):
    save_checkpoint({"step": 1}, tmp_path)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(InputError, match=r"No space left.*What was written before is complete: make room"):
        save_checkpoint({"step": 2}, tmp_path)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path)["step"] == 1


def test_a_failed_model_write_leaves_the_model_before_it(tmp_path, model, monkeypatch):
    save_model(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", fail)
    with pytest.raises(InputError, match=r"No space left.*make room"):
        save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: the disk is full there for torch's own writer too."""
    resource = pytest.importorskip("resource", reason="Windows limits no process in what it may write")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.skipif(sys.platform == "win32", reason="rights of files are other ones there, and come from the folder")
def test_a_model_can_be_read_by_whoever_may_read_new_files(tmp_path, model):
    """By another user of the machine and by the server in its container; safetensors lets its owner alone."""
    before = os.umask(0o027)
    try:
        save_model(model, tmp_path / "model")
    finally:
        os.umask(before)
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "model").iterdir()} == {
        "config.json": "0o640",
        "model.safetensors": "0o640",
    }


def test_a_disk_that_fills_up_stops_with_what_to_do_and_both_checkpoints(tmp_path, model, small_disk):
    save_checkpoint({"step": 1}, tmp_path)
    save_checkpoint({"step": 2}, tmp_path)
    with pytest.raises(InputError, match=r"File too large.*make room, or get the right to write there"):
        save_checkpoint({"step": 3, "weights": torch.zeros(50_000)}, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [PREVIOUS, CHECKPOINT]
    assert load_checkpoint(tmp_path)["step"] == 2
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["step"] == 1
    with pytest.raises(InputError, match=r"cannot be written.*make room"):
        save_model(model, tmp_path)


@pytest.mark.parametrize("fault", ["cut short", "empty", "a bit turned", "not a checkpoint"])
def test_the_checkpoint_before_a_damaged_one_is_found(tmp_path, caplog, fault):
    for step in (1, 2):
        save_checkpoint({"step": step, "weights": torch.arange(1000.0) + step}, tmp_path)
    newest = tmp_path / CHECKPOINT
    content = bytearray(newest.read_bytes())
    if fault == "a bit turned":
        # In the middle of the weights, where torch.load sees nothing wrong.
        content[content.index(torch.tensor(500.0).numpy().tobytes())] ^= 1
        newest.write_bytes(content)
        assert torch.load(newest, weights_only=True)["step"] == 2
    newest.write_bytes({"cut short": content[:2000], "empty": b"", "not a checkpoint": b"x" * 2000}.get(fault, content))
    with caplog.at_level(logging.WARNING):
        state = load_checkpoint(tmp_path)
    assert state["step"] == 1
    assert torch.equal(state["weights"], torch.arange(1000.0) + 1)
    assert f"{newest}: damaged" in caplog.text


def test_with_no_good_checkpoint_left_the_run_does_not_begin_anew_unasked(tmp_path):
    save_checkpoint({"step": 1}, tmp_path)
    (tmp_path / CHECKPOINT).write_bytes(b"")
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged, and no other checkpoint is left: delete it"):
        load_checkpoint(tmp_path)


def test_a_run_killed_between_the_two_renames_goes_on_from_the_one_before(tmp_path):
    save_checkpoint({"step": 1}, tmp_path)
    (tmp_path / CHECKPOINT).replace(tmp_path / PREVIOUS)
    assert load_checkpoint(tmp_path)["step"] == 1


def test_a_closed_folder_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"Permission denied.*get the right to write there"):
        save_checkpoint({"step": 1}, tmp_path)


def test_what_a_killed_process_had_begun_to_write_is_deleted_and_nothing_else(tmp_path):
    save_checkpoint({"step": 1}, tmp_path)
    (tmp_path / "notes.part.pt").write_text("mine", encoding="utf-8")
    (tmp_path / ".checkpoint.0a1b2c3d.part.pt").write_bytes(b"half")
    for folder in (tmp_path, tmp_path / "best"):
        (folder / ".model-x1").mkdir(parents=True)
        (folder / ".model-x1" / "model.safetensors").write_bytes(b"half")
    remove_remains(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["best", "checkpoint.pt", "notes.part.pt"]


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a checkpoint was unpickled",))


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"step": Trap()}, tmp_path / CHECKPOINT)
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged"):
        load_checkpoint(tmp_path)


def test_whoever_finds_a_config_finds_its_weights(tmp_path, model, monkeypatch):
    named, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: named.append(target.name) or replace(path, target))
    save_model(model, tmp_path)
    assert named == ["model.safetensors", "config.json"]
