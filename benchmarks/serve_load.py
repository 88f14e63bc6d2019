"""A server under load on this machine: frames a second against the model alone, latency, memory, order, states.

    .venv/bin/python benchmarks/serve_load.py --model steady --terminals 1 8 32 --seconds 20 --out load.json

The server is a process of its own with one thread for its network, the terminals are threads of this one: JPEG of
192 x 256 there, float16 back, at most two frames of each on their way. The model alone runs in a process of its own
with one thread as well, one frame after another, and as many at once as fill the device. Both take turns, --rounds
times, so that what else the machine does is shared evenly; rates are over all rounds. Then one terminal floods the
server at five times its rate, and 32 terminals show it different clips behind a filter with a memory, each compared
with its own offline run. --minutes repeats the load of the most terminals for so long and notes the memory of the
server every ten seconds.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from websockets.sync.client import connect

from steadydepth.client import Client
from steadydepth.serving.messages import pack, unpack

HEIGHT, WIDTH = 192, 256
ALONE = """
import sys, time, torch, numpy as np
from steadydepth.inference.predictor import load
torch.set_num_threads(1)
network = load(sys.argv[1]).network
most = network.frames_at_once(192, 256)
images = list(np.random.default_rng(0).integers(0, 256, (most, 192, 256, 3), np.uint8))
for line in sys.stdin:
    at_once = 1 if line.split()[0] == "one" else most
    n, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < float(line.split()[1]):
        network.step_together(images[:at_once], [None] * at_once)
        n += 1
    print(n * at_once / (time.perf_counter() - begun), flush=True)
"""


def film(seed: int, n_frames: int) -> list[np.ndarray]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return [np.roll(image, 2 * number, axis=1) for number in range(n_frames)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


class Alone:
    """The bare network in a process of its own, which waits until it is asked."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-c", ALONE, model]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)

    def frames_s(self, how: str, seconds: float) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{how} {seconds}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@contextmanager
def server(model: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    code = (
        "import logging, sys, torch; torch.set_num_threads(1); logging.basicConfig(level='INFO');"
        "from steadydepth.serving.server import run_server; from steadydepth.serving.settings import Limits, Settings;"
        "from pathlib import Path; limits = Limits(requests_s=1e4, sessions_a_client=64);"
        "run_server(Settings(model=sys.argv[1], port=0, limits=limits, audit=Path(sys.argv[2])))"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, model, f"{folder}/audit.jsonl"]
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
        assert running.stderr is not None
        try:
            line = next(line for line in running.stderr if "serving at" in line)
            threading.Thread(target=running.stderr.read, daemon=True).start()
            yield running, int(line.strip().rsplit(":", 1)[1])
        finally:
            running.send_signal(signal.SIGTERM)
            running.wait(30)


def memory_mb(running: subprocess.Popen[str]) -> float:
    lines = Path(f"/proc/{running.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def terminal(port: int, seed: int, until: float) -> list[float]:
    """Latencies in seconds; AssertionError where an answer is out of order."""
    images = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in film(seed, 20)]
    sent: dict[int, float] = {}
    latencies: list[float] = []
    number = last = -1
    with connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None, proxy=None, max_size=None) as stream:
        json.loads(stream.recv())
        while time.monotonic() < until or sent:
            while len(sent) < 2 and time.monotonic() < until:
                number += 1
                sent[number] = time.monotonic()
                stream.send(pack({"id": number, "kind": "image"}, images[number % 20]))
            message = stream.recv(60)
            assert isinstance(message, bytes), message
            header, payload = unpack(message)
            assert header["id"] == last + 1, f"{header['id']} after {last}"
            assert len(payload) == 2 * HEIGHT * WIDTH
            last = header["id"]
            latencies.append(time.monotonic() - sent.pop(last))
    return latencies


def load(port: int, n_terminals: int, seconds: float) -> tuple[float, list[list[float]]]:
    """Frames a second, and the latencies of each terminal."""
    begun = time.monotonic()
    with ThreadPoolExecutor(n_terminals) as pool:
        each = list(pool.map(lambda seed: terminal(port, seed, begun + seconds), range(n_terminals)))
    return sum(map(len, each)) / (time.monotonic() - begun), each


def compare(alone: Alone, port: int, n_terminals: int, seconds: float, rounds: int) -> dict[str, Any]:
    served, one, many, latencies = [], [], [], []
    fewest, most = 10**9, 0
    for _ in range(rounds):
        one.append(alone.frames_s("one", seconds / rounds / 2))
        rate, each = load(port, n_terminals, seconds / rounds)
        many.append(alone.frames_s("many", seconds / rounds / 2))
        served.append(rate)
        latencies += [latency for terminal in each for latency in terminal]
        fewest, most = min(fewest, *map(len, each)), max(most, *map(len, each))
    p50, p95, p99 = (1e3 * np.quantile(latencies, (0.5, 0.95, 0.99))).tolist()
    frames_s, one_s, many_s = (float(np.mean(rates)) for rates in (served, one, many))
    return {
        "frames_s": frames_s,
        "alone_frames_s": one_s,
        "alone_at_once_frames_s": many_s,
        "share_of_alone": frames_s / one_s,
        "share_of_alone_at_once": frames_s / many_s,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "frames_of_a_terminal": [fewest, most],
    }


def flood(port: int, rate: float, seconds: float) -> dict[str, Any]:
    """One terminal that does not wait: what it is answered, and whether the last answer is of the last frame."""
    images = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in film(0, 20)]
    answered, skipped = [], []
    n_frames = max(10, int(rate * seconds))
    with connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None, proxy=None, max_size=None) as stream:
        json.loads(stream.recv())

        def send() -> None:
            begun = time.monotonic()
            for number in range(n_frames):
                time.sleep(max(0.0, begun + number / rate - time.monotonic()))
                stream.send(pack({"id": number, "kind": "image"}, images[number % 20]))

        thread = threading.Thread(target=send)
        thread.start()
        while len(answered) + len(skipped) < n_frames:
            message = stream.recv(60)
            if isinstance(message, bytes):
                answered.append(unpack(message)[0]["id"])
            else:
                skipped.append(json.loads(message)["id"])
        thread.join()
    assert answered == sorted(answered)
    return {"sent": n_frames, "answered": len(answered), "skipped": len(skipped), "last": answered[-1] == n_frames - 1}


def states(model: str, port: int, n_terminals: int) -> float:
    """The largest relative difference of any terminal's depth from its own offline run, behind a filter."""
    from steadydepth.inference.predictor import load as load_predictor

    predictor = load_predictor(model, device="cpu")
    client = Client(f"http://127.0.0.1:{port}")

    def run(seed: int) -> float:
        frames = film(seed, 8)
        offline = [session.step(frame).depth for session in [predictor.session(filter="ema")] for frame in frames]
        served = client.stream(frames, filter="ema", format="zstd", encoding="png")
        return max(float(np.abs(answer.depth / depth - 1).max()) for answer, depth in zip(served, offline, strict=True))

    with ThreadPoolExecutor(n_terminals) as pool:
        return max(pool.map(run, range(n_terminals)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--terminals", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"load": {}}
    alone = Alone(given.model)
    with server(given.model) as (running, port):
        alone.frames_s("many", 1.0)
        load(port, 1, 2.0)
        found["memory_at_start_mb"] = memory_mb(running)
        for n_terminals in given.terminals:
            one = compare(alone, port, n_terminals, given.seconds, given.rounds)
            found["load"][n_terminals] = one | {"memory_mb": memory_mb(running)}
            print(n_terminals, json.dumps(found["load"][n_terminals]), flush=True)
        rate = found["load"][given.terminals[0]]["frames_s"]
        found["flood"] = flood(port, 5 * rate, 5.0)
        print("flood", json.dumps(found["flood"]), flush=True)
        found["largest_difference_from_offline"] = states(given.model, port, 32)
        print("states", found["largest_difference_from_offline"], flush=True)
        memory: list[float] = []
        until = time.monotonic() + 60 * given.minutes
        while time.monotonic() < until:
            load(port, given.terminals[-1], 10.0)
            memory.append(round(memory_mb(running), 1))
            print("memory", memory[-1], flush=True)
        found["memory_mb"] = memory
    alone.close()
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
