"""Sums and counts from a part, a number from all parts: what every metric is made of.

A part is what one frame, one pair of frames or one clip adds. Parts of a metric are added with `+`, in any grouping,
and `result` makes the number, NaN where nothing was counted. Everything is float64, one number a method (m).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

from steadydepth.ops.moments import Moments

Numbers = Float64[np.ndarray, "..."]


@runtime_checkable
class Part(Protocol):
    """Something that can be added to its like, and comes to a number for each method."""

    def __add__(self, other: Any) -> "Part": ...

    def only(self, method: int) -> "Part":
        """What belongs to one method."""

    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""


Parts = Mapping[str, Part]


def merge(first: Parts, second: Parts) -> dict[str, Part]:
    """The parts of both; those of one name are added."""
    both = dict(first)
    for name, part in second.items():
        both[name] = both[name] + part if name in both else part
    return both


def _one(values: Numbers | float, method: int) -> Numbers:
    """The value of one method, where there is one for each."""
    array = np.asarray(values)
    return array if array.ndim == 0 or len(array) == 1 else array[[method]]


def _divide(total: Numbers, count: Numbers) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


@dataclass(frozen=True)
class Mean:
    """A total and what it is divided by: samples, frames or pairs, one number or one for each method."""

    total: Numbers
    count: Numbers | float

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def only(self, method: int) -> "Mean":
        """The part of one method alone."""
        return Mean(_one(self.total, method), _one(self.count, method))

    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""
        return _divide(self.total, np.asarray(self.count, np.float64))


@dataclass(frozen=True)
class Count:
    """How many there are, the same for all methods."""

    total: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.total + other.total)

    def only(self, method: int) -> "Count":
        """The part of one method alone."""
        return self

    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""
        return np.array(float(self.total))


@dataclass(frozen=True)
class Gain:
    """sum v v* / sum v*^2; NaN where v*, over `count` samples, is below `least` in its root mean square."""

    product: Numbers
    energy: float
    count: int
    least: float

    def __add__(self, other: "Gain") -> "Gain":
        both = self.product + other.product, self.energy + other.energy, self.count + other.count
        return Gain(*both, self.least)

    def only(self, method: int) -> "Gain":
        """The part of one method alone."""
        return Gain(_one(self.product, method), self.energy, self.count, self.least)

    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""
        changing = self.energy > self.least**2 * max(self.count, 1)
        return _divide(self.product, np.array(self.energy if changing else 0.0))


@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of each method with another row."""

    moments: Moments

    @classmethod
    def of(cls, values: Float64[np.ndarray, "m n"], other: Float64[np.ndarray, "n"]) -> "Correlation":
        """One part, of at least one pixel."""
        return cls(Moments.of(values, other))

    def __add__(self, other: "Correlation") -> "Correlation":
        return Correlation(self.moments + other.moments)

    def only(self, method: int) -> "Correlation":
        """The part of one method alone."""
        own = self.moments
        of_method = {name: _one(getattr(own, name), method) for name in ("x_mean", "xx", "xy")}
        return Correlation(replace(own, **of_method))

    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""
        own = self.moments
        # Rounding leaves a constant about 1e-16 of its size for a deviation: that is none.
        spread = np.asarray(own.xx > own.n * (1e-12 * own.x_mean) ** 2)
        if not own.yy > own.n * (1e-12 * own.y_mean) ** 2:
            spread = np.zeros_like(spread)
        both = np.sqrt(np.where(spread, own.xx * own.yy, 1))
        return np.where(spread, own.xy / both, np.nan)


@dataclass(frozen=True)
class PixelSeries:
    """A value over time at each of s pixels, of m methods: moments of value and frame number."""

    moments: Moments

    @classmethod
    def of(cls, t: int, values: Float64[np.ndarray, "m s"], valid: Bool[np.ndarray, "s"]) -> "PixelSeries":
        """The series of one frame alone, to be added to those of the others.

        Args:
            t: number of the frame, the time that slopes are measured in.
            values: log depth of each method at each pixel of the set; anything where not valid.
            valid: where the frame has a value.
        """
        known = values if valid.all() else np.where(valid, values, 0)
        nothing, count = np.zeros_like(values), valid.astype(np.float64)
        return cls(Moments(count, known, t * count, nothing, np.zeros(len(valid)), nothing))

    def __add__(self, other: "PixelSeries") -> "PixelSeries":
        return PixelSeries(self.moments + other.moments)

    def deviation(self) -> Float64[np.ndarray, "m s"]:
        """Population standard deviation of each pixel that has two values or more."""
        known = np.asarray(self.moments.n) >= 2
        return np.sqrt(np.asarray(self.moments.xx)[:, known] / np.asarray(self.moments.n)[known])

    def slope(self) -> Float64[np.ndarray, "m s"]:
        """Least-squares slope over time of each pixel that has two values or more."""
        known = np.asarray(self.moments.n) >= 2
        return np.asarray(self.moments.xy)[:, known] / np.asarray(self.moments.yy)[known]


def steady_results(series: PixelSeries, n_frames: int) -> dict[str, Numbers]:
    """tsd, tsd_p95 and drift of log depth at the pixels of the static set, over `n_frames`; NaN without a pixel."""
    deviation, slope = series.deviation(), series.slope()
    n_methods, n = deviation.shape
    if not n:
        return dict.fromkeys(("tsd", "tsd_p95", "drift"), np.full(n_methods, np.nan))
    return {
        "tsd": 100 * np.einsum("ms->m", deviation) / n,
        "tsd_p95": 100 * np.quantile(deviation, 0.95, axis=1),
        "drift": 100 * (n_frames - 1) * np.abs(np.einsum("ms->m", slope) / n),
    }
