"""Several methods from one start, on one data order, for one budget: their runs, one table, one page."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from steadydepth.config import CompareConfig
from steadydepth.config_files import dump_config, load_compare_config
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import InputError
from steadydepth.files.whole_files import new_file
from steadydepth.metrics.intervals import read_report
from steadydepth.training.alone import alone_in
from steadydepth.training.checkpoint import STATE
from steadydepth.training.compare_page import render_comparison
from steadydepth.training.compare_plan import PlannedRun, Row, frames_seen, plan_runs
from steadydepth.training.compare_table import build_comparison

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.2  # seconds between looks at the runs under way
TELL_EVERY = 60  # seconds between lines about them where there is no terminal
PATIENCE = 10  # seconds that a stopped run gets before it is killed

Stage = Literal["train", "evaluate"]


def compare(config: CompareConfig | str | Path) -> dict[str, Any]:
    """Train and evaluate every method with every seed, each in a process of its own; returns what compare.json holds.

    A finished run is not repeated, one that was cut goes on, and one that fails is named under `failed` while the
    others go on. `out` gets a folder for each run, configs/, logs/, compare.json and compare.html. InputError before
    anything starts when the methods differ in more than methods may, or another comparison lives in `out`.
    """
    if not isinstance(config, CompareConfig):
        config = load_compare_config(Path(config))
    plan = plan_runs(config)
    runs = plan.runs()
    roots = (source.root for run in runs for source in run.config.data.all_sources())
    for root in dict.fromkeys((config.test, *roots)):
        find_sequences(root)
    # A run that outlives us still holds the folder.
    with alone_in(config.out, with_children=True), _stopped_like_interrupted():
        _refuse_other_runs(runs)
        failed = _carry_out(runs, config)
        result = build_comparison(
            {name: _read_reports(row, config) for name, row in plan.methods.items()},
            {name: _read_reports(row, config) for name, row in plan.curve.items()},
            config=config,
            frames={name: frames_seen(row) for name, row in (plan.methods | plan.curve).items()},
        )
        result["failed"] = failed
        with new_file(config.out / "compare.json") as part:
            part.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        with new_file(config.out / "compare.html") as part:
            part.write_text(render_comparison(result))
    return result


@contextmanager
def _stopped_like_interrupted() -> Iterator[None]:
    """A polite kill ends the runs as Ctrl-C does; only the main thread may ask for signals."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse_other_runs(runs: list[PlannedRun]) -> None:
    other = [run.name for run in runs if _has_other_config(run)]
    if other:
        raise InputError(
            f"{runs[0].folder.parent}: other runs live in {', '.join(other)} (see their config.yaml): "
            "choose another `out`, or delete those folders"
        )


def _has_other_config(run: PlannedRun) -> bool:
    path = run.folder / "config.yaml"
    has_begun = (run.folder / STATE).is_file() or (run.folder / "config.json").is_file()
    return has_begun and path.is_file() and path.read_text() != dump_config(run.config)


def _scores_of(run: PlannedRun, config: CompareConfig) -> Path:
    """The folder of a run's metrics.json: a folder of its own for every other way to score the same run."""
    is_usual = (config.align, config.protocol) == ("auto", "plain")
    return run.folder if is_usual else run.folder / f"{config.protocol}-{config.align}"


def _next_stage(run: PlannedRun, config: CompareConfig) -> Stage | None:
    """What is to be done next for a run; None when it is finished."""
    # Whoever finds a config.json finds its weights beside it.
    if not ((run.folder / "config.json").is_file() and (run.folder / "config.yaml").is_file()):
        return "train"
    return None if _read_report(run, config) else "evaluate"


def _read_report(run: PlannedRun, config: CompareConfig) -> dict[str, Any] | None:
    """The metrics.json of a run if it is of the model that is there and has what the comparison needs."""
    path, model = _scores_of(run, config) / "metrics.json", run.folder / "config.json"
    if not (path.is_file() and model.is_file()) or path.stat().st_mtime_ns < model.stat().st_mtime_ns:
        return None
    report = read_report(path)
    has_controls = set(run.controls) <= set(report.get("controls", {}))
    return report if report["header"]["data"] == str(config.test) and has_controls else None


def _read_reports(row: Row, config: CompareConfig) -> dict[int, dict[str, Any]]:
    reports = {seed: _read_report(run, config) for seed, run in row.items()}
    return {seed: report for seed, report in reports.items() if report is not None}


@dataclass(frozen=True)
class _Child:
    """A stage of a run under way in a process of its own."""

    run: PlannedRun
    stage: Stage
    process: subprocess.Popen[bytes]
    log: Path


def _command(run: PlannedRun, stage: Stage, config: CompareConfig) -> list[str]:
    words = [sys.executable, "-m", "steadydepth.cli", stage]
    if stage == "train":
        return [*words, "-c", str(config.out / "configs" / f"{run.name}.yaml")]
    controls = "--controls" if run.controls else "--no-controls"
    words += ["--model", str(run.folder), "--data", str(config.test), "--out", str(_scores_of(run, config))]
    return [*words, "--align", config.align, "--protocol", config.protocol, controls]


def _start(run: PlannedRun, stage: Stage, config: CompareConfig) -> _Child:
    log = config.out / "logs" / f"{run.name}.log"
    log.parent.mkdir(exist_ok=True)
    with new_file(config.out / "configs" / f"{run.name}.yaml") as part:
        part.write_text(dump_config(run.config))
    command = _command(run, stage, config)
    share = str(max((os.cpu_count() or 1) // config.jobs, 1))
    # Whoever sets the threads outside knows better.
    environment = {"OMP_NUM_THREADS": share, "OPENCV_FOR_THREADS_NUM": share} | os.environ
    with log.open("a") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        # The child inherits the lock of `alone_in`.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, close_fds=False
        )
    return _Child(run, stage, process, log)


def _carry_out(runs: list[PlannedRun], config: CompareConfig) -> dict[str, str]:
    """Do what is left of every run, `jobs` of them at a time; returns why those that failed did."""
    left = [run for run in runs if _next_stage(run, config) is not None]
    logger.info("%s: %d runs, %d finished before", config.out, len(runs), len(runs) - len(left))
    waiting, failed, active = deque(left), dict[str, str](), list[_Child]()
    with _telling(len(left)) as tell:
        try:
            while waiting or active:
                while waiting and len(active) < config.jobs:
                    run = waiting.popleft()
                    active.append(_start(run, _next_stage(run, config) or "evaluate", config))
                tell(active, len(left) - len(waiting) - len(active))
                time.sleep(LOOK_EVERY)
                for child in [child for child in active if child.process.poll() is not None]:
                    active.remove(child)
                    after = _next_stage(child.run, config)
                    if child.process.returncode or after == child.stage:
                        failed[child.run.name] = _why(child)
                        logger.error("%s failed: %s", child.run.name, failed[child.run.name])
                    elif after is not None:
                        active.append(_start(child.run, after, config))
            if left:
                tell(active, len(left))
        finally:
            _stop(active)
    return failed


def _why(child: _Child) -> str:
    """The last line that a failed process wrote, and where the others are."""
    lines = [line for line in child.log.read_text(errors="replace").splitlines() if line.strip()]
    return f"{child.stage}: exit status {child.process.returncode}: {lines[-1]} (see {child.log})"


def _stop(children: list[_Child]) -> None:
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def _steps_done(run: PlannedRun) -> int:
    """The step that a run logged last."""
    path = run.folder / "metrics.jsonl"
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 2000, 0))
        lines = file.read().split(b"\n")
    # After the last line break stands nothing, or a line that is being written.
    return json.loads(lines[-2])["step"] if len(lines) > 1 else 0


Tell = Callable[[list[_Child], int], None]


@contextmanager
def _telling(total: int) -> Iterator[Tell]:
    """How far the runs are: bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _tell_in_lines(total)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("runs", total=total)
        bars: dict[str, TaskID] = {}

        def tell(active: list[_Child], finished: int) -> None:
            progress.update(whole, completed=finished)
            names = {child.run.name for child in active}
            for name in [name for name in bars if name not in names]:
                progress.remove_task(bars.pop(name))
            for child in active:
                name, steps = child.run.name, child.run.config.optim.steps
                if name not in bars:
                    bars[name] = progress.add_task(name, total=steps)
                progress.update(bars[name], description=f"{name}: {child.stage}", completed=_steps_done(child.run))

        yield tell


def _tell_in_lines(total: int) -> Tell:
    """A line when what is under way changes, and one now and then about how far it is."""
    told: list[Any] = [None, 0.0]

    def tell(active: list[_Child], finished: int) -> None:
        state = [(child.run.name, child.stage) for child in active], finished
        if state == told[0] and time.monotonic() - told[1] < TELL_EVERY:
            return
        told[:] = state, time.monotonic()
        under_way = [
            f"{child.run.name}: {child.stage}"
            + (f", step {_steps_done(child.run)} of {child.run.config.optim.steps}" if child.stage == "train" else "")
            for child in active
        ]
        logger.info("%d of %d runs done; %s", finished, total, "; ".join(under_way) or "none under way")

    return tell
