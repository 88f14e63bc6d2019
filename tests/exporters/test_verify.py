import json
import sys
import types

import pytest
import torch
from torch import nn

from steadydepth.exporters.verify import CALLS, compare_latency, verify
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.load import load_model
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model, the same one with other weights, one of another width, and one with another range."""
    root = tmp_path_factory.mktemp("verify")
    for seed, (name, options) in enumerate(
        {"before": {}, "after": {}, "wider": {"decoder_width": 24}, "farther": {"max_depth": 30.0}}.items()
    ):
        torch.manual_seed(seed)
        save_model(DepthNet(**({"encoder": "test_efficientnet", "decoder_width": 16} | options)), root / name)
    return {path.name: str(path) for path in root.iterdir()}


def compare(folders, name):
    return verify(folders["before"], folders[name], height=48, width=64, rounds=2)


def test_other_weights_are_the_same_model(folders):
    found = compare(folders, "after")
    assert found["parameters"]["different"] == found["graph"]["different"] == []
    assert found["parameters"]["tensors"] == len(DepthNet(encoder="test_efficientnet").state_dict())
    assert found["graph"]["operators"] > 40
    assert found["same"] == found["latency"]["same"]
    assert len(set(found["weights_bytes"].values())) == 1


def test_another_width_is_another_model(folders):
    found = compare(folders, "wider")
    assert not found["same"]
    assert "decoder.head.weight: (1, 16, 3, 3) before, (1, 24, 3, 3) after" in found["parameters"]["different"]
    assert found["graph"]["different"]


def test_a_constant_in_the_graph_is_another_model(folders):
    found = compare(folders, "farther")
    assert not found["same"]
    assert found["parameters"]["different"] == []
    assert len(found["graph"]["different"]) == 1
    assert "aten.mul" in found["graph"]["different"][0]


class Halving(nn.Module):
    def __init__(self, extra):
        super().__init__()
        self.net, self.extra = nn.Conv2d(3, 1, 3, padding=1), extra

    def forward(self, images):
        depth = self.net(images).square() + 0.5
        return depth.clamp(max=9.0) if self.extra else depth


def test_a_network_of_ones_own_and_one_with_an_operator_more(tmp_path, monkeypatch):
    module = types.ModuleType("halving")
    module.plain, module.more = (lambda: Halving(extra=False)), (lambda: Halving(extra=True))
    monkeypatch.setitem(sys.modules, "halving", module)
    save_model(load_model("halving:plain,claims=metric,multiple=32"), tmp_path)
    found = verify("halving:plain,claims=metric,multiple=32", str(tmp_path), height=40, width=50, rounds=1)
    assert found["parameters"]["different"] == found["graph"]["different"] == []
    found = verify(str(tmp_path), "halving:more,claims=metric,multiple=32", height=40, width=50, rounds=1)
    assert not found["same"]
    assert found["parameters"]["different"] == []
    assert "clamp" in found["graph"]["different"][-1]


class Following(nn.Module):
    """A running mean: of its first frame alone one cannot tell `keep`."""

    def __init__(self, keep):
        super().__init__()
        self.net, self.keep = nn.Conv2d(3, 1, 3, padding=1), keep

    def forward(self, frames, state=None):
        now = self.net(frames[:, 0])
        mean = now if state is None else self.keep * state["mean"] + now
        return mean, {"mean": mean}


def test_models_with_a_state_are_compared_at_a_frame_that_follows(monkeypatch):
    models = {name: Following(keep) for name, keep in (("before", 0.5), ("same", 0.5), ("other", 0.9))}
    monkeypatch.setattr("steadydepth.exporters.verify.load_model", models.__getitem__)
    assert verify("before", "same", height=8, width=9, rounds=1)["graph"]["different"] == []
    different = verify("before", "other", height=8, width=9, rounds=1)["graph"]["different"]
    assert len(different) == 1
    assert "0.5" in different[0]


def test_a_transformers_model_with_other_weights_is_the_same_model(tmp_path):
    pytest.importorskip("transformers")
    from tiny_transformers import save_tiny

    before = save_tiny("glpn", tmp_path / "before")
    model = load_model(before)
    with torch.no_grad():
        model.network.head.head[0].weight.mul_(1.1)
    save_model(model, tmp_path / "after")
    found = verify(str(before), str(tmp_path / "after"), height=64, width=96, rounds=1)
    assert found["parameters"]["different"] == found["graph"]["different"] == []
    assert found["graph"]["operators"] > 100


def test_latency_is_a_median_ratio_with_its_noise_by_hand():
    times = iter(
        [t for seconds in ([1.0, 2.0, 1.1], [1.0, 3.0, 1.0], [2.0, 5.0, 1.8]) for s in seconds for t in (0, s)]
    )
    calls = []
    copies = [
        {one: lambda name=name: calls.append(name) for one, name in zip(CALLS, names, strict=True)}
        for names in ("abc", "ABC", "uvw")
    ]
    found = compare_latency(copies, rounds=1, clock=lambda: next(times))
    # For each copy a warm-up, then in each round one untimed and one timed call of each.
    assert "".join(calls) == "aaabbbcccaabbcc" + "AAABBBCCCAABBCC" + "uuuvvvwwwuuvvww"
    # Ratios after / before 2, 3, 2.5; of before to another copy of it 0.1, 0, 0.1 away from 1.
    assert found["rounds"] == 3
    assert found["ratio"] == pytest.approx(2.5)
    assert found["noise"] == pytest.approx(0.1)
    assert found["seconds_before"] == 1.0
    assert not found["same"]


def test_the_command_exits_1_when_they_differ_and_writes_what_it_found(folders, tmp_path, run):
    out = tmp_path / "verify.json"
    words = ("--size", "48x64", "--rounds", 1, "--out", out)
    status, printed, _ = run("verify", folders["before"], folders["farther"], *words)
    assert status == 1
    assert "graph: different" in printed
    assert printed.endswith("not the same model\n")
    assert json.loads(out.read_text(encoding="utf-8"))["size"] == [48, 64]
    status, _, complained = run("verify", folders["before"], "nowhere")
    assert status == 2
    assert "nowhere: no model" in complained
    assert run("verify", folders["before"], folders["after"], "--size", "48")[0] == 2
    with pytest.raises(InputError, match="no model"):
        verify("nowhere", folders["after"])
