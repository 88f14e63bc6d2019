"""Several methods from one start, on one data order, for one budget: their runs, one table, one page."""

from pathlib import Path
from typing import Any

from steadydepth.config import CompareConfig
from steadydepth.config_files import load_compare_config
from steadydepth.experiments.compare_page import render_comparison
from steadydepth.experiments.compare_plan import Row, frames_trained_on, plan_runs
from steadydepth.experiments.compare_table import build_comparison
from steadydepth.experiments.planned_runs import Series, check_data, read_scores
from steadydepth.experiments.runner import at_work_in, carry_out
from steadydepth.files.atomic_writes import write_json, write_text


def compare(config: CompareConfig | str | Path) -> dict[str, Any]:
    """Train and evaluate every method with every seed, each in a process of its own.

    A finished run is not repeated, an interrupted one resumes, and one that fails is named under `failed` while the
    others continue. `out` gets a folder for each run, configs/, logs/, compare.json and compare.html.

    Args:
        config: a comparison, or the path of its YAML file.

    Returns: the content of compare.json.

    Raises:
        InputError: before anything starts, where the methods differ in more than methods may, or another comparison
            lives in `out`.
    """
    if not isinstance(config, CompareConfig):
        config = load_compare_config(config)
    plan = plan_runs(config)
    runs = plan.runs()
    series = Series(config.out, config.test, config.jobs, config.align, config.protocol)
    check_data(runs, series)
    with at_work_in(config.out):
        failed = carry_out(runs, series)
        result = build_comparison(
            {name: _read_reports(row, series) for name, row in plan.methods.items()},
            {name: _read_reports(row, series) for name, row in plan.curve.items()},
            config=config,
            frames={name: frames_trained_on(row) for name, row in (plan.methods | plan.curve).items()},
        )
        result["failed"] = failed
        write_json(config.out / "compare.json", result)
        write_text(config.out / "compare.html", render_comparison(result))
    return result


def _read_reports(row: Row, series: Series) -> dict[int, dict[str, Any]]:
    reports = {seed: read_scores(run, series) for seed, run in row.items()}
    return {seed: report for seed, report in reports.items() if report is not None}
