import json
import time

import pytest

from steadydepth.inference.bench import bench, summarise, time_in_turn
from steadydepth.inference.export import export_model
from steadydepth.models.depth_net import DepthNet
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError

SIZE = {"height": 36, "width": 44}


def test_percentiles_and_rate_by_hand():
    found = summarise([0.001 * n for n in range(1, 102)])
    assert found == pytest.approx(
        {"p50_ms": 51, "p95_ms": 96, "p99_ms": 100, "frames_per_s": 1000 / 51, "n_calls": 101}
    )


def test_calls_are_timed_in_turn():
    order: list[str] = []
    spent = time_in_turn({name: lambda name=name: order.append(name) for name in "abc"}, 0.0)
    assert "".join(order[-6:]) == "aabbcc"  # one untimed, one timed
    assert {name: len(times) for name, times in spent.items()} == {"a": 1, "b": 1, "c": 1}
    slept = time_in_turn({"": lambda: time.sleep(0.002)}, 0.0)[""]
    assert min(slept) >= 0.002


def test_models_are_measured_side_by_side(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = DepthNet("test_efficientnet", decoder_width=16)
    save_model(net, tmp_path / "net")
    export_model(net, tmp_path / "net.onnx", to="onnx", **SIZE)
    names = [str(tmp_path / "net"), str(tmp_path / "net.onnx")]
    found = bench(names, **SIZE, threads=1, seconds=0.1, out=tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    eager, file = (found["models"][name] for name in names)
    assert eager["gflops"] == file["gflops"] > 0
    assert 0 < file["memory_mib"] < eager["memory_mib"]  # no torch in it
    for values in (eager, file):
        assert values["peak_share"] == pytest.approx(values["gflops"] / values["p50_ms"] * 1e3 / found["peak_gflops"])
    with pytest.raises(InputError, match=r"net\.onnx is for 36x44, not 40x44: give --size 36x44"):
        bench(names[1:], height=40, width=44, threads=1, seconds=0.0)
