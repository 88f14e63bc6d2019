"""Measure how much faster exported files are than torch eager, and whether a steady model costs more than a plain one.

    .venv/bin/python benchmarks/export_speed.py --model runs/demo/steady --plain runs/demo/plain

Files missing in --root are exported first (int8 for OpenVINO if nncf is installed). Then all networks take turns, each
in --processes of its own, for --seconds in total. Compare ratios, as all numbers come from one run. The complete call
goes from a 640 x 480 image to depth of that size. MiDaS v2.1 small, with random weights, runs at its own 256 x 256 in
the same runtimes. Use an idle machine; on a shared one, the fastest turn of each network is closest to its true time.
"""

import argparse
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from midas_small import MidasSmall

from steadydepth.exporters.bench import TimedProcess, take_turns
from steadydepth.exporters.export import export_model
from steadydepth.exporters.quantise import export_int8
from steadydepth.inference.predictor import load
from steadydepth.inference.runtime import SUFFIXES


def export_all(asked: argparse.Namespace, height: int, width: int) -> dict[str, Path]:
    """Every file by name, such as `onnx int8`; those of the plain model end in `plain`."""
    files = {}
    for to in ("onnx", "openvino"):  # the others want environments of their own: bench measures their files
        suffix = SUFFIXES[to]
        for name, model in (("", asked.model), (" plain", asked.plain)):
            files[f"{to}{name}"] = path = asked.root / f"net{name.strip()}{suffix}"
            if not path.exists():
                export_model(load(model, device="cpu").model, path, to=to, height=height, width=width)
        files[f"{to} midas"] = path = asked.root / f"midas{suffix}"
        if not path.exists():
            export_model(MidasSmall(), path, to=to, height=256, width=256)
        if to == "openvino" and find_spec("nncf") is None:
            continue
        files[f"{to} int8"] = path = asked.root / f"net8{suffix}"
        if not path.exists():
            export_int8(load(asked.model, device="cpu").model, path, to=to, height=height, width=width, data=asked.data)
    return files


def same_graphs(one: Path, other: Path) -> bool:
    """Whether two ONNX files have the same operations on the same names in the same order."""
    import onnx

    graphs = [
        [(node.op_type, list(node.input), list(node.output)) for node in onnx.load(path).graph.node]
        for path in (one, other)
    ]
    return graphs[0] == graphs[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="runs/demo/steady")
    parser.add_argument("--plain", default="runs/demo/plain")
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data/test"))
    parser.add_argument("--root", type=Path, default=Path("runs/export_speed"))
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=200)
    parser.add_argument("--processes", type=int, default=3, help="of each network; a turn's time is the mean of theirs")
    asked = parser.parse_args()

    files = export_all(asked, *asked.size)
    wanted = {"torch": ("network", asked.model), "torch plain": ("network", asked.plain)}
    wanted |= {name: ("network", str(path)) for name, path in files.items()}
    wanted |= {"onnx, complete call": ("predict", str(files["onnx"]))}
    wanted |= {"peak": ("peak", "float32"), "peak int8": ("peak", "int8")}
    with ExitStack() as stack:
        calls: dict[str, list[TimedProcess]] = {}
        for name, (what, model) in wanted.items():
            size = (480, 640) if what == "predict" else tuple(asked.size)
            calls[name] = [
                stack.enter_context(TimedProcess(what, model, size=size, threads=asked.threads, device="cpu"))
                for _ in range(asked.processes)
            ]
        rounds = take_turns([call for each in calls.values() for call in each], asked.seconds)
        flops = {name: each[0].finish()["flops"] for name, each in calls.items()}
    # The middle of each turn, the mean of the processes; a ratio is of turns of one round.
    ms = {
        name: 1e3 * np.mean([[np.median(turn) for turn in call.turns] for call in each], axis=0)
        for name, each in calls.items()
    }

    print(f"{asked.size}, {asked.threads} threads, {rounds} rounds; ratios: median of the rounds (quartiles)")
    for name, times in ms.items():
        peak = "peak int8" if "int8" in name else "peak"
        share, best = flops[name] / flops[peak] * ms[peak] / times, times.min()
        print(
            f"{name:18} {np.median(times):7.2f} ms, {spread(ms['torch'] / times)} x torch, {spread(share)} of the peak",
            end="",
        )
        best_share = flops[name] / flops[peak] * ms[peak].min() / best
        print(f"; fastest turn {best:.2f} ms, {ms['torch'].min() / best:.2f} x, {best_share:.2f}")
    for name in ("torch", "onnx", "openvino"):
        print(f"{name}: steady / plain = {spread(ms[name] / ms[f'{name} plain'], 3)}")
    for name in ("onnx", "openvino"):
        print(f"{name}: {spread(ms[f'{name} midas'] / ms[name])} x the frames/s of MiDaS small")
    print(f"complete call over the bare network: {spread(ms['onnx, complete call'] - ms['onnx'])} ms")
    print(f"graphs of steady and plain are the same: {same_graphs(files['onnx'], files['onnx plain'])}")


def spread(values: np.ndarray, digits: int = 2) -> str:
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
