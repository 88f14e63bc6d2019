"""Runs that are planned together: where they live, how they are scored, and what of them is still to be done."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steadydepth.config import Config
from steadydepth.config_files import dump_config, mistakes_of
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import InputError
from steadydepth.evaluation.alignment import choose_alignment
from steadydepth.evaluation.stored_report import read_report
from steadydepth.metrics.protocols import choose_protocol
from steadydepth.models.declare import SIDECAR
from steadydepth.training.checkpoint import CHECKPOINT

Stage = Literal["train", "evaluate"]


@dataclass(frozen=True)
class PlannedRun:
    """One training and its evaluation; `name` is that of its folder, `controls` those that its evaluation must have."""

    name: str
    config: Config
    controls: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where the run lives."""
        return self.config.run.folder


def values_of(config: Config) -> dict[str, Any]:
    """Every value of a config by `section.key`, paths as text."""
    sections = config.model_dump(mode="json")
    return {f"{name}.{key}": value for name, section in sections.items() for key, value in section.items()}


@dataclass(frozen=True)
class Series:
    """Where runs live (`out`), what they are scored on (`data`) and how, and how many run at a time."""

    out: Path
    data: Path
    jobs: int
    align: str
    protocol: str


def scoring_mistakes(align: str, protocol: str) -> list[str]:
    """What is wrong with how runs are to be scored."""
    return mistakes_of((lambda: choose_alignment(align, "metric"), lambda: choose_protocol(protocol)))


def check_data(runs: list[PlannedRun], series: Series) -> None:
    """InputError where there are no sequences to train or to score on."""
    roots = (one.root for run in runs for one in run.config.data.all_sources() if one.root is not None)
    for root in dict.fromkeys((series.data, *roots)):
        find_sequences(root)


def refuse_other_runs(runs: list[PlannedRun]) -> None:
    """See that no other run lives in the folder of one of them.

    Raises:
        InputError: one does.
    """

    def has_other_config(run: PlannedRun) -> bool:
        path = run.folder / "config.yaml"
        has_begun = (run.folder / CHECKPOINT).is_file() or _model_of(run).is_file()
        return has_begun and path.is_file() and path.read_text(encoding="utf-8") != dump_config(run.config)

    other = [run.name for run in runs if has_other_config(run)]
    if other:
        raise InputError(
            f"{runs[0].folder.parent}: other runs live in {', '.join(other)} (see their config.yaml): "
            "choose another `out`, or delete those folders"
        )


def _model_of(run: PlannedRun) -> Path:
    """The file of a finished model that is written last: whoever finds it finds the weights beside it."""
    beside = run.folder / SIDECAR
    return beside if beside.is_file() else run.folder / "config.json"


def scores_of(run: PlannedRun, series: Series) -> Path:
    """The folder of a run's metrics.json: a folder of its own for every other alignment and protocol."""
    is_usual = (series.align, series.protocol) == ("auto", "plain")
    return run.folder if is_usual else run.folder / f"{series.protocol}-{series.align}"


def next_stage(run: PlannedRun, series: Series) -> Stage | None:
    """What is to be done next for a run; None when it is finished."""
    if not (_model_of(run).is_file() and (run.folder / "config.yaml").is_file()):
        return "train"
    return None if read_scores(run, series) else "evaluate"


def read_scores(run: PlannedRun, series: Series) -> dict[str, Any] | None:
    """The metrics.json of a run if it is of the model that is there and has the data and controls that are asked for.

    None where it is missing, older than the model, of other data, or of a filter.
    """
    path, model = scores_of(run, series) / "metrics.json", _model_of(run)
    if not (path.is_file() and model.is_file()) or path.stat().st_mtime_ns < model.stat().st_mtime_ns:
        return None
    report = read_report(path)
    has_controls = set(run.controls) <= set(report.get("controls", {}))
    is_raw = report["header"].get("filter", "none") == "none"
    return report if Path(report["header"]["data"]) == series.data and has_controls and is_raw else None
