"""The rows of a comparison: means and spread over seeds, intervals over clips, ratios to the first method."""

from collections.abc import Mapping
from math import floor, log10
from statistics import fmean, stdev
from typing import Any

from steadydepth.config import CompareConfig
from steadydepth.errors import InputError
from steadydepth.evaluation.bootstrap import add_intervals, compare_reports
from steadydepth.evaluation.summary import LEAST_EDGES, best_of, is_better, loses_edges
from steadydepth.experiments.compare_plan import filters_of, row_of_value
from steadydepth.metrics.protocols import METRICS

# The columns that are printed; compare.json has every metric.
SHOWN = (
    "abs_rel", "delta1", "edge_gain", "boundary_f1", "flicker", "tsd", "sre", "vel", "gain", "acc", "tae_static", "opw",
    "flicker_flow",
)  # fmt: skip
CONSTANT = "constant"
BLURRED = f"less than {LEAST_EDGES} of the first method's edges: part of its temporal consistency is blur"

Report = Mapping[str, Any]
Reports = Mapping[int, Report]  # by seed: what evaluate wrote, or one of its controls with the header

# What reports must agree on before their means stand in one table.
_SETTINGS = ("data", "align", "protocol", "max_depth", "n_clips", "n_frames")
# Part of the result: its means in a report, and the clips they are of, by whether their camera is fixed.
_PARTS = {"rows": ("mean", None), "rows_fixed": ("mean_fixed", True), "rows_moving": ("mean_moving", False)}


def build_comparison(
    methods: Mapping[str, Reports], curve: Mapping[str, Reports], *, config: CompareConfig, frames: Mapping[str, int]
) -> dict[str, Any]:
    """The dict that becomes compare.json: version, config, header, plain, rows, rows_fixed, rows_moving, curve.

    Args:
        methods: the reports of each method by seed; the first method is `plain`.
        curve: the same of each point of the curve, by the name of its row.
        config: of the comparison.
        frames: frames that a run of each row is trained on.

    Returns: a row for each method, for the filters of its predictions, and for the constant of the first method. A row
        without any report is left out. Its keys: `seeds`, the means over clips of each seed; `mean` and `std` of those,
        the sample standard deviation; `interval`, 95 % of the mean over the choice of clips, seeds averaged;
        `ratio_to_plain` and `versus_plain`, over the seeds that both have, the latter paired by clip. A value is None
        where a metric does not apply.

    Raises:
        InputError: two runs were scored on other clips or with other settings.
    """
    rows = {**methods, **curve}
    check_alike({f"{row}-{seed}": report for row, reports in rows.items() for seed, report in reports.items()})
    first = next(iter(methods))
    plain, frames_of_plain = methods[first], frames[first]
    tables: list[tuple[str, Reports, int]] = []
    for name, reports in methods.items():
        tables.append((name, reports, frames[name]))
        for one in filters_of(name, config):
            tables.append((f"{name} + {one}", _control(reports, one), frames[name]))
    tables.append((CONSTANT, _control(plain, CONSTANT), frames_of_plain))
    result: dict[str, Any] = {
        "version": 1,
        "config": config.model_dump(mode="json"),
        "header": _header(rows),
        "plain": first,
    }
    for part, (means, is_fixed) in _PARTS.items():
        result[part] = {
            row: _row(of_row, plain, means, is_fixed) | _budget(n_frames, frames_of_plain)
            for row, of_row, n_frames in tables
            if of_row
        }
    values = {} if config.curve is None else {row_of_value(config.curve.method, v): v for v in config.curve.values}
    result["curve"] = [
        {"row": row, "value": value} | _row(curve[row], plain, "mean", None) | _budget(frames[row], frames_of_plain)
        for row, value in values.items()
        if curve[row]
    ]
    return result


def _control(reports: Reports, name: str) -> Reports:
    return {seed: {"header": report["header"], **report["controls"][name]} for seed, report in reports.items()}


def _header(rows: Mapping[str, Reports]) -> dict[str, Any]:
    found: Mapping[str, Any] = next((one["header"] for reports in rows.values() for one in reports.values()), {})
    return {name: found.get(name) for name in (*_SETTINGS, "fps", "steadydepth")}


def check_alike(reports: Mapping[str, Report]) -> None:
    """See that runs were scored on the same clips and with the same settings, whoever evaluated them.

    Args:
        reports: what evaluate wrote, by the names of the runs; the others are held to the first.

    Raises:
        InputError: one was not.
    """
    first: Mapping[str, Any] = next((report["header"] for report in reports.values()), {})
    for run, report in reports.items():
        for name in _SETTINGS:
            if (here := report["header"].get(name)) != (expected := first.get(name)):
                raise InputError(
                    f"{run}: was scored with {name} {here}, the others with {expected}: delete the metrics.json that "
                    "is wrong, and call again"
                )


def _budget(n_frames: int, of_plain: int) -> dict[str, Any]:
    return {"frames_trained_on": n_frames, "other_budget": n_frames != of_plain}


def _row(reports: Reports, plain: Reports, means: str, is_fixed: bool | None) -> dict[str, Any]:
    seeds = {str(seed): {name: _mean_of(report, means, name) for name in METRICS} for seed, report in reports.items()}
    known = {name: [value for of in seeds.values() if (value := of[name]) is not None] for name in METRICS}
    shared = [seed for seed in reports if seed in plain]
    ours, theirs = (_mean_over_seeds({seed: one[seed] for seed in shared}, is_fixed) for one in (reports, plain))
    both = ours["clips"] and theirs["clips"] and reports is not plain
    return {
        "seeds": seeds,
        "mean": {name: fmean(values) if values else None for name, values in known.items()},
        "std": {name: stdev(values) if len(values) > 1 else None for name, values in known.items()},
        "interval": add_intervals(_mean_over_seeds(reports, is_fixed))["interval"],
        "ratio_to_plain": {name: _ratio(name, reports, plain, means) for name in METRICS},
        "versus_plain": _versus(ours, theirs) if both else {},
    }


def _mean_of(report: Report, means: str, name: str) -> float | None:
    """A mean of a report; None too where another program wrote it, without means of fixed and moving cameras."""
    value: float | None = (report.get(means) or {}).get(name)
    return value


def _ratio(name: str, reports: Reports, plain: Reports, means: str) -> float | None:
    """Mean over seeds divided by plain's, over the seeds in which both have a value; None where plain's is 0."""
    pairs = [[_mean_of(one[seed], means, name) for one in (reports, plain)] for seed in reports if seed in plain]
    known = [(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None]
    theirs = sum(pair[1] for pair in known)
    return sum(pair[0] for pair in known) / theirs if theirs else None


def _mean_over_seeds(reports: Reports, is_fixed: bool | None) -> dict[str, Any]:
    """A report whose value of each clip is the mean over seeds, over the clips of fixed or moving cameras or all."""
    chosen: dict[str, list[Mapping[str, Any]]] = {}
    for report in reports.values():
        for clip, values in report["clips"].items():
            if is_fixed is None or values.get("fixed_camera") is is_fixed:
                chosen.setdefault(clip, []).append(values)
    clips = {
        clip: {name: _mean_known(name, of_seeds) for name in of_seeds[0] if name in METRICS or name.startswith("n_")}
        for clip, of_seeds in chosen.items()
    }
    return {"header": next((report["header"] for report in reports.values()), {}), "clips": clips}


def _mean_known(name: str, of_seeds: list[Mapping[str, Any]]) -> float | None:
    known = [values[name] for values in of_seeds if values.get(name) is not None]
    return fmean(known) if known else None


def _versus(ours: Report, theirs: Report) -> dict[str, Any]:
    found = compare_reports(ours, theirs).differences
    return {
        name: {
            "difference": one.difference,
            "interval": one.interval,
            "better_in_clips": [one.n_better, one.n_clips],
            "verdict": one.verdict,
        }
        for name, one in found.items()
    }


def same_row(point: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The method that is made of the same runs as a point of the curve; the point's own row when none is."""
    methods = [row for row in result["config"]["methods"] if row in result["rows"]]
    return next((row for row in methods if result["rows"][row]["seeds"] == point["seeds"]), point["row"])


def row_label(name: str, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The name of a row, with its number of seeds where it is not that of the comparison.

    Args:
        name: of the method.
        row: of the table.
        result: all of compare.json.
    """
    n_seeds = len(row["seeds"])
    return name if n_seeds == len(result["config"]["seeds"]) else f"{name} ({n_seeds} seed{'s' * (n_seeds > 1)})"


def table_rows(result: Mapping[str, Any], part: str = "rows") -> dict[str, Mapping[str, Any]]:
    """The rows of a part; those of all clips with the points of the curve that are not among them already."""
    points = {same_row(point, result): point for point in result["curve"]} if part == "rows" else {}
    return result[part] | {name: point for name, point in points.items() if name not in result[part]}


def best_row(metric: str, rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The row with the best mean, of those with the most seeds.

    The constant, which wins some metrics knowing nothing, stands aside.
    """
    most = max((len(row["seeds"]) for row in rows.values()), default=0)
    enough = {name: row for name, row in rows.items() if len(row["seeds"]) == most and name != CONSTANT}
    return best_of(metric, {name: row["mean"][metric] for name, row in enough.items()})


def constant_wins(metric: str, rows: Mapping[str, Mapping[str, Any]]) -> bool:
    """True where the constant beats every row: the metric alone proves nothing."""
    best = best_row(metric, rows)
    return (
        best is not None
        and CONSTANT in rows
        and is_better(metric, *(rows[n]["mean"][metric] for n in (CONSTANT, best)))
    )


def is_blurred(metric: str, row: Mapping[str, Any]) -> bool:
    """True where a row has less than 0.9 of the first method's edges, so that part of its consistency is blur.

    Over the seeds that both have.
    """
    ratio = row["ratio_to_plain"].get(metric)
    return ratio is not None and loses_edges(metric, ratio, 1.0)


def cell_text(row: Mapping[str, Any], metric: str) -> str:
    """Mean ± standard deviation over seeds, to the second digit of the deviation at most; empty where there is none."""
    value, spread = row["mean"][metric], row["std"][metric]
    if value is None:
        return ""
    # What rounding leaves of a spread, or of a constant's change, is none.
    if not spread or spread < 1e-6 * abs(value) or abs(value) + spread < 1e-9:
        return f"{0 if abs(value) < 1e-9 else value:.4g}"
    decimals = min(max(1 - floor(log10(spread)), 0), 4)
    return f"{value:.{decimals}f} ± {spread:.{decimals}f}"


def heading(metric: str) -> str:
    """A metric with the direction that is better."""
    return f"{metric} {({'lower': '↓', 'higher': '↑', 'nearer 1': '→1'})[METRICS[metric].better]}"


def markdown_table(result: Mapping[str, Any]) -> str:
    """The rows over all clips and the ratios of the methods to the first, as Markdown; the best of a column in bold."""
    rows = table_rows(result)
    shown = [metric for metric in SHOWN if best_row(metric, rows) is not None]
    marks = {metric: " †" if constant_wins(metric, rows) else "" for metric in shown}
    lines = ["| | " + " | ".join(f"{heading(metric)}{marks[metric]}" for metric in shown) + " | training frames |"]
    lines += ["| --- |" + " --- |" * (len(shown) + 1)]
    for name, row in rows.items():
        cells = [f"{cell_text(row, metric)}{' ‡' if is_blurred(metric, row) else ''}" for metric in shown]
        cells = [
            f"**{cell}**" if best_row(metric, rows) == name else cell for metric, cell in zip(shown, cells, strict=True)
        ]
        lines.append(f"| {row_label(name, row, result)} | {' | '.join(cells)} | {frames_text(row)} |")
    for name in (name for name in result["config"]["methods"] if name != result["plain"] and name in rows):
        ratios = (rows[name]["ratio_to_plain"][metric] for metric in shown)
        lines.append(
            f"| {name} / {result['plain']} | {' | '.join('' if r is None else f'{r:.3f}' for r in ratios)} | |"
        )
    notes = {"†": "a constant depth does better still: the metric alone proves nothing", "‡": BLURRED}
    used = [f"{mark} {note}" for mark, note in notes.items() if any(mark in line for line in lines)]
    if used:
        lines += ["", "; ".join(used)]
    return "\n".join(lines)


def frames_text(row: Mapping[str, Any]) -> str:
    """Frames that a run learns from, marked where they are not as many as the first method's."""
    return f"{row['frames_trained_on']}{' (other budget)' if row['other_budget'] else ''}"
