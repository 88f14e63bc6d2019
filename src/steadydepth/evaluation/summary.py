"""Means over clips, the report that is written, and the table people compare methods by."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from steadydepth.metrics.protocols import EDGES, METRICS, MIN_SAMPLES, TEMPORAL, Protocol

Values = Mapping[str, float | int | None]

# The first columns of a comparison; everything else is in metrics.json.
HEADLINE = (
    "abs_rel", "delta1", "rmse", "abs_rel_static", "abs_rel_moving", "edge_gain", "boundary_f1", "tsd", "flicker",
    "drift", "sre", "vel", "gain", "acc", "rough", "ltg_static", "ltg_moving", "tae", "tae_static", "tcc", "opw",
    "rtc_1.01", "flicker_flow", "rough_flow", "log_depth_correlation", "edges_kept",
)  # fmt: skip
# A method with less than this share of the edges of the first one is marked: part of its consistency is blur.
LEAST_EDGES = 0.9


def mean_over_clips(clips: Iterable[Values]) -> dict[str, float | None]:
    """Unweighted mean of each metric over the clips that have it, and at least 100 samples of its set of pixels.

    A metric of all valid pixels, such as `abs_rel`, has no such set: each clip counts, however few they are. None where
    no clip has it.
    """
    clips = list(clips)
    return {name: _mean([clip.get(name) for clip in clips if is_counted(name, clip)]) for name in METRICS}


def is_counted(name: str, clip: Values) -> bool:
    """Whether `clip` has enough samples of the pixels of metric `name` to enter its mean."""
    counted_by = METRICS[name].counted_by
    return counted_by is None or (clip.get(counted_by) or 0) >= MIN_SAMPLES


def _mean(values: list[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(sum(known) / len(known)) if known else None


def table_of_clips(clips: Mapping[str, Values]) -> dict[str, Any]:
    """The clips of one method with their means: over all, over fixed cameras, over moving ones."""
    return {
        "mean": mean_over_clips(clips.values()),
        "mean_fixed": mean_over_clips(clip for clip in clips.values() if clip.get("fixed_camera") is True),
        "mean_moving": mean_over_clips(clip for clip in clips.values() if clip.get("fixed_camera") is False),
        "clips": dict(clips),
    }


@dataclass(frozen=True)
class ScoredClip:
    """What was found on one clip."""

    name: str
    methods: Mapping[str, Values]  # "model", and the controls by name
    label: Values
    facts: Mapping[str, Any]  # how it was scored: align, claims, fps, flow_source, split_source
    curves: Mapping[str, list[float | None]]
    lengths: Mapping[int | None, Values] = field(default_factory=dict)
    clipped: float = 0.0  # share of the pixels whose disparity the protocol raised before the fit
    times_label: float | None = None  # how many times the label predicted metres are, which nothing is fitted to
    lost_label: bool = False  # there are depth images, and no pixel of them counts


def build_report(
    records: Sequence[ScoredClip], failed: Mapping[str, str], *, data: str, protocol: Protocol
) -> dict[str, Any]:
    """The dict that becomes metrics.json: version, header, means, clips, label, failed, curves; controls, lengths.

    Args:
        records: of the clips that were scored, one or more.
        failed: why each of the others was not, by name.
        data: name of the data, for the header.
        protocol: that they were scored by.
    """
    tables = {
        method: table_of_clips({record.name: record.methods[method] for record in records})
        for method in records[0].methods
    }
    model = tables.pop("model")
    report = {
        "version": 1,
        "header": {"data": data} | _header(records, protocol) | {"n_failed": len(failed)},
        **model,
        "label": {record.name: dict(record.label) for record in records},
        "failed": dict(failed),
    }
    report |= {"controls": tables} if tables else {}
    report["curves"] = {record.name: dict(record.curves) for record in records}
    if lengths := records[0].lengths:
        report["lengths"] = {str(length or "all"): _of_length(records, length) for length in lengths}
    return report


def _of_length(records: Sequence[ScoredClip], length: int | None) -> dict[str, Any]:
    clips = {record.name: dict(record.lengths[length]) for record in records}
    mean = mean_over_clips(clips.values())
    return {"mean": {name: mean[name] for name in TEMPORAL}, "clips": clips}


def _header(records: Sequence[ScoredClip], protocol: Protocol) -> dict[str, Any]:
    clips = [record.methods["model"] for record in records]
    counts = ("n_frames", "n_skipped", "n_nonfinite", "n_static", "n_moving")
    return {
        **{name: _one_or_all(record.facts[name] for record in records) for name in records[0].facts},
        "protocol": protocol.name,
        "crop": protocol.crop,
        "dmin": protocol.dmin,
        "dmax": protocol.dmax,
        "max_depth": protocol.dmax,
        "n_clips": len(clips),
        **{name: sum(int(clip[name] or 0) for clip in clips) for name in counts},
        "scale": _span(clip["scale"] for clip in clips),
        "shift": _span(clip["shift"] for clip in clips),
        "steadydepth": version("steadydepth"),
    }


def _one_or_all(values: Iterable[Any]) -> Any:
    """What all clips agree on, or the list of what they have; None when no clip has it."""
    known = sorted({value for value in values if value is not None})
    return known[0] if len(known) == 1 else known or None


def _span(values: Iterable[float | None]) -> list[float] | None:
    known = [value for value in values if value is not None]
    return [min(known), max(known)] if known else None


def is_better(name: str, value: float | None, other: float | None) -> bool:
    """True when `value` beats `other` in metric `name`; never when either is missing.

    Args:
        name: a key of METRICS.
        value: of one method.
        other: of the other.
    """
    if value is None or other is None:
        return False
    better = METRICS[name].better
    if better == "nearer 1":
        return abs(value - 1) < abs(other - 1)
    return value > other if better == "higher" else value < other and better == "lower"


def best_of(metric: str, values: Values) -> str | None:
    """The name of the best of several values of a metric, the first of equal ones; None where there is none."""
    best: str | None = None
    for name, value in values.items():
        if value is not None and (best is None or is_better(metric, value, values[best])):
            best = name
    return best


def loses_edges(name: str, value: float | None, first: float | None) -> bool:
    """True when `value` of an edge metric is below LEAST_EDGES of the first method's; of 1 for `edges_kept`.

    Args:
        name: of a metric.
        value: of one method.
        first: of the first method.
    """
    if name not in EDGES or value is None or first is None:
        return False
    return value < LEAST_EDGES * (1 if name == "edges_kept" else max(first, 0))


def table_rows(reports: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """One row for each headline metric that any report has a mean of: metric, unit, better, a column for each report.

    `reports` maps the name of a column to a report of `evaluate`; the controls of the first report that has some
    follow as columns of their own. `best` names the best report; `note` says where the constant control beats every
    report, as such a metric alone proves nothing, and which columns lose the edges of the first one. A report with
    intervals has them beside its values.
    """
    columns = {name: report["mean"] for name, report in reports.items()}
    intervals = {name: report["interval"] for name, report in reports.items() if report.get("interval")}
    tables: Mapping[str, Any] = next((report["controls"] for report in reports.values() if report.get("controls")), {})
    controls: dict[str, Values] = {name: table["mean"] for name, table in tables.items()}
    rows = []
    for metric in HEADLINE:
        if any(column.get(metric) is not None for column in columns.values()):
            best = best_of(metric, {name: column.get(metric) for name, column in columns.items()})
            constant = controls.get("constant", {}).get(metric)
            notes = ["a constant wins"] if best and is_better(metric, constant, columns[best].get(metric)) else []
            notes += _lost_edges(metric, columns | controls)
            cells = {name: _cell(column.get(metric)) for name, column in (columns | controls).items()}
            for name, interval in intervals.items():
                cells[name] += interval_text(interval.get(metric))
            head = {"metric": metric, "unit": METRICS[metric].unit, "better": METRICS[metric].better}
            rows.append(head | cells | {"best": best or "", "note": "; ".join(notes)})
    return rows


def _lost_edges(metric: str, columns: Mapping[str, Values]) -> list[str]:
    """A note of the columns that have less than LEAST_EDGES of the first one's edges."""
    first = next(iter(columns))
    of_first = columns[first].get(metric)
    lost = [name for name, column in columns.items() if loses_edges(metric, column.get(metric), of_first)]
    whose = "the reference's" if metric == "edges_kept" else f"{first}'s"
    return [f"less than {LEAST_EDGES} of {whose} edges: {', '.join(lost)}"] if lost else []


def _cell(value: float | None, digits: int = 4) -> str:
    # What is this small in any of the units is the rounding of a sum that is 0.
    return "" if value is None else f"{0 if abs(value) < 1e-9 else value:.{digits}g}"


def interval_text(interval: Sequence[float] | None) -> str:
    """An interval as it stands after a value; nothing when there is none."""
    return "" if interval is None else f" [{_cell(interval[0], 3)}, {_cell(interval[1], 3)}]"
