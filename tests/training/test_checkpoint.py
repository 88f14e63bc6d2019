import pytest
import torch

from steadydepth.training.checkpoint import load_state, save_model, save_state


def test_a_state_comes_back_as_it_was(tmp_path):
    assert load_state(tmp_path) is None
    save_state({"step": 3, "weights": torch.arange(4.0)}, tmp_path)
    state = load_state(tmp_path)
    assert state["step"] == 3
    assert torch.equal(state["weights"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_failed_write_leaves_the_state_before_it(tmp_path, monkeypatch):
    save_state({"step": 1}, tmp_path)

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_state({"step": 2}, tmp_path)
    monkeypatch.undo()
    assert load_state(tmp_path)["step"] == 1


def test_a_failed_model_write_leaves_the_model_before_it(tmp_path, model, monkeypatch):
    save_model(model, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(model, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
