"""Check that a server, killed (-9) at random moments of uploads, jobs and streams, loses nothing.

    python benchmarks/kill_server.py --out runs/server-kills

20 kills over rounds; each round uploads a file in pieces, trains on it, and has a stream open all the while. Half of
the kills include the process of the job, as in a power cut. Then the server is started again on the same port. Exit
status 1 if an acknowledged byte is lost, a file arrives damaged, the weights of a job differ from those of an
uninterrupted run, or a stream does not come back. Without --model and --data they are made.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import load_file

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "helpers"))
from training_server import TUS, Server, begin_upload, find, make_archive, make_model, offset_of, send

from steadydepth.client import Client
from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.plans import check_settings, config_of
from steadydepth.jobs.unpack import unpack
from steadydepth.training.loop import train

PIECE = 20_000
PHASES = ("upload", "upload", "check", "job", "job", "job")  # in which a kill falls
LONGEST_S = {"upload": 1.5, "check": 5.0, "job": 10.0}  # from the beginning of a phase to the kill
SETTINGS = {"optim.steps": 300, "optim.batch": 2, "data.height": 32, "data.width": 40}


class Terminal(threading.Thread):
    """A stream that is open all the time; its client comes back by itself."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.is_over, self.answers, self.starts = url, False, 0, 0
        self.last = time.monotonic()

    def frames(self):
        generator = np.random.default_rng(0)
        image = generator.integers(0, 256, (48, 64, 3), np.uint8)
        while not self.is_over:
            yield np.roll(image, 1, axis=1)
            time.sleep(0.1)

    def run(self) -> None:
        while not self.is_over:
            try:
                for answer in Client(self.url, timeout_s=5).stream(self.frames()):
                    assert answer.depth.shape == (48, 64)
                    self.answers, self.starts = self.answers + 1, self.starts + answer.is_start
                    self.last = time.monotonic()
            except Exception as error:  # a client gives up after a minute without a server; the next one tries again
                print(f"stream: {type(error).__name__}: {error}", flush=True)
                time.sleep(0.2)


class Round:
    """An upload and a job, which go on after each kill."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place, self.acknowledged, self.job = data, "", 0, ""

    def act(self, http: httpx.Client) -> bool:
        """One step further; whether all is done."""
        if not self.place:
            self.place = begin_upload(http, "world.zip", self.data)
        elif self.acknowledged < len(self.data):
            there = offset_of(http, self.place)
            assert there >= self.acknowledged, f"{self.acknowledged} bytes were acknowledged, {there} are there"
            answer = send(http, self.place, slowly(self.data[there : there + PIECE]), there)
            assert answer.status_code == 204, answer.text
            self.acknowledged = int(answer.headers["Upload-Offset"])
        elif not self.job:
            upload = find(http, "uploads", self.place.rsplit("/", 1)[1])
            assert upload["state"] in ("checking", "ready"), upload
            if upload["state"] == "ready":
                # One that was acknowledged before the answer was lost is there.
                known = [each for each in http.get("/v1/jobs").json() if each["uploads"] == [upload["id"]]]
                order = {"kind": "train", "model": "small", "uploads": [upload["id"]], "settings": SETTINGS}
                self.job = (known[0] if known else http.post("/v1/jobs", json=order).json())["id"]
        else:
            state = find(http, "jobs", self.job)["state"]
            assert state in ("queued", "running", "finished"), find(http, "jobs", self.job)
            return state == "finished"
        return False

    @property
    def phase(self) -> str:
        return "job" if self.job else "upload" if self.acknowledged < len(self.data) else "check"


def slowly(piece: bytes):
    for at in range(0, len(piece), 4000):
        yield piece[at : at + 4000]
        time.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    chance = random.Random(options.seed)
    archive = make_archive(options.out)
    data, server = archive.read_bytes(), Server(
        make_model(options.out / "small"), options.out / "server", options.out / "server.log"
    )  # fmt: skip
    expected = uncut(options.out, archive, server.model)
    http = server.start()
    terminal = Terminal(f"http://127.0.0.1:{server.port}")
    terminal.start()
    kills, wrong, seconds = Counter(), [], []
    current = Round(data)
    target, due = chance.choice(PHASES), None
    while sum(kills.values()) < options.kills or current.place:
        if current.phase == target and due is None and sum(kills.values()) < options.kills:
            due = time.monotonic() + chance.uniform(0, LONGEST_S[target])
        if due is not None and time.monotonic() > due:
            takes_all = chance.random() < 0.5
            kills[f"{current.phase}, {'all' if takes_all else 'the server'}"] += 1
            # From another thread: in the middle of a request, too.
            threading.Timer(chance.uniform(0, 0.3), kill_all if takes_all else Server.kill, [server]).start()
            target, due = chance.choice(PHASES), float("inf")
        try:
            is_done = current.act(http)
        except (httpx.TransportError, RuntimeError):  # RuntimeError: a client that is closed
            server.process.wait(30)
            begun = time.monotonic()
            http = server.start()
            seconds.append(time.monotonic() - begun)
            due = None
            continue
        except AssertionError as error:
            wrong.append(str(error))
            break
        if is_done:
            found = load_file(server.folder / "jobs" / current.job / "run" / "model.safetensors")
            if not all((found[name] == expected[name]).all() for name in expected):
                wrong.append(f"job {current.job}: other weights than a run that nothing cut")
            part = find(http, "uploads", current.place.rsplit("/", 1)[1])
            if part["sha256"] != hashlib.sha256(data).hexdigest() or len(part["sequences"]) != 2:
                wrong.append(f"upload {part}")
            http.delete(f"/v1/jobs/{current.job}")
            http.delete(current.place, headers=TUS)
            print(json.dumps({"kills": dict(kills), "answers": terminal.answers}), flush=True)
            current = Round(data if sum(kills.values()) < options.kills else b"")
            if not current.data:
                break
        time.sleep(0.02)
    waited = time.monotonic() + 30
    before = terminal.answers
    while terminal.answers == before and time.monotonic() < waited:
        time.sleep(0.1)
    if terminal.answers == before:
        wrong.append("the stream did not come back")
    terminal.is_over = True
    server.end_all()
    report = {
        "kills": dict(kills), "stream_answers": terminal.answers, "stream_starts": terminal.starts,
        "median_restart_s": round(sorted(seconds)[len(seconds) // 2], 2) if seconds else None, "wrong": wrong,
    }  # fmt: skip
    (options.out / "kills.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    print(json.dumps(report, indent=1))
    sys.exit(1 if wrong else 0)


def kill_all(server: Server) -> None:
    server.process.kill()
    for number in server.workers():
        os.kill(number, signal.SIGKILL)
    server.process.wait(30)


def uncut(out: Path, archive: Path, model: Path) -> dict[str, np.ndarray]:
    """The weights of the same run in this process."""
    folder = out / "uncut"
    unpack(archive, "world.zip", folder / "videos", JobLimits())
    settings = check_settings("train", SETTINGS, JobLimits())
    train(config_of(settings, str(model), folder))
    return load_file(folder / "run" / "model.safetensors")


if __name__ == "__main__":
    main()
