"""How fast models are, side by side in one run: latency, frames a second, memory, and the share of what is possible."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.files.atomic_writes import new_file
from steadydepth.inference.runtime import ExportedModel, is_exported
from steadydepth.types import InputError

Call = Callable[[], Any]

_WARM_UP = 3
# Seconds of a call in `time_in_turn`. The threads of ONNX Runtime spin for some 20 ms after a call: the next runtime's
# was half as fast beside them.
_PAUSE = 0.05
# Seconds of a turn in `bench`, long enough for caches and threads to be those of the one whose turn it is.
_TURN = 0.5


class TimedProcess:
    """A call in a process of its own (`timed_call`): it runs when it is told to, and sleeps in between."""

    def __init__(self, what: str, name: str, *, size: tuple[int, int], threads: int, device: str | None = None) -> None:
        """Start it, as `bench_worker.open_call` says; entered, it is ready, and has `precision` and `device`."""
        self.name = name
        asked = {"what": what, "name": name, "size": size, "threads": threads, "device": device}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "steadydepth.exporters.bench_worker", json.dumps(asked)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.pid = self._process.pid
        self.turns: list[list[float]] = []  # seconds of each call of each turn so far

    def __enter__(self) -> "TimedProcess":
        try:
            self.opened: dict[str, str] = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:  # which waits for its end
            self._process.kill()

    @property
    def spent(self) -> list[float]:
        """Seconds of each call so far."""
        return [seconds for turn in self.turns for seconds in turn]

    def run(self, seconds: float) -> None:
        """A turn of that length."""
        assert self._process.stdin is not None
        print(seconds, file=self._process.stdin, flush=True)
        self.turns.append(self._answer())

    def finish(self) -> dict[str, Any]:
        """The end of all turns: `memory_mib`, `device_memory_mib` and `flops`."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"{self.name}: its process was lost (exit status {self._process.wait()}); see above")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer


def bench(
    models: list[str],
    *,
    height: int,
    width: int,
    threads: int = 2,
    seconds: float = 10.0,
    device: str | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """Time each model on images of height x width, in turns of half a second, for `seconds` in all.

    A folder runs in torch at that size, on `device` or else as predict would; an exported file must have it, and runs
    on the CPU. Each has a process of its own, so that no runtime's threads are in another's way. The call is that of a
    frame: uint8 in, float32 depth out. Latencies are in ms, memory is the greatest size of the process in MiB (Linux),
    and of what it took on an accelerator. `peak_share` is the operations of the network a second over those of a 3x3
    convolution in the same precision on the same device, which has its turns too: of torch, and for int8 of ONNX
    Runtime. What there is none of is None. JSON to `out`.
    """
    _check_sizes(models, height, width)
    with ExitStack() as stack:

        def start(what: str, name: str, place: str | None) -> TimedProcess:
            one = TimedProcess(what, name, size=(height, width), threads=threads, device=place)
            return stack.enter_context(one)

        calls = {name: start("predict", name, device) for name in models}
        peaks = {}
        for precision, place in sorted({(call.opened["precision"], call.opened["device"]) for call in calls.values()}):
            if precision != "int8" or (find_spec("onnx") and find_spec("onnxruntime")):
                peaks[f"{place}, {precision}"] = start("peak", precision, place)
        take_turns([*calls.values(), *peaks.values()], seconds)
        rates = {kind: call.finish()["flops"] / float(np.median(call.spent)) for kind, call in peaks.items()}
        found = {
            "size": [height, width],
            "threads": threads,
            "peak_gflops": {kind: rate / 1e9 for kind, rate in rates.items()},
            "models": {name: _tell(call, rates) for name, call in calls.items()},
        }
    if out is not None:
        with new_file(out) as part:
            part.write_text(json.dumps(found, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _tell(call: TimedProcess, rates: dict[str, float]) -> dict[str, Any]:
    end, device = call.finish(), call.opened["device"]
    flops, rate = end.pop("flops"), rates.get(f"{device}, {call.opened['precision']}")
    share = rate and flops / float(np.median(call.spent)) / rate
    return {"device": device} | summarise(call.spent) | end | {"gflops": flops / 1e9, "peak_share": share}


def take_turns(calls: Iterable[TimedProcess], seconds: float) -> int:
    """Each in turn, there and back, for `seconds` in all and once at least; how many rounds that were."""
    end, rounds, order = time.perf_counter() + seconds, 0, list(calls)
    while not rounds or time.perf_counter() < end:
        for call in order:
            call.run(min(_TURN, seconds))
        order.reverse()
        rounds += 1
    return rounds


def _check_sizes(models: list[str], height: int, width: int) -> None:
    for name in filter(is_exported, models):
        file = ExportedModel(name)
        if (file.height, file.width) != (height, width):
            own = f"{file.height}x{file.width}"
            raise InputError(f"{name} is for {own}, not {height}x{width}: give --size {own}")


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
