"""Kill a server (SIGKILL) at random moments and restart it, while clients stream from it.

    .venv/bin/python benchmarks/serve_kills.py --model runs/mine --kills 20

Three recordings go through the client, again and again until the last kill. Each must come back complete, in order, and
equal to the offline run frame by frame. It prints what was answered, and how long the clients were without an answer.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import cv2
import numpy as np

from steadydepth.client import Client
from steadydepth.inference.predictor import load


def film(seed: int, n_frames: int) -> list[np.ndarray]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = cv2.resize(coarse, (128, 96), interpolation=cv2.INTER_CUBIC)
    return [np.roll(image, number, axis=1) for number in range(n_frames)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


class Server:
    """A process that listens at one port, whenever it lives."""

    def __init__(self, model: str) -> None:
        self.port = free_port()
        self._words = [sys.executable, "-m", "steadydepth", "serve", "--model", model, "--port", str(self.port)]
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(self._words, stderr=subprocess.PIPE, text=True, env=environment)
        assert self._process.stderr is not None
        assert any("serving at" in line for line in self._process.stderr), "it did not start"
        threading.Thread(target=self._process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)


class Terminal(threading.Thread):
    """One recording after another until told to stop; keeps what was wrong."""

    def __init__(self, model: str, port: int, seed: int) -> None:
        super().__init__()
        self.client, self.frames = Client(f"http://127.0.0.1:{port}"), film(seed, 60)
        predictor = load(model, device="cpu")
        self.offline = [result.depth for result in predictor.stream(self.frames)]
        self.is_over = threading.Event()
        self.n_recordings = self.n_frames = self.n_starts = 0
        self.longest_s, self.fault = 0.0, ""

    def run(self) -> None:
        try:
            while not self.is_over.is_set():
                self._one_recording()
        except Exception as error:
            self.fault = repr(error)

    def _one_recording(self) -> None:
        before, expected = time.monotonic(), 0
        for answer in self.client.stream(self.frames, format="zstd", encoding="png", patience_s=120.0):
            assert answer.number == expected, f"frame {answer.number} after {expected - 1}"
            difference = float(np.abs(answer.depth / self.offline[expected] - 1).max())
            assert difference < 1e-5, f"frame {expected} differs by {difference}"
            expected += 1
            self.n_starts += answer.is_start
            now = time.monotonic()
            self.longest_s, before = max(self.longest_s, now - before), now
            time.sleep(0.02)
        assert expected == len(self.frames), f"{expected} frames of {len(self.frames)}"
        self.n_recordings, self.n_frames = self.n_recordings + 1, self.n_frames + expected


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    moments = random.Random(given.seed)
    server = Server(given.model)
    terminals = [Terminal(given.model, server.port, seed) for seed in range(3)]
    for terminal in terminals:
        terminal.start()
    try:
        for number in range(given.kills):
            time.sleep(moments.uniform(0.1, 3.0))
            server.kill()
            server.start()
            faults = [terminal.fault for terminal in terminals if terminal.fault]
            print(f"kill {number + 1}: {sum(terminal.n_frames for terminal in terminals)} frames", *faults, flush=True)
        for terminal in terminals:
            terminal.is_over.set()
        for terminal in terminals:
            terminal.join(300)
            print(
                f"{terminal.n_recordings} recordings, {terminal.n_frames} frames, {terminal.n_starts} beginnings; at "
                f"most {terminal.longest_s:.1f} s without an answer; {terminal.fault or 'none lost, none wrong'}"
            )
    finally:
        server.kill()


if __name__ == "__main__":
    main()
