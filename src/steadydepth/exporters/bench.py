"""How fast models are, side by side in one run: latency, frames a second, memory, and the share of what is possible."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.files.atomic_writes import check_file, write_json
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
    """A call in a process of its own (`bench_worker`): it runs on request, and sleeps in between."""

    def __init__(self, what: str, name: str, *, size: tuple[int, int], threads: int, device: str | None = None) -> None:
        """Start it; entered, it is ready, and has `opened`.

        Args:
            what: the kind of call, as of `bench_worker.open_call`.
            name: of the model, or of the precision of a peak.
            size: rows and columns of the image.
            threads: of the process.
            device: of torch; None takes its own.
        """
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
        with suppress(OSError), self._process:  # which waits for its end; what a lost process was still to read is lost
            self._process.kill()

    @property
    def spent(self) -> list[float]:
        """Seconds of each call so far."""
        return [seconds for turn in self.turns for seconds in turn]

    def run(self, seconds: float) -> None:
        """A turn of that length."""
        assert self._process.stdin is not None
        with suppress(OSError):  # of a process that is lost, which its answer says
            print(seconds, file=self._process.stdin, flush=True)
        self.turns.append(self._answer())

    def finish(self) -> dict[str, Any]:
        """The end of all turns: `memory_mib`, `device_memory_mib` and `flops`."""
        assert self._process.stdin is not None
        with suppress(OSError):
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
    models: str | list[str],
    *,
    height: int,
    width: int,
    threads: int = 2,
    seconds: float = 10.0,
    processes: int = 1,
    device: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Time models side by side, in turns of half a second; the call is that of a frame, uint8 in, float32 depth out.

    Each model has processes of its own, so that no runtime's threads slow another. Where its arrays lie in memory makes
    a process some percent faster or slower than another of the same model, for as long as it lives: for small
    differences take several.

    Args:
        models: one or several: folders, which run in torch at that size, and exported files, which must have it and run
            on the CPU.
        height: rows of the images.
        width: columns of the images.
        threads: how many each runtime may use.
        seconds: for all models together; each has one turn at least.
        processes: of each model; its times are means over them.
        device: for folders; None takes the one that predict takes.
        out: a JSON file for what is returned.

    Returns: under `models`, by name: latencies in ms, frames a second, the greatest size of a process in MiB (Linux),
        MiB on an accelerator, operations of a frame in 1e9, and `peak_share`: the operations a second over those of a
        3x3 convolution in the same precision on the same device, which has its turns too (of torch, and for int8 of
        ONNX Runtime). None where there is no number.

    Raises:
        InputError: a model does not load, or its process ended, or `out` cannot be a file.
    """
    models = [models] if isinstance(models, str) else models
    _check_sizes(models, height, width)
    if out is not None:
        check_file(Path(out))
    with ExitStack() as stack:

        def start(what: str, name: str, place: str | None) -> TimedProcess:
            one = TimedProcess(what, name, size=(height, width), threads=threads, device=place)
            return stack.enter_context(one)

        calls = {name: [start("predict", name, device) for _ in range(processes)] for name in models}
        peaks = {}
        opened = [call.opened for each in calls.values() for call in each]
        for precision, place in sorted({(one["precision"], one["device"]) for one in opened}):
            if precision != "int8" or (find_spec("onnx") and find_spec("onnxruntime")):
                peaks[f"{place}, {precision}"] = start("peak", precision, place)
        take_turns([*chain.from_iterable(calls.values()), *peaks.values()], seconds)
        rates = {kind: call.finish()["flops"] / float(np.median(call.spent)) for kind, call in peaks.items()}
        found = {
            "size": [height, width],
            "threads": threads,
            "processes": processes,
            "peak_gflops": {kind: rate / 1e9 for kind, rate in rates.items()},
            "models": {name: _report(each, rates) for name, each in calls.items()},
        }
    if out is not None:
        write_json(Path(out), found)
    return found


def _report(calls: list[TimedProcess], rates: dict[str, float]) -> dict[str, Any]:
    end, opened = calls[0].finish(), calls[0].opened
    times = summarise([call.spent for call in calls])
    flops, rate = end.pop("flops"), rates.get(f"{opened['device']}, {opened['precision']}")
    share = rate and flops / times["p50_ms"] * 1e3 / rate
    return {"device": opened["device"]} | times | end | {"gflops": flops / 1e9, "peak_share": share}


def take_turns(calls: Iterable[TimedProcess], seconds: float) -> int:
    """A turn for each, forwards and backwards, for `seconds` in all and once at least; returns the number of rounds."""
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


def summarise(processes: list[list[float]]) -> dict[str, float]:
    """Seconds of the calls of each process to percentiles in ms and calls a second, means over the processes."""
    p50, p95, p99 = 1e3 * np.mean([np.percentile(times, (50, 95, 99)) for times in processes], axis=0)
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "p99_ms": float(p99),
        "frames_per_s": float(np.mean([len(times) / np.sum(times) for times in processes])),
        "n_calls": sum(len(times) for times in processes),
    }


def time_in_turn(
    calls: dict[str, Call], *, rounds: int = 1, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call, one of each in turn: what else the machine does slows all of them alike.

    Each timed call comes after a pause, in which the threads of the one before stop to wait for more, and right after
    an untimed one of its own: those caches are not these.

    Args:
        calls: by name.
        rounds: turns of each call.
        clock: gives seconds.
    """
    for call in calls.values():
        for _ in range(_WARM_UP):
            call()
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(_PAUSE)
            call()
            begun = clock()
            call()
            spent[name].append(clock() - begun)
    return spent
