"""Plain against steady over seeds: same start, same data order, same steps; unseen clips; the README's table.

    .venv/bin/python benchmarks/steady_against_plain.py --seeds 0 1 2

Writes ROOT/<method>-<seed>/ and prints means over seeds, their standard deviation, and the ratio to plain. A run
that is finished is not repeated; one that was cut goes on. Two trainings run side by side, each on half of the cores.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

METHODS = {"plain": ["loss.relative_weight=0"], "steady": []}
SHOWN = ("abs_rel", "delta1", "flicker", "tsd", "sre", "vel", "gain", "acc", "tae_static", "opw", "flicker_flow")


def call(*words: str, threads: int) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    subprocess.run([sys.executable, "-m", "steadydepth.cli", *words], env=environment, check=True)


def train_and_score(method: str, seed: int, *, root: Path, overrides: list[str], threads: int) -> dict:
    """The metrics.json of one method and one seed."""
    folder = root / f"{method}-{seed}"
    if not (folder / "metrics.json").exists():
        words = [f"data.root={root / 'train'}", f"run.seed={seed}", f"run.folder={folder}"]
        call("train", "-c", "configs/demo.yaml", *words, *overrides, *METHODS[method], threads=threads)
        controls = "--controls" if method == "plain" else "--no-controls"
        words = ["--model", str(folder), "--data", str(root / "test"), "--out", str(folder), controls]
        call("evaluate", *words, threads=threads)
    return json.loads((folder / "metrics.json").read_text())


def spread(values: list[float]) -> str:
    return f"{mean(values):.4g} ± {stdev(values):.2g}" if len(values) > 1 else f"{values[0]:.4g}"


def rows_of(reports: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The means of each method and of each control of plain, a list over seeds."""
    rows = {name: [report["mean"] for report in of_seeds] for name, of_seeds in reports.items()}
    for control in reports["plain"][0]["controls"]:
        rows[f"plain + {control}"] = [report["controls"][control]["mean"] for report in reports["plain"]]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="trainings side by side")
    parser.add_argument("--root", type=Path, default=Path("runs/seeds"), help="folder of data and runs")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    threads = max((os.cpu_count() or 1) // options.jobs, 1)
    call("data", "make", str(options.root / "train"), "--clips", "100", "--frames", "8", "--seed", "0", threads=1)
    call("data", "make", str(options.root / "test"), "--clips", "24", "--frames", "12", "--seed", "100000", threads=1)
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = {
            (method, seed): pool.submit(
                train_and_score, method, seed, root=options.root, overrides=options.overrides, threads=threads
            )
            for seed in options.seeds
            for method in METHODS
        }
        reports = {method: [jobs[method, seed].result() for seed in options.seeds] for method in METHODS}
    rows = rows_of(reports)
    print("| | " + " | ".join(SHOWN) + " |")
    print("| --- |" + " --- |" * len(SHOWN))
    for name, of_seeds in rows.items():
        print(f"| {name} | " + " | ".join(spread([values[metric] for values in of_seeds]) for metric in SHOWN) + " |")
    ratios = [
        mean(values[metric] for values in rows["steady"]) / mean(values[metric] for values in rows["plain"])
        for metric in SHOWN
    ]
    print("| steady / plain | " + " | ".join(f"{ratio:.3f}" for ratio in ratios) + " |")


if __name__ == "__main__":
    main()
