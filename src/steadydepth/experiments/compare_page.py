"""A comparison as one self-contained page: its tables, and accuracy and edges against temporal consistency."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from steadydepth.experiments.compare_table import (
    BLURRED,
    CONSTANT,
    SHOWN,
    best_row,
    cell_text,
    constant_wins,
    frames_text,
    heading,
    is_blurred,
    row_label,
    same_row,
    table_rows,
)
from steadydepth.metrics.protocols import METRICS
from steadydepth.reports.charts import Point, plane_chart
from steadydepth.reports.page import render_template
from steadydepth.reports.run_charts import FLICKER

_TITLES = {"rows": "All clips", "rows_fixed": "Clips of a fixed camera", "rows_moving": "Clips of a moving camera"}
# Of each plane: what stands across, by the first of these that the data allows, and what upwards. How much a video
# flickers, how well it follows what moves, and how much of the flicker is lost to blur.
_PLANES = ((FLICKER, "abs_rel"), (("vel",), "abs_rel"), (FLICKER, "edge_gain"))


def render_comparison(result: Mapping[str, Any]) -> str:
    """The page of what `compare` returns; nothing in it is loaded from elsewhere."""
    from markupsafe import Markup

    return render_template(
        Path(__file__).with_name("compare.html.j2"),
        title=f"steadydepth compare: {Path(result['config']['out']).name}",
        facts={name: value for name, value in result["header"].items() if value is not None},
        plain=result["plain"],
        tables=[table for table in (_table(result, part, title) for part, title in _TITLES.items()) if table["rows"]],
        charts=[Markup(chart) for chart in _planes(result)],
        curve=result["config"]["curve"],
        failed=result["failed"],
        blurred=BLURRED,
    )


def _table(result: Mapping[str, Any], part: str, title: str) -> dict[str, Any]:
    rows = table_rows(result, part)
    shown = [metric for metric in SHOWN if best_row(metric, rows) is not None]
    best = {metric: best_row(metric, rows) for metric in shown}
    return {
        "title": title,
        "columns": [(heading(metric), METRICS[metric].unit, constant_wins(metric, rows)) for metric in shown],
        "rows": [
            {
                "name": row_label(name, row, result),
                "cells": [
                    _cell(row, metric) | {"is_best": best[metric] == name, "is_blurred": is_blurred(metric, row)}
                    for metric in shown
                ],
                "frames": frames_text(row),
            }
            for name, row in rows.items()
            if shown
        ],
    }


def _cell(row: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """Text of a cell, the ratio and verdict below it, and the interval that is shown when the pointer rests on it."""
    ratio, interval = row["ratio_to_plain"][metric], row["interval"][metric]
    verdict = row["versus_plain"].get(metric, {}).get("verdict")
    return {
        "text": cell_text(row, metric),
        "ratio": "" if ratio is None or verdict is None else f"{ratio:.3f}",
        "verdict": verdict if verdict in ("better", "worse") else "",
        "interval": "" if interval is None else f"95 % over clips: {interval[0]:.4g} to {interval[1]:.4g}",
    }


def _planes(result: Mapping[str, Any]) -> Iterator[str]:
    rows = table_rows(result)
    for choices, upwards in _PLANES:
        across = next((metric for metric in choices if best_row(metric, rows) is not None), None)
        if across is not None and (chart := _plane(result, rows, across, upwards)):
            yield chart


def _plane(result: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], across: str, upwards: str) -> str:
    methods = list(result["config"]["methods"])
    labels = {name: row_label(name, row, result) for name, row in rows.items()}
    points, far = [], []
    for name, row in rows.items():
        x, y = row["mean"][across], row["mean"][upwards]
        if x is None or y is None:
            continue
        if name == CONSTANT:
            far.append(Point(name, x, y, colour=len(methods), is_filled=False))
        else:
            colour = methods.index(name.partition(" + ")[0].partition("@")[0])
            points.append(Point(labels[name], x, y, colour=colour, is_filled=" + " not in name))
    joins = [[labels[name.partition(" + ")[0]], labels[name]] for name in rows if " + " in name]
    joins.append([labels[same_row(point, result)] for point in result["curve"]])
    return plane_chart(
        f"{upwards} against {across}",
        points,
        x_label=f"{across} ({METRICS[across].unit})",
        y_label=upwards,
        joins=joins,
        far=far,
    )
