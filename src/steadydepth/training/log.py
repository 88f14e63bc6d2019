"""What a run writes while it goes: lines of JSON, one file of losses and one of skipped steps."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steadydepth.config import DataConfig
from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import new_file
from steadydepth.files.damage import refuse_pipe
from steadydepth.files.writing import writing_in
from steadydepth.types import LossTerms

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG = "metrics.jsonl"
SKIPPED = "skipped.jsonl"
_LONGEST_LINES = 1 << 16  # bytes, of two lines


def read_log(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a log.

    Raises:
        InputError: a line is damaged, as one that was being written when the power went.
    """
    return [values for _, values in _read(path)]


def _read(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of a log, as text and as values; a run that is training or was interrupted may have begun one more."""
    found = []
    refuse_pipe(path)
    for number, line in enumerate(
        path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True), start=1
    ):
        if not line.endswith("\n"):
            break
        try:
            values = json.loads(line)
            found.append((line, values | {"step": int(values["step"])}))
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is damaged ({error}): delete that line") from error
    return found


def last_step(path: Path) -> int:
    """The step of the last complete line, read without the lines before it; 0 where there is none, or it is damaged."""
    if not path.is_file():
        return 0
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - _LONGEST_LINES, 0))
        lines = file.read().split(b"\n")
    # After the last line break stands nothing, or a line that is being written.
    try:
        return int(json.loads(lines[-2])["step"])
    except (ValueError, TypeError, LookupError):
        return 0


def keep_lines_until(path: Path, step: int) -> None:
    """Drop what an interrupted run wrote after its last checkpoint: those steps are taken again."""
    if not path.is_file():
        return
    kept = [line for line, values in _read(path) if values["step"] <= step]
    with writing_in(path.parent), new_file(path) as part:
        part.write_text("".join(kept), encoding="utf-8", newline="\n")


def add_line(path: Path, line: dict[str, Any]) -> None:
    """Append one line of JSON; a file that was not there begins with it."""
    with writing_in(path.parent), path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(line, allow_nan=False) + "\n")


class LossMeter:
    """Sums of the losses since the last line of the log, on the device: no step waits for them."""

    def __init__(self, data: DataConfig, device: torch.device) -> None:
        self.sources = data.sources  # those of a mixed run; else empty
        self.sums = torch.zeros(4, device=device)  # absolute, relative, target, steps
        self.of_sources = torch.zeros(len(data.all_sources()), 3, device=device)  # clips, absolute, relative

    def add(self, terms: LossTerms) -> None:
        """Count a step whose gradient was finite."""
        self.sums += torch.stack((terms.absolute, terms.relative, terms.target, torch.ones_like(terms.target)))
        for source, sums in terms.of_sources.items():
            self.of_sources[source] += sums

    def take(self, steps: int, accelerator: "Accelerator") -> dict[str, Any]:
        """Mean losses of the last `steps` over all processes, None where all were skipped; the sums begin anew."""
        sums, of_sources = (accelerator.reduce(one.clone(), reduction="sum") for one in (self.sums, self.of_sources))
        self.sums.zero_()
        self.of_sources.zero_()
        taken = round(float(sums[3])) // accelerator.num_processes
        absolute, relative, target = (sums[:3] / sums[3]).tolist() if taken else (None, None, None)
        found = {"absolute": absolute, "relative": relative, "target": target, "skipped": steps - taken}
        return found | ({"sources": self._means(of_sources.tolist())} if self.sources else {})

    def _means(self, sums: list[list[float]]) -> list[dict[str, Any]]:
        """The clips of each source since the last line, and the mean losses over them."""
        return [
            {
                "root": source.name,
                "clips": round(clips),
                "absolute": absolute / clips if clips and source.labels != "none" else None,
                "relative": relative / clips if clips and not source.single else None,
            }
            for source, (clips, absolute, relative) in zip(self.sources, sums, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of this process's sums, on the CPU: the first process has no part in other GPUs."""
        return {"sums": self.sums.cpu(), "of_sources": self.of_sources.cpu()}

    def add_state_dict(self, state: dict[str, Any]) -> None:
        """Add what `state_dict` of a process returned."""
        self.sums += state["sums"].to(self.sums.device)
        self.of_sources += state["of_sources"].to(self.sums.device)


def numbers_of(line: dict[str, Any]) -> dict[str, float | int]:
    """What of a line a tracker can draw."""
    flat = line | {f"validation/{name}": value for name, value in line.get("validation", {}).items()}
    return {name: value for name, value in flat.items() if isinstance(value, (int, float))}
