import json
import sys
import time
from functools import partial

import psutil
import pytest
import torch

from steadydepth.exporters.bench import TimedProcess, bench, summarise, take_turns, time_in_turn
from steadydepth.exporters.bench_worker import _device_mib, _resident_mib, _wait, call_for
from steadydepth.exporters.export import export_model
from steadydepth.models.depth_net import DepthNet
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError

SIZE = {"height": 36, "width": 44}


def test_percentiles_and_rate_by_hand():
    found = summarise([[0.001 * n for n in range(1, 102)]])
    assert found == pytest.approx(
        {"p50_ms": 51, "p95_ms": 96, "p99_ms": 100, "frames_per_s": 1000 / 51, "n_calls": 101}
    )
    # A process of 1 ms and one of 3 ms count alike, whatever the number of their calls.
    found = summarise([[0.001] * 6, [0.003] * 2])
    assert found == pytest.approx(
        {"p50_ms": 2, "p95_ms": 2, "p99_ms": 2, "frames_per_s": (1000 + 1000 / 3) / 2, "n_calls": 8}
    )


def test_calls_are_timed_in_turn():
    order: list[str] = []
    spent = time_in_turn({name: lambda name=name: order.append(name) for name in "abc"})
    assert "".join(order[-6:]) == "aabbcc"  # one untimed, one timed
    assert {name: len(times) for name, times in spent.items()} == {"a": 1, "b": 1, "c": 1}
    now = [0.0]
    assert time_in_turn({"": lambda: now.append(now[-1] + 2)}, clock=lambda: now[-1]) == {"": [2.0]}


def test_of_several_gpus_the_one_that_is_asked_for_is_waited_for_and_measured(monkeypatch):
    waited, memory = [], {"cuda:0": 0, "cuda:1": 3 << 20}
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda device="cuda:0": waited.append(str(device)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device="cuda:0": memory[str(device)])
    _wait(torch.device("cuda:1"))
    assert (waited, _device_mib("cuda:1")) == (["cuda:1"], 3.0)


def test_a_system_that_does_not_say_the_size_of_a_process_is_no_error(monkeypatch):
    """That of gVisor, for one, has /proc/self/status without that line."""
    monkeypatch.setattr("pathlib.Path.is_file", lambda path: True)
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "Name:\tpython\nVmHWM:\t  2048 kB\nVmRSS:\t1024 kB\n")
    assert _resident_mib() == 2.0
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: "Name:\tpython\nVmRSS:\t1024 kB\n")
    assert _resident_mib() is None


def test_models_are_measured_side_by_side(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = DepthNet("test_efficientnet", decoder_width=16)
    save_model(net, tmp_path / "net")
    export_model(net, tmp_path / "net.onnx", to="onnx", **SIZE)
    names = [str(tmp_path / "net"), str(tmp_path / "net.onnx")]
    found = bench(names, **SIZE, threads=1, seconds=0.1, processes=2, device="cpu", out=tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8")) == found
    eager, file = (found["models"][name] for name in names)
    assert found["processes"] == 2
    assert eager["n_calls"] >= 2  # one at least of each
    assert eager["gflops"] == file["gflops"] > 0
    if sys.platform == "linux":  # which alone says
        assert 0 < file["memory_mib"] < eager["memory_mib"] - 50  # no torch in it
    for values in (eager, file):
        rate = values["gflops"] / values["p50_ms"] * 1e3
        assert values["peak_share"] == pytest.approx(rate / found["peak_gflops"]["cpu, float32"])
        assert (values["device"], values["device_memory_mib"]) == ("cpu", None)
    with pytest.raises(InputError, match=r"net\.onnx is for 36x44, not 40x44: give --size 36x44"):
        bench(names[1:], height=40, width=44, threads=1, seconds=0.0)


@pytest.fixture
def start():
    return partial(TimedProcess, size=(36, 44), threads=1, device="cpu")


def test_eight_bits_have_a_peak_of_their_own(start):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    with start("peak", "int8") as eight, start("peak", "float32") as single:
        assert [one.opened["precision"] for one in (eight, single)] == ["int8", "float32"]
        assert take_turns([eight, single], 0.0) == 1
        assert min(len(one.spent) for one in (eight, single)) == 1
        assert eight.finish()["flops"] == single.finish()["flops"] == 4 * 2 * 9 * 64 * 64 * 96 * 128


def test_a_model_that_cannot_be_opened_and_a_process_that_is_lost_are_named(start, tmp_path):
    with pytest.raises(InputError, match=r"none: no model"), start("predict", str(tmp_path / "none")):
        pass
    with start("peak", "float32") as one:
        process = psutil.Process(one.pid)
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with pytest.raises(InputError, match=r"float32: its process was lost \(exit status (-9|15)\)"):
            one.run(0.1)


def test_one_model_needs_no_list(tmp_path):
    with pytest.raises(InputError, match="none: no model"):
        bench(str(tmp_path / "none"), **SIZE, seconds=0.1)


def test_the_first_calls_of_a_turn_do_not_count():
    calls: list[float] = []

    def call():
        calls.append(time.perf_counter())
        time.sleep(0.001)

    spent = call_for(call, 0.05)
    assert len(spent) < len(calls)
    calls.clear()
    assert len(call_for(call, 0.0)) == 1
    assert len(calls) == 2
