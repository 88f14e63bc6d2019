"""Values of numeric keys that give the best metric: trials, each a run with its scores, one table, the best config."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import inf
from pathlib import Path
from typing import Any

from steadydepth.config import SearchConfig
from steadydepth.config_files import dump_config, load_search_config
from steadydepth.errors import InputError
from steadydepth.experiments.compare_table import check_alike, heading
from steadydepth.experiments.planned_runs import Series, check_data, read_scores
from steadydepth.experiments.runner import at_work_in, carry_out
from steadydepth.experiments.search_plan import PLAIN, Trial, Values, check_search, plan_runs, plan_trial, propose
from steadydepth.files.atomic_writes import write_json, write_text
from steadydepth.files.damage import reading
from steadydepth.training.validation import distance_from_best

FILE = "search.json"
BEST = "best.yaml"


def search(config: SearchConfig | str | Path) -> dict[str, Any]:
    """Try values of the keys of `ranges`, each in a run of its own.

    The first trial has the base's own values where they lie in their ranges; the others follow from the scores before
    and from the base's `run.seed`, so that an interrupted search ends as one that was not. A finished run is not
    repeated, and one that fails is named under `failed`. `out` gets a folder for each run, configs/, logs/, search.json
    and best.yaml: the config of the trial with the best `metric` among those within the limits of `keep`.

    Args:
        config: a search, or the path of its YAML file.

    Returns: the content of search.json.

    Raises:
        InputError: before anything starts, where the file does not fit or another search lives in `out`; later, where
            the plain run fails.
    """
    if not isinstance(config, SearchConfig):
        config = load_search_config(config)
    base = check_search(config)
    series = Series(config.out, config.validation, config.jobs, config.align, config.protocol)
    check_data(plan_runs([{}], config), series)
    with at_work_in(config.out):
        tried, failed = _tried_before(config), dict[str, str]()
        while True:
            runs = [run for run in plan_runs(tried, config) if run.name not in failed]
            failed |= carry_out(runs, series)
            if PLAIN in failed:
                raise InputError(f"{config.out}: the plain run, which others are measured by, failed: {failed[PLAIN]}")
            plain, trials = _measure(tried, config, series)
            result = _write(plain, trials, failed, config)
            if len(trials) >= config.trials:
                return result
            count = min(config.jobs, config.trials - len(trials))
            tried += propose(list(trials.values()), count, base=base, config=config)
            # Before they start: an interrupted search knows what it was about to try.
            _write(*_measure(tried, config, series), failed, config)


def _tried_before(config: SearchConfig) -> list[Values]:
    path = config.out / FILE
    if not path.is_file():
        return []
    ours = json.loads(config.model_dump_json())
    with reading(path, "as what a search wrote", "choose another `out`"):
        before = json.loads(path.read_text(encoding="utf-8"))
        other = [key for key in ours if before["config"][key] != ours[key] and key not in ("trials", "jobs")]
        tried = [trial["values"] for trial in before["trials"].values()]
    if other:
        raise InputError(f"{path}: another search lives there, with its own {', '.join(other)}: choose another `out`")
    return tried


def _measure(
    tried: Sequence[Values], config: SearchConfig, series: Series
) -> tuple[dict[str, float], dict[str, Trial]]:
    """The scores of the plain run, and the trials by the names of their runs.

    Raises:
        InputError: a run was scored otherwise than the plain one, or the clips do not give a metric.
    """
    reports = {run.name: read_scores(run, series) for run in plan_runs(tried, config)}
    check_alike({name: report for name, report in reports.items() if report is not None})
    scores = {name: {} if report is None else _scores(report, config) for name, report in reports.items()}
    plain = scores.pop(PLAIN, {})
    return plain, {
        name: Trial(values, found, _excess(found, plain, config) if found else {})
        for (name, found), values in zip(scores.items(), tried, strict=True)
    }


def _scores(report: Mapping[str, Any], config: SearchConfig) -> dict[str, float]:
    """Means of the metrics that a search looks at."""
    for metric in (wanted := (config.metric, *config.keep)):
        if report["mean"].get(metric) is None:
            raise InputError(f"{config.validation}: these clips give no {metric}: choose another metric")
    return {metric: report["mean"][metric] for metric in wanted}


def _excess(scores: Mapping[str, float], plain: Mapping[str, float], config: SearchConfig) -> dict[str, float]:
    """How much worse each metric is than allowed: the plain run's value and a share of it."""
    return {
        one: distance_from_best(one, scores[one]) - distance_from_best(one, plain[one]) - share * abs(plain[one])
        for one, share in config.keep.items()
    }


def _write(
    plain: Mapping[str, float], trials: Mapping[str, Trial], failed: Mapping[str, str], config: SearchConfig
) -> dict[str, Any]:
    """search.json and, where a trial holds what it must, best.yaml."""
    order = sorted(trials, key=lambda name: _rank(trials[name], config))
    best = order[0] if order and trials[order[0]].is_kept else None
    result = {
        "version": 1,
        "config": json.loads(config.model_dump_json()),
        "plain": dict(plain),
        "trials": {name: {**asdict(trial), "is_kept": trial.is_kept} for name, trial in trials.items()},
        "order": order,
        "best": best,
        "failed": dict(failed),
    }
    write_json(config.out / FILE, result)
    if best is not None:
        write_text(config.out / BEST, dump_config(plan_trial("best", trials[best].values, config).config))
    return result


def _rank(trial: Trial, config: SearchConfig) -> tuple[bool, float]:
    """Smaller is better: what holds what it must first, then by the metric."""
    distance = distance_from_best(config.metric, trial.scores[config.metric]) if trial.scores else inf
    return not trial.is_kept, distance


def markdown_table(result: Mapping[str, Any]) -> str:
    """The trials as Markdown, the best first."""
    metrics = [result["config"]["metric"], *result["config"]["keep"]]
    keys = list(result["config"]["ranges"])
    lines = [f"| | {' | '.join([*keys, *map(heading, metrics)])} | |", "| --- |" + " --- |" * (len(keys + metrics) + 1)]
    rows = {name: result["trials"][name] for name in result["order"]}
    if result["plain"]:
        rows[PLAIN] = {"values": {}, "scores": result["plain"], "is_kept": True}
    for name, row in rows.items():
        numbers = [row["values"].get(key) for key in keys] + [row["scores"].get(metric) for metric in metrics]
        cells = ["" if number is None else f"{number:.4g}" for number in numbers]
        note = "failed" if name in result["failed"] else "" if row["is_kept"] else "loses too much"
        lines.append(f"| {name} | {' | '.join(cells)} | {note} |")
    return "\n".join(lines)
