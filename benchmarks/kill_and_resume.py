"""A run of two processes, killed (-9) at random moments in a random process, ends as one that nothing has cut.

    python benchmarks/kill_and_resume.py --data runs/demo/data/train --out runs/kills

20 kills over 5 runs; exit status 1 when a log of losses or a byte of a model differs.
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
from pathlib import Path

STEPS = 40


def start(data: Path, folder: Path) -> subprocess.Popen[bytes]:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    config = folder.parent / f"{folder.name}.yaml"
    content = {
        "data": {"root": str(data), "height": 32, "width": 40, "exposure": 0.1},
        "model": {"encoder": "test_efficientnet", "weights": "none"},
        "optim": {"steps": STEPS, "batch": 4},
        "run": {"folder": str(folder), "device": "cpu", "log_every": 1, "checkpoint_every": 3},
    }
    config.write_text(json.dumps(content))  # JSON is YAML
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
    words += [f"--master-port={port}", "-m", "steadydepth.cli", "train", "-c", str(config)]
    with folder.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env={"OMP_NUM_THREADS": "1"} | os.environ)


def steps_logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_one(launcher: subprocess.Popen[bytes], folder: Path, step: int, draw: random.Random) -> int | None:
    """Which process was killed, somewhere after a step; None when the run was over before."""
    while steps_logged(folder) < step:
        if launcher.poll() is not None:
            return None
        time.sleep(0.02)
    time.sleep(draw.random() * 0.5)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    processes = children.read_text().split() if children.exists() else []
    if len(processes) < 2:
        return None
    rank = draw.randrange(2)
    os.kill(int(processes[rank]), signal.SIGKILL)
    launcher.wait()
    return rank


def ending(folder: Path) -> tuple[list[dict[str, float]], bytes]:
    """What must be the same: all losses, and the model."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line | {"seconds": 0} for line in lines], (folder / "model.safetensors").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=4, help="in each run")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    if start(options.data, options.out / "uncut").wait():
        raise SystemExit(f"the uncut run failed: {options.out / 'uncut.log'}")
    differ = 0
    for number in range(options.runs):
        folder = options.out / f"killed{number}"
        for step in sorted(draw.sample(range(1, STEPS), options.kills)):
            rank = kill_one(start(options.data, folder), folder, step, draw)
            print(f"{folder.name}: process {rank} killed after step {steps_logged(folder)}", flush=True)
        start(options.data, folder).wait()
        same = ending(folder) == ending(options.out / "uncut")
        print(f"{folder.name}: {'the same' if same else 'ANOTHER'} ending", flush=True)
        differ += not same
    raise SystemExit(1 if differ else 0)


if __name__ == "__main__":
    main()
