"""Check that a run of two processes, killed (-9) at random moments, ends like an uninterrupted one.

    python benchmarks/kill_and_resume.py --out runs/kills

20 kills over 4 runs. When: while the processes start, in a step, or while a checkpoint is written. Which: one of the
two processes, which torchrun survives; all of them and torchrun, as in a power cut; or torchrun alone: then the
processes continue, and the same command must be refused until they are killed as well. Exit status 1 if a log of losses
or a byte of a model differs. Without --data the clips are made.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from steadydepth.synthetic.world import make_world

STEPS = 400  # more than processes take while the same command starts beside them
WHEN = ("start", "step", "checkpoint")
WHO = ("process 0", "process 1", "all", "launcher")
Launcher = subprocess.Popen[bytes]


def start(data: Path, folder: Path, workers: int) -> Launcher:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{folder.name}.yaml"
    content = {
        "data": {"root": str(data), "height": 32, "width": 40, "exposure": 0.1, "workers": workers},
        "model": {"encoder": "test_efficientnet", "weights": "none"},
        "optim": {"steps": STEPS, "batch": 4},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 3},
    }
    config.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    words += [f"--master-port={port}", "-m", "steadydepth", "train", "-c", str(config)]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1"} | os.environ)


def children(launcher: Launcher) -> list[int]:
    path = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(one) for one in path.read_text(encoding="utf-8").split()] if path.exists() else []


def steps_logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def wait_until(reached: Callable[[], bool], launcher: Launcher) -> None:
    while not reached() and launcher.poll() is None:
        time.sleep(0.001)


def kill_one(launcher: Launcher, folder: Path, when: str, who: str, draw: random.Random) -> bool:
    """Whether somebody was killed; False when the run was over before."""
    wait_until(lambda: len(children(launcher)) == 2, launcher)
    if when == "start":
        time.sleep(10 * draw.random())
    else:
        target = steps_logged(folder) + 1 + draw.randrange(4)
        wait_until(lambda: steps_logged(folder) >= target, launcher)
        if when == "checkpoint":
            wait_until(lambda: any(folder.glob(".checkpoint.*.part.pt")), launcher)
            time.sleep(0.02 * draw.random())
        else:
            time.sleep(0.3 * draw.random())
    processes = children(launcher)
    if len(processes) < 2:
        launcher.wait()
        return False
    killed = {"all": [launcher.pid, *processes], "launcher": [launcher.pid]}.get(who) or [processes[int(who[-1])]]
    for process in killed:
        os.kill(process, signal.SIGKILL)
    launcher.wait()
    return True


def outlive_launcher(data: Path, folder: Path, left: list[int], workers: int) -> str:
    """What the same command meets while the processes that are `left` train on; they are killed in the end."""
    before = len(folder.with_suffix(".log").read_bytes())
    status = start(data, folder, workers).wait()
    printed = folder.with_suffix(".log").read_bytes()[before:]
    for process in filter(is_alive, left):
        os.kill(process, signal.SIGKILL)
    wait_until_dead(left)
    if status == 0:
        return "they had ended, or had not begun"
    if b"another process trains here" not in printed:
        raise SystemExit(f"{folder.name}: beside the processes left behind, status {status}: {folder}.log")
    return "refused beside them"


def is_alive(process: int) -> bool:
    """Whether it runs; one that nobody asks for its status any more does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_dead(processes: list[int]) -> None:
    while any(map(is_alive, processes)):
        time.sleep(0.01)


def ending(folder: Path) -> tuple[list[dict[str, float]], bytes]:
    """What must be the same: all losses, and the model."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line | {"seconds": 0} for line in lines], (folder / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--kills", type=int, default=5, help="in each run")
    parser.add_argument("--workers", type=int, default=0, help="loader processes of each of the two")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    data = options.data or options.out / "data"
    if options.data is None and not data.exists():
        make_world(data, n_clips=4, seed=0, n_frames=5, height=32, width=40, workers=1)
    if start(data, options.out / "uncut", options.workers).wait():
        raise SystemExit(f"the uncut run failed: {options.out / 'uncut.log'}")
    counted, differ = Counter[str](), 0
    for number in range(options.runs):
        folder = options.out / f"killed{number}"
        for _ in range(options.kills):
            when, who = draw.choice(WHEN), draw.choice(WHO)
            launcher = start(data, folder, options.workers)
            wait_until(lambda launcher=launcher: len(children(launcher)) == 2, launcher)
            processes = children(launcher)
            killed = kill_one(launcher, folder, when, who, draw)
            counted[f"{when}, {who}" if killed else "over before"] += 1
            print(
                f"{folder.name}: {when}: {who if killed else 'nobody'} killed; {steps_logged(folder)} lines", flush=True
            )
            if killed and who == "launcher":
                print(f"{folder.name}: {outlive_launcher(data, folder, processes, options.workers)}", flush=True)
        if status := start(data, folder, options.workers).wait():
            raise SystemExit(f"{folder.name} did not go on (status {status}): {folder.with_suffix('.log')}")
        same = ending(folder) == ending(options.out / "uncut")
        print(f"{folder.name}: {'the same' if same else 'ANOTHER'} ending", flush=True)
        differ += not same
    print(", ".join(f"{what}: {count}" for what, count in sorted(counted.items())))
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
