"""How far a mean over clips can be trusted, and whether two reports differ by more than the choice of clips."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from steadydepth.errors import InputError
from steadydepth.evaluation.summary import HEADLINE, LEAST_EDGES, Values, is_better, is_counted, loses_edges
from steadydepth.metrics.protocols import METRICS

N_RESAMPLES = 2000
# Five clips that all agree are still one chance in sixteen (2 x 2^-5); six are one in thirty-two, below 5 %.
FEWEST_CLIPS = 6
# What must be the same before two means may be compared.
_SETTINGS = {"align": "--align", "protocol": "--protocol", "max_depth": "--max-depth"}

Tables = Mapping[str, Values]
Interval = list[float] | None


def _value_table(clips: Tables, order: Sequence[str]) -> Float64[np.ndarray, "c m"]:
    """A row for each clip in `order`, a column for each of METRICS; NaN where a clip does not enter the mean."""
    table = np.full((len(order), len(METRICS)), np.nan)
    for row, clip in enumerate(order):
        for column, name in enumerate(METRICS):
            value = clips[clip].get(name)
            if value is not None and is_counted(name, clips[clip]):
                table[row, column] = value
    return table


def bootstrap_intervals(
    values: Float64[np.ndarray, "c m"], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Float64[np.ndarray, "2 m"]:
    """Ends of the 95 % percentile interval of each column's mean over clips, clips drawn anew with replacement.

    NaN is a clip without a value: it is drawn like the others and left out of the mean, and a draw without any value is
    left out of the percentiles. NaN for a column with fewer than two values, which says nothing of the spread. The
    draws depend on `seed`, `n_resamples` and the number of clips alone: columns and calls share them.

    Args:
        values: a row for each clip, a column for each metric.
        n_resamples: draws.
        seed: of the draws.

    Returns: low and high ends.
    """
    n_clips = len(values)
    ends = np.full((2, values.shape[1]), np.nan)
    known = ~np.isnan(values)
    enough = known.sum(axis=0) >= 2
    if not enough.any():
        return ends
    # How often each clip is drawn: a multinomial is drawing with replacement, counted.
    drawn = np.random.default_rng(seed).multinomial(n_clips, np.full(n_clips, 1 / n_clips), size=n_resamples)
    weights = drawn.astype(np.float64) @ known[:, enough].astype(np.float64)
    sums = drawn.astype(np.float64) @ np.where(known, values, 0)[:, enough]
    means = np.where(weights > 0, sums / np.maximum(weights, 1), np.nan)
    ends[:, enough] = np.nanpercentile(means, [2.5, 97.5], axis=0)
    return ends


def add_intervals(report: Mapping[str, Any], *, n_resamples: int = N_RESAMPLES) -> dict[str, Any]:
    """A report of evaluate with `interval`, {metric: [low, high] or None}, for the model and each control.

    If there are clips of both kinds of camera, `interval_fixed` and `interval_moving` stand beside `mean_fixed` and
    `mean_moving`. The same `n_resamples` draws, noted in the header, serve model and controls; the order of the clips
    does not matter.
    """
    found = dict(report) | _intervals(report["clips"], n_resamples)
    found["header"] = dict(report["header"]) | {"n_resamples": n_resamples}
    if report.get("controls"):
        found["controls"] = {
            name: dict(table) | _intervals(table["clips"], n_resamples) for name, table in report["controls"].items()
        }
    return found


def _intervals(clips: Tables, n_resamples: int) -> dict[str, dict[str, Interval]]:
    """Of all clips and, where there are both, of fixed and of moving cameras, under the names of the report."""
    fixed = {name: clip for name, clip in clips.items() if clip.get("fixed_camera") is True}
    moving = {name: clip for name, clip in clips.items() if clip.get("fixed_camera") is False}
    tables = {"interval": clips} | ({"interval_fixed": fixed, "interval_moving": moving} if fixed and moving else {})
    found = {}
    for part, table in tables.items():
        ends = bootstrap_intervals(_value_table(table, sorted(table)), n_resamples=n_resamples)
        found[part] = {name: _interval(*ends[:, column]) for column, name in enumerate(METRICS)}
    return found


def _interval(low: float, high: float) -> Interval:
    return None if np.isnan(low) else [float(low), float(high)]


@dataclass(frozen=True)
class Difference:
    """One metric of two reports, over the clips in which both have a value."""

    metric: str
    n_clips: int
    mean: float
    other: float
    difference: float  # mean over clips of this one less the other; of |x - 1| where nearer 1 is better
    interval: Interval  # 95 % of `difference`, over clips; None with fewer than two
    ratio: float | None  # mean / other; None when other is 0
    n_better: int  # clips in which this one is better
    verdict: str  # better, worse, no difference found, or too few clips


@dataclass(frozen=True)
class Comparison:
    """Two reports on the same clips; the clips that only one of them has do not count."""

    shared: list[str]
    only_here: list[str]
    only_there: list[str]
    differences: dict[str, Difference]


def compare_reports(report: Mapping[str, Any], other: Mapping[str, Any]) -> Comparison:
    """`report` against `other`, clip by clip, for each metric that has a better direction and a value in both.

    Each clip is its own control: what makes a clip hard is the same for both, so the paired difference is known better
    than either mean. The verdict is "better" or "worse" when its interval leaves out 0.

    Raises:
        InputError: the two were scored differently, share no clip, or name different videos alike.
    """
    _refuse_other_settings(report["header"], other["header"])
    here, there = report["clips"], other["clips"]
    shared = sorted(set(here) & set(there))
    _refuse_other_data(here, there, shared)
    one, two = _value_table(here, shared), _value_table(there, shared)
    missing = np.isnan(one) | np.isnan(two)
    one, two = np.where(missing, np.nan, one), np.where(missing, np.nan, two)
    nearer = np.array([metric.better == "nearer 1" for metric in METRICS.values()])
    differences = np.where(nearer, np.abs(one - 1) - np.abs(two - 1), one - two)
    ends = bootstrap_intervals(differences)
    return Comparison(
        shared,
        sorted(set(here) - set(there)),
        sorted(set(there) - set(here)),
        {
            name: _difference(name, one[kept, i], two[kept, i], differences[kept, i], _interval(*ends[:, i]))
            for i, name in enumerate(METRICS)
            if METRICS[name].better != "-" and (kept := ~missing[:, i]).any()
        },
    )


def _difference(
    name: str,
    one: Float64[np.ndarray, "n"],
    two: Float64[np.ndarray, "n"],
    differences: Float64[np.ndarray, "n"],
    interval: Interval,
) -> Difference:
    mean, other = float(one.mean()), float(two.mean())
    return Difference(
        metric=name,
        n_clips=len(one),
        mean=mean,
        other=other,
        difference=float(differences.mean()),
        interval=interval,
        ratio=mean / other if other else None,
        n_better=sum(is_better(name, *pair) for pair in zip(one.tolist(), two.tolist(), strict=True)),
        verdict=_verdict(name, len(one), interval),
    )


def _verdict(name: str, n_clips: int, interval: Interval) -> str:
    if n_clips < FEWEST_CLIPS or interval is None:
        return "too few clips"
    low, high = interval
    if low <= 0 <= high:
        return "no difference found"
    return "better" if (low > 0) == (METRICS[name].better == "higher") else "worse"


def _refuse_other_settings(header: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    for name, option in _SETTINGS.items():
        here, there = header.get(name), other.get(name)
        if here != there:
            raise InputError(
                f"{name} is {here} in this report and {there} in the other: their means do not measure the same; "
                f"evaluate both with the same {option}"
            )


def _refuse_other_data(here: Tables, there: Tables, shared: list[str]) -> None:
    if not shared:
        raise InputError(
            f"the reports share 0 clips ({len(here)} here, such as {next(iter(here), 'none')}; {len(there)} in the "
            f"other, such as {next(iter(there), 'none')}): evaluate both on the same data"
        )
    for clip in shared:
        one, two = here[clip].get("n_frames"), there[clip].get("n_frames")
        if one != two:
            raise InputError(
                f"clip {clip} has {one} frames here and {two} in the other report: two videos of one name; evaluate "
                "both on the same data"
            )


def comparison_rows(comparison: Comparison) -> list[dict[str, str]]:
    """One row for each headline metric that was compared, as text, the columns in order."""
    rows = []
    for found in (comparison.differences[name] for name in HEADLINE if name in comparison.differences):
        rows.append(
            {
                "metric": found.metric,
                "unit": METRICS[found.metric].unit,
                "better": METRICS[found.metric].better,
                "this": f"{found.mean:.4g}",
                "other": f"{found.other:.4g}",
                "difference": f"{found.difference:+.3g}",
                "95 % interval": " to ".join(f"{end:+.3g}" for end in found.interval or ()),
                "ratio": "" if found.ratio is None else f"{found.ratio:.3f}",
                "better in": f"{found.n_better} of {found.n_clips}",
                "verdict": f"{found.verdict}, less than {LEAST_EDGES} of the other's edges"
                if loses_edges(found.metric, found.mean, found.other)
                else found.verdict,
            }
        )
    return rows
