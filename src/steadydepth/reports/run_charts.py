"""Charts of finished evaluations, from what their metrics.json hold."""

from collections.abc import Mapping
from typing import Any

from steadydepth.metrics.protocols import METRICS
from steadydepth.reports.charts import Line, Point, line_chart, plane_chart

Reports = Mapping[str, Mapping[str, Any]]

# What the axis of temporal consistency may be, in this order; the last one needs no label.
FLICKER = ("flicker", "sre", "flicker_flow")
# Chart titles of the curves of a clip.
_NAMES = {
    "abs_rel": "error of each frame",
    "flicker": "change of static depth, frame to frame",
    "sre": "static rigid error, frame to frame",
    "flicker_flow": "change of depth along flow, frame to frame",
}


def _axis(metric: str) -> str:
    return f"{metric}, {METRICS[metric].unit}"


def draw_planes(reports: Reports) -> list[str]:
    """Accuracy against temporal consistency: a chart for each of flicker and sre that is known, else for flicker_flow.

    And a chart of the edges against the first of these, where the labels have edges. Every report with a value is a
    point and so are its controls, joined with it. The constant is the same for all of them up to the mean of what they
    predicted: that of the first report that has one is shown.
    """
    known = [metric for metric in FLICKER if _plane(reports, metric, "abs_rel")]
    planes = [(metric, "abs_rel") for metric in known if metric != FLICKER[2]] or [(one, "abs_rel") for one in known]
    planes += [(known[0], "edge_gain")] if known else []
    return [chart for across, upwards in planes if (chart := _plane(reports, across, upwards))]


def _plane(reports: Reports, across: str, upwards: str) -> str:
    """Means of `upwards` over those of `across`; the empty text where no report has both."""
    axes = across, upwards
    points: list[Point] = []
    far: list[Point] = []
    joins: list[tuple[str, str]] = []
    for colour, (name, report) in enumerate(reports.items()):
        if (point := _point(name, report["mean"], axes, colour)) is None:
            continue
        points.append(point)
        for control, table in (report.get("controls") or {}).items():
            if control == "constant":
                flat = _point("constant", table["mean"], axes, colour, is_filled=False)
                far += [flat] if flat is not None and not far else []
            elif (filtered := _point(f"{name} + {control}", table["mean"], axes, colour, is_filled=False)) is not None:
                points.append(filtered)
                joins.append((name, filtered.name))
    title = f"{'accuracy' if upwards == 'abs_rel' else 'edges'} and {across}"
    return plane_chart(title, points, joins=joins, far=far, x_label=_axis(across), y_label=_axis(upwards))


def _point(
    name: str, mean: Mapping[str, float | None], axes: tuple[str, str], colour: int, *, is_filled: bool = True
) -> Point | None:
    x, y = map(mean.get, axes)
    return None if x is None or y is None else Point(name, x, y, colour, is_filled)


def draw_clip(name: str, reports: Reports) -> list[str]:
    """Error of each frame and change of each pair of frames in the clip `name`, a line for each report with curves."""
    all_curves = {one: (report.get("curves") or {}).get(name) or {} for one, report in reports.items()}

    def draw(metric: str) -> str:
        curves = {one: curve.get(metric) or [] for one, curve in all_curves.items()}
        known = {one: curve for one, curve in curves.items() if any(value is not None for value in curve)}
        lines = [Line(one, range(len(curve)), curve) for one, curve in known.items()]
        return line_chart(_NAMES[metric], lines, x_label="frame", y_label=_axis(metric))

    return [chart for chart in (draw("abs_rel"), next(filter(None, map(draw, FLICKER)), "")) if chart]
