"""What a run writes while it goes: lines of JSON, one file of losses and one of skipped steps."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from steadydepth.files.atomic_writes import new_file
from steadydepth.training.checkpoint import writing_in
from steadydepth.training.state import Run

LOG = "metrics.jsonl"
SKIPPED = "skipped.jsonl"


def whole_lines(path: Path) -> list[str]:
    """The lines of a log, each with its end; a run that is under way, or was cut, may have begun one more."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def keep_lines_until(path: Path, step: int) -> None:
    """Drop what a cut run wrote after its last checkpoint: those steps are taken again."""
    if not path.is_file():
        return
    kept = [line for line in whole_lines(path) if json.loads(line)["step"] <= step]
    with writing_in(path.parent), new_file(path) as part:
        part.write_text("".join(kept))


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON; a file that was not there begins with it."""
    with writing_in(path.parent), path.open("a") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


def line_of_losses(run: Run, *, steps: int, seconds: float) -> dict[str, Any]:
    """Mean losses of the last `steps`, over all clips and over those of each source; None where all were skipped."""
    sums, of_sources = run.take_sums()
    taken = round(float(sums[3])) // run.accelerator.num_processes
    absolute, relative, target = (sums[:3] / sums[3]).tolist() if taken else (None, None, None)
    line = {
        "step": run.step,
        "absolute": absolute,
        "relative": relative,
        "target": target,
        "skipped": steps - taken,
        "learning_rate": run.optimizer.param_groups[-1]["lr"],
        "seconds": round(seconds, 3),
    }
    return line | ({"sources": _of_sources(run, of_sources.tolist())} if run.config.data.sources else {})


def numbers_of(line: dict[str, Any]) -> dict[str, float | int]:
    """What of a line a tracker can draw."""
    flat = line | {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
    return {name: value for name, value in flat.items() if isinstance(value, (int, float))}


def _of_sources(run: Run, sums: list[list[float]]) -> list[dict[str, Any]]:
    """The clips of each source since the last line, and the mean losses over them."""
    return [
        {
            "root": str(source.root),
            "clips": round(clips),
            "absolute": absolute / clips if clips and source.labels != "none" else None,
            "relative": relative / clips if clips and not source.single else None,
        }
        for source, (clips, absolute, relative) in zip(run.config.data.sources, sums, strict=True)
    ]


def progress_bar(show: bool) -> Progress:
    """Steps done and to do, with the last losses; nothing where there is no terminal."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[losses]}"),
        console=console,
        disable=not (show and console.is_terminal),
    )
