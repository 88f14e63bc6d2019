"""Measure a server under load: frames a second against the model alone, latency, memory, order, states.

    .venv/bin/python benchmarks/serve_load.py --model steady --terminals 1 8 32 --seconds 20 --out load.json

The server is a process of its own with one thread for its network. The clients ("terminals") are threads of this
process: they send JPEG of 192 x 256 and receive float16, with at most two unanswered frames each. The model alone also
runs in a process of its own with one thread: one frame after another, and in batches that fill the device. Both take
turns, --rounds times, so that other load on the machine is shared evenly. Rates are over all rounds; beside them is the
processor time for a frame, which other load changes little. Then one client floods the server at five times its rate,
and 32 clients send different clips behind a filter with a memory, each compared with its own offline run. --job trains
a model on the server, and measures the load with its process running and paused, in turns: what predictions lose to it.
--minutes repeats the load of the most clients for so long, and notes the memory of the server every ten seconds.
"""

import argparse
import base64
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import cv2
import numpy as np
from websockets.sync.client import connect

from steadydepth.client import Client
from steadydepth.serving.messages import pack, unpack
from steadydepth.synthetic.world import make_world

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
        self.process = subprocess.Popen(command, env=environment(), stdin=pipe, stdout=pipe, text=True)

    def frames_s(self, how: str, seconds: float) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{how} {seconds}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate()


@contextmanager
def server(model: str, data: Path | None = None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    code = (
        "import logging, sys, torch; torch.set_num_threads(1); logging.basicConfig(level='INFO');"
        "from steadydepth.serving.server import run_server; from steadydepth.serving.settings import Limits, Settings;"
        "from pathlib import Path; limits = Limits(requests_s=1e4, sessions_a_client=64);"
        "run_server(Settings(model=sys.argv[1], port=0, limits=limits, audit=Path(sys.argv[2]),"
        "data=Path(sys.argv[3]) if sys.argv[3] else None))"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", code, model, f"{folder}/audit.jsonl", str(data or "")]
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


def cpu_seconds(running: subprocess.Popen[str]) -> float:
    """What a process has had of the processor, all of its threads."""
    words = Path(f"/proc/{running.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def terminal(port: int, seed: int, ready: threading.Barrier, seconds: float) -> list[float]:
    """Latencies in seconds; AssertionError where an answer is out of order. It begins when all are ready."""
    images = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in film(seed, 20)]
    sent: dict[int, float] = {}
    latencies: list[float] = []
    number = last = -1
    with connect(f"ws://127.0.0.1:{port}/v1/stream", compression=None, proxy=None, max_size=None) as stream:
        json.loads(stream.recv())
        ready.wait(600)
        until = time.monotonic() + seconds
        while time.monotonic() < until or sent:
            while len(sent) < 2 and time.monotonic() < until:
                number += 1
                sent[number] = time.monotonic()
                stream.send(pack({"id": number, "kind": "image"}, images[number % 20]))
            message = stream.recv(600)
            assert isinstance(message, bytes), message
            header, payload = unpack(message)
            assert header["id"] == last + 1, f"{header['id']} after {last}"
            assert len(payload) == 2 * HEIGHT * WIDTH
            last = header["id"]
            latencies.append(time.monotonic() - sent.pop(last))
    return latencies


def load(port: int, n_terminals: int, seconds: float) -> tuple[float, list[list[float]]]:
    """Frames a second, and the latencies of each terminal."""
    ready = threading.Barrier(n_terminals + 1)
    with ThreadPoolExecutor(n_terminals) as pool:
        running = [pool.submit(terminal, port, seed, ready, seconds) for seed in range(n_terminals)]
        ready.wait(600)
        begun = time.monotonic()
        each = [one.result() for one in running]
    return sum(map(len, each)) / (time.monotonic() - begun), each


def compare(
    alone: Alone, running: subprocess.Popen[str], port: int, n_terminals: int, seconds: float, rounds: int
) -> dict[str, Any]:
    served, one, many, latencies = [], [], [], []
    fewest, most = 10**9, 0
    cpu_alone = cpu_served = n_alone = 0.0
    for _ in range(rounds):
        before = cpu_seconds(alone.process)
        one.append(alone.frames_s("one", seconds / rounds / 2))
        cpu_alone += cpu_seconds(alone.process) - before
        n_alone += one[-1] * seconds / rounds / 2
        before = cpu_seconds(running)
        rate, each = load(port, n_terminals, seconds / rounds)
        cpu_served += cpu_seconds(running) - before
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
        "cpu_ms_a_frame": 1e3 * cpu_served / len(latencies),
        "cpu_ms_a_frame_alone": 1e3 * cpu_alone / n_alone,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "frames_of_a_terminal": [fewest, most],
    }


def start_job(port: int, data: Path) -> int:
    """A training on rendered clips that goes on longer than anything here; its process, which has begun to learn."""
    make_world(data / "world", n_clips=4, seed=0, n_frames=8, height=144, width=176, workers=1)
    archive = Path(shutil.make_archive(str(data / "world"), "zip", data / "world")).read_bytes()

    def ask(method: str, path: str, body: bytes = b"", **headers: str) -> Any:
        given = {"Tus-Resumable": "1.0.0"} | {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request(f"http://127.0.0.1:{port}{path}", body or None, given, method=method)
        with urlopen(request, timeout=60) as answer:
            return answer.headers.get("Location") or json.loads(answer.read() or "null")

    name = base64.b64encode(b"world.zip").decode()
    place = ask("POST", "/v1/uploads", Upload_Length=str(len(archive)), Upload_Metadata=f"filename {name}")
    ask("PATCH", place, archive, Upload_Offset="0", Content_Type="application/offset+octet-stream")
    wait(lambda: all(upload["state"] == "ready" for upload in ask("GET", "/v1/uploads")))
    model = ask("GET", "/v1/models")["model"]
    order = {"kind": "train", "model": model, "uploads": [place.rsplit("/", 1)[1]], "settings": {"optim.steps": 20000}}
    job = ask("POST", "/v1/jobs", json.dumps(order).encode(), Content_Type="application/json")["id"]
    wait(lambda: (data / "jobs" / job / "run" / "metrics.jsonl").is_file())
    return int((data / "jobs" / job / "pid").read_text(encoding="utf-8"))


def wait(is_so: Callable[[], bool], seconds: float = 1800.0) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.1)


def beside_job(job: int, port: int, n_terminals: int, seconds: float, rounds: int) -> dict[str, float]:
    """Frames a second with the job at work, and with its process held; both take turns."""
    rates: dict[signal.Signals, list[float]] = {signal.SIGCONT: [], signal.SIGSTOP: []}
    for _ in range(rounds):
        for number, found in rates.items():
            os.kill(job, number)
            found.append(load(port, n_terminals, seconds / rounds / 2)[0])
    os.kill(job, signal.SIGCONT)
    beside, without = (float(np.mean(found)) for found in rates.values())
    return {"frames_s": beside, "without_frames_s": without, "share": beside / without}


def measure_beside_job(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """`beside_job` on a server of its own, by the number of terminals."""
    with tempfile.TemporaryDirectory() as folder, server(given.model, Path(folder)) as (_, port):
        job = start_job(port, Path(folder))
        return {str(n): beside_job(job, port, n, given.seconds, given.rounds) for n in given.terminals}


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
            message = stream.recv(600)
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
    films = [film(seed, 8) for seed in range(n_terminals)]
    offline = [[result.depth for result in predictor.session(filter="ema").run(frames)] for frames in films]
    client = Client(f"http://127.0.0.1:{port}", timeout_s=600.0)  # other work on the machine is no fault

    def run(frames: list[np.ndarray], expected: list[np.ndarray]) -> float:
        served = client.stream(frames, filter="ema", format="zstd", encoding="png")
        pairs = zip(served, expected, strict=True)
        return max(float(np.abs(answer.depth / depth - 1).max()) for answer, depth in pairs)

    with ThreadPoolExecutor(n_terminals) as pool:
        return max(pool.map(run, films, offline))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--terminals", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--job", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    found: dict[str, Any] = {"load": {}}
    alone = Alone(given.model)
    with server(given.model) as (running, port):
        alone.frames_s("many", 1.0)
        load(port, 1, 2.0)
        found["memory_at_start_mb"] = memory_mb(running)
        for n_terminals in given.terminals:
            one = compare(alone, running, port, n_terminals, given.seconds, given.rounds)
            found["load"][n_terminals] = one | {"memory_mb": memory_mb(running)}
            print(n_terminals, json.dumps(found["load"][n_terminals]), flush=True)
        rate = found["load"][given.terminals[0]]["frames_s"]
        found["flood"] = flood(port, 5 * rate, 5.0)
        print("flood", json.dumps(found["flood"]), flush=True)
        found["largest_difference_from_offline"] = states(given.model, port, 32)
        print("states", found["largest_difference_from_offline"], flush=True)
        if given.job:
            found["beside_job"] = measure_beside_job(given)
            print("beside a job", json.dumps(found["beside_job"]), flush=True)
        memory: list[float] = []
        until = time.monotonic() + 60 * given.minutes
        while time.monotonic() < until:
            load(port, given.terminals[-1], 10.0)
            memory.append(round(memory_mb(running), 1))
            print("memory", memory[-1], flush=True)
        found["memory_mb"] = memory
    alone.close()
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
