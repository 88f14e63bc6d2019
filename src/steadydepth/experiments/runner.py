"""Planned runs, each trained and scored in a process of its own, some at a time; what is finished is not repeated."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from steadydepth.config_files import dump_config
from steadydepth.experiments.planned_runs import PlannedRun, Series, Stage, next_stage, refuse_other_runs, scores_of
from steadydepth.files.atomic_writes import write_text
from steadydepth.training.lock import alone_in
from steadydepth.training.log import LOG, last_step

logger = logging.getLogger(__name__)

LOOK_EVERY = 0.2  # seconds between looks at the running processes
REPORT_EVERY = 60  # seconds between lines about them where there is no terminal
PATIENCE = 10  # seconds that a stopped run gets before it is killed

_KILL, _OWN_GROUP = signal.SIGTERM, 0  # the polite one, and what the process of a run is started with
if sys.platform == "win32":
    # It asks only groups of processes to stop, by Ctrl-Break; Ctrl-C does not reach a group of its own.
    _KILL, _OWN_GROUP = signal.SIGBREAK, subprocess.CREATE_NEW_PROCESS_GROUP


@contextmanager
def at_work_in(out: Path) -> Iterator[None]:
    """Hold `out` against others, and end the runs at a polite kill as Ctrl-C does; a run that outlives us holds it.

    It is created if need be. InputError where another process is at work in it.
    """
    with alone_in(out, with_children=True):
        if threading.current_thread() is not threading.main_thread():  # signals are for that alone
            yield
            return
        before = signal.signal(_KILL, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(_KILL, before)


@dataclass(frozen=True)
class _Child:
    """A stage of a run in a process of its own."""

    run: PlannedRun
    stage: Stage
    process: subprocess.Popen[bytes]
    log: Path


def _command(run: PlannedRun, stage: Stage, series: Series) -> list[str]:
    words = [sys.executable, "-m", "steadydepth", stage]
    if stage == "train":
        return [*words, "-c", str(series.out / "configs" / f"{run.name}.yaml")]
    controls = "--controls" if run.controls else "--no-controls"
    words += ["--model", str(run.folder), "--data", str(series.data), "--out", str(scores_of(run, series))]
    return [*words, "--align", series.align, "--protocol", series.protocol, controls]


def _start(run: PlannedRun, stage: Stage, series: Series) -> _Child:
    log = series.out / "logs" / f"{run.name}.log"
    log.parent.mkdir(exist_ok=True)
    write_text(series.out / "configs" / f"{run.name}.yaml", dump_config(run.config))
    command = _command(run, stage, series)
    share = str(max((os.cpu_count() or 1) // series.jobs, 1))
    # Whoever sets the threads outside knows better.
    environment = {"OMP_NUM_THREADS": share, "OPENCV_FOR_THREADS_NUM": share} | os.environ
    environment["PYTHONIOENCODING"] = "utf-8"  # Windows writes files in one that lacks most letters
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(command)}\n")
        file.flush()
        # The child inherits the lock of `alone_in`.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, env=environment, close_fds=False,
            creationflags=_OWN_GROUP,
        )  # fmt: skip
    return _Child(run, stage, process, log)


def carry_out(runs: list[PlannedRun], series: Series) -> dict[str, str]:
    """Do what is left of every run, `series.jobs` of them at a time.

    Returns: the reason by the name of each run that failed.

    Raises:
        InputError: before anything starts, where another run lives in the folder of one of them.
    """
    refuse_other_runs(runs)
    left = [(run, stage) for run in runs if (stage := next_stage(run, series)) is not None]
    logger.info("%s: %d runs, %d finished before", series.out, len(runs), len(runs) - len(left))
    waiting, failed, active = deque(left), dict[str, str](), list[_Child]()
    with _reporting(len(left)) as report:
        try:
            while waiting or active:
                while waiting and len(active) < series.jobs:
                    active.append(_start(*waiting.popleft(), series))
                report(active, len(left) - len(waiting) - len(active))
                time.sleep(LOOK_EVERY)
                for child in [child for child in active if child.process.poll() is not None]:
                    active.remove(child)
                    after = next_stage(child.run, series)
                    if child.process.returncode or after == child.stage:
                        failed[child.run.name] = _why(child)
                        logger.error("%s failed: %s", child.run.name, failed[child.run.name])
                    elif after is not None:
                        active.append(_start(child.run, after, series))
            if left:
                report(active, len(left))
        finally:
            _stop(active)
    return failed


def _why(child: _Child) -> str:
    """The last line that a failed process wrote, and where the others are."""
    lines = [line for line in child.log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return f"{child.stage}: exit status {child.process.returncode}: {lines[-1]} (see {child.log})"


def _stop(children: list[_Child]) -> None:
    for child in children:
        _ask_to_stop(child.process)
    for child in children:
        try:
            child.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()


def _ask_to_stop(process: subprocess.Popen[bytes]) -> None:
    """A polite kill, after which a training writes its checkpoint."""
    if sys.platform == "win32":
        with suppress(OSError):  # without a console there is none
            process.send_signal(signal.CTRL_BREAK_EVENT)
            return
    process.terminate()


Report = Callable[[list[_Child], int], None]


@contextmanager
def _reporting(total: int) -> Iterator[Report]:
    """How far the runs are: bars on a terminal, lines elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _report_in_lines(total)
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        all_runs = progress.add_task("runs", total=total)
        bars: dict[str, TaskID] = {}

        def report(active: list[_Child], finished: int) -> None:
            progress.update(all_runs, completed=finished)
            names = {child.run.name for child in active}
            for name in [name for name in bars if name not in names]:
                progress.remove_task(bars.pop(name))
            for child in active:
                name, steps = child.run.name, child.run.config.optim.steps
                if name not in bars:
                    bars[name] = progress.add_task(name, total=steps)
                progress.update(
                    bars[name], description=f"{name}: {child.stage}", completed=last_step(child.run.folder / LOG)
                )

        yield report


def _report_in_lines(total: int) -> Report:
    """A line when the running stages change, and one now and then about their steps."""
    last: list[Any] = [None, 0.0]  # what was reported, and when

    def report(active: list[_Child], finished: int) -> None:
        state = [(child.run.name, child.stage) for child in active], finished
        if state == last[0] and time.monotonic() - last[1] < REPORT_EVERY:
            return
        last[:] = state, time.monotonic()
        stages = []
        for child in active:
            stage = f"{child.run.name}: {child.stage}"
            if child.stage == "train":
                stage += f", step {last_step(child.run.folder / LOG)} of {child.run.config.optim.steps}"
            stages.append(stage)
        logger.info("%d of %d runs done; %s", finished, total, "; ".join(stages) or "none is running")

    return report
