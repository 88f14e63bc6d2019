"""How fast models are, side by side in one run: latency, frames a second, memory, and the share of what is possible."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from steadydepth.files.whole_files import new_file
from steadydepth.inference.export import describe
from steadydepth.inference.exported import is_exported
from steadydepth.inference.predict import load
from steadydepth.inference.runtime import ExportedModel
from steadydepth.types import InputError

Call = Callable[[], Any]

_WARM_UP = 3
# Seconds. Those of ONNX Runtime spin for some 20 ms after a call: the next runtime's was half as fast beside them.
_PAUSE = 0.05
# Channels, rows and columns of the convolution whose rate is taken for the machine's best.
_PEAK = (64, 96, 128)


def bench(
    models: list[str], *, height: int, width: int, threads: int = 2, seconds: float = 10.0, out: Path | None = None
) -> dict[str, Any]:
    """Time each model on pictures of height x width, one call of each in turn for `seconds` in all.

    A folder runs in torch at that size; an exported file must have it. The call is that of a frame: uint8 in, float32
    depth out. Latencies are in ms; memory is the greatest resident size of a process of its own in MiB (Linux);
    `peak_share` is the operations of the network a second over those of a 3x3 convolution of torch, timed in between.
    JSON to `out`.
    """
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    with _threads(threads):
        calls, flops = {}, {}
        for name in models:
            calls[name], flops[name] = _open(name, picture, threads)
        convolution, operations = peak_convolution()
        spent = time_in_turn({**calls, "": convolution}, seconds)
    peak = operations / float(np.median(spent.pop("")))
    found = {
        "size": [height, width],
        "threads": threads,
        "peak_gflops": peak / 1e9,
        "models": {
            name: summarise(times)
            | {
                "memory_mib": resident_mib(name, height, width, threads),
                "gflops": flops[name] / 1e9,
                "peak_share": flops[name] / float(np.median(times)) / peak,
            }
            for name, times in spent.items()
        },
    }
    if out is not None:
        with new_file(out) as part:
            part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


def summarise(times: list[float]) -> dict[str, float]:
    """Seconds of single calls to percentiles in ms and calls a second."""
    p50, p95, p99 = (1e3 * float(np.percentile(times, share)) for share in (50, 95, 99))
    return {
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "frames_per_s": len(times) / float(np.sum(times)),
        "n_calls": len(times),
    }


def time_in_turn(
    calls: dict[str, Call],
    seconds: float = 0.0,
    *,
    rounds: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call by `clock`, one of each in turn, for `seconds` in all and at least `rounds` of each.

    What else the machine does so falls on all of them alike. Each timed call comes after a pause, in which the threads
    of the one before stop to wait for more, and right after an untimed one of its own: those caches are not these.
    """
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    spent: dict[str, list[float]] = {name: [] for name in calls}
    end, done = time.perf_counter() + seconds, 0
    while done < rounds or time.perf_counter() < end:
        for name, call in calls.items():
            time.sleep(_PAUSE)
            call()
            begun = clock()
            call()
            spent[name].append(clock() - begun)
        done += 1
    return spent


def resident_mib(name: str, height: int, width: int, threads: int) -> float:
    """The greatest resident size of a process that does nothing but predict with the model a few times, MiB."""
    size, kind = f"({height}, {width}, 3)", "runtime" if is_exported(name) else "predict"
    opened = f"ExportedModel({name!r}, threads={threads})" if is_exported(name) else f"load({name!r}, device='cpu')"
    code = (
        "import numpy as np\n"
        f"from steadydepth.inference.{kind} import {opened.partition('(')[0]}\n"
        f"model = {opened}\n"
        f"for _ in range({_WARM_UP}): model.predict(np.zeros({size}, np.uint8))\n"
        # Not getrusage: what it tells of a child begins at the size of its parent.
        "print(*[line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')])\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return int(done.stdout) / 2**10


def _open(name: str, picture: np.ndarray, threads: int) -> tuple[Call, int]:
    height, width = picture.shape[:2]
    if is_exported(name):
        file = ExportedModel(name, threads=threads)
        if (file.height, file.width) != (height, width):
            own = f"{file.height}x{file.width}"
            raise InputError(f"{name} is for {own}, not {height}x{width}: give --size {own}")
        return lambda: file.predict(picture), file.metadata["flops"]
    predictor = load(name, device="cpu")
    return lambda: predictor.predict(picture), describe(predictor.model, height, width, "")["flops"]


def peak_convolution() -> tuple[Call, int]:
    """A 3x3 convolution of a shape that torch computes as fast as it can, and its operations."""
    channels, height, width = _PEAK
    frame = torch.randn(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)

    def convolve() -> torch.Tensor:
        with torch.inference_mode():
            return F.conv2d(frame, kernel, padding=1)

    return convolve, 2 * 9 * channels * channels * height * width


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(n)
    cv2.setNumThreads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
