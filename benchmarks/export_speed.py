"""How much faster exported files are than torch eager, and whether a steady model costs more than a plain one.

    .venv/bin/python benchmarks/export_speed.py --model runs/demo/steady --plain runs/demo/plain

Files that --root does not have yet are exported first (int8 where nncf is installed for OpenVINO). Then every network
is called once in turn for --seconds: all numbers are of one run, and ratios of medians are the ones to believe. The
whole call takes a 640 x 480 picture to depth of that size. MiDaS v2.1 small, with random weights, runs at its own 256 x
256 in the same runtimes. An idle machine, please.
"""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from midas_small import MidasSmall

from steadydepth.inference.bench import peak_convolution, time_in_turn
from steadydepth.inference.export import export_model
from steadydepth.inference.int8 import export_int8
from steadydepth.inference.predict import load
from steadydepth.inference.runtime import SUFFIXES, ExportedModel, fit_picture


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


def eager_call(model: str, picture: np.ndarray) -> Callable[[], Any]:
    net = load(model, device="cpu").model
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None, None].float() / 255

    def call() -> None:
        with torch.inference_mode():
            net(frames)

    return call


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
    parser.add_argument("--seconds", type=float, default=50)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(asked.threads)

    files = export_all(asked, *asked.size)
    open_files = {name: ExportedModel(path, threads=asked.threads) for name, path in files.items()}
    large = np.random.default_rng(1).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    picture = fit_picture(large, *asked.size)
    calls = {"torch": eager_call(asked.model, picture), "torch plain": eager_call(asked.plain, picture)}
    for name, file in open_files.items():
        fitted = fit_picture(large, file.height, file.width)
        calls[name] = lambda file=file, fitted=fitted: file.run(fitted)
    calls["onnx, whole call"] = lambda: open_files["onnx"].predict(large)
    convolution, operations = peak_convolution()
    spent = time_in_turn({**calls, "": convolution}, asked.seconds)

    ms = {name: 1e3 * float(np.median(times)) for name, times in spent.items()}
    peak = operations / ms.pop("") / 1e6
    gflops = {name: file.metadata["flops"] / 1e9 for name, file in open_files.items()}
    print(f"{asked.size}, {asked.threads} threads, {len(spent['torch'])} rounds; 3x3 convolution {peak:.0f} GFLOP/s")
    for name, time_ms in ms.items():
        share = gflops.get(name, gflops["onnx"]) / time_ms * 1e3 / peak
        print(f"{name:22} {time_ms:7.2f} ms  {ms['torch'] / time_ms:5.2f} x torch  {100 * share:4.0f} % of the peak")
    for name in ("torch", "onnx", "openvino"):
        print(f"{name}: steady / plain = {ms[name] / ms[f'{name} plain']:.3f}")
    for name in ("onnx", "openvino"):
        print(f"{name}: {ms[f'{name} midas'] / ms[name]:.1f} x the frames/s of MiDaS small")
    print(f"whole call over the bare network: {ms['onnx, whole call'] - ms['onnx']:.2f} ms")
    print(f"graphs of steady and plain are the same: {same_graphs(files['onnx'], files['onnx plain'])}")


if __name__ == "__main__":
    main()
