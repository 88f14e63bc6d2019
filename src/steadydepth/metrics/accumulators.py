"""Sums and counts from a part, a number from all parts: what every metric is made of.

A part is what one frame, one pair of frames or one clip adds. Parts of a metric are added with `+`, in any grouping,
and `result` makes the number, NaN where nothing was counted. Everything is float64, one number a method (m).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from steadydepth.ops.moments import Moments

Numbers = Float64[np.ndarray, "..."]


@dataclass(frozen=True)
class Part(ABC):
    """Sums that can be added to those of its like, each one number or one for each method, and come to a number."""

    def __add__(self, other: Any) -> Any:
        return replace(self, **{name: value + getattr(other, name) for name, value in vars(self).items()})

    def only(self, method: int) -> Any:
        """The part of one method alone."""
        return replace(self, **{name: _one(value, method) for name, value in vars(self).items()})

    @abstractmethod
    def result(self) -> Numbers:
        """What the sums come to, one number or one for each method; NaN where nothing was counted."""


Parts = Mapping[str, Part]


def merge(first: Parts, second: Parts) -> dict[str, Part]:
    """The parts of both; those of one name are added."""
    both = dict(first)
    for name, part in second.items():
        both[name] = both[name] + part if name in both else part
    return both


def no_means(*names: str) -> dict[str, Part]:
    """Means of nothing under those names, to which parts are added."""
    return {name: Mean(np.zeros(1), 0.0) for name in names}


def _one(values: Any, method: int) -> Any:
    """The value of one method, where there is one for each."""
    return values if np.ndim(values) == 0 or len(values) == 1 else values[[method]]


def _divide(total: Numbers, count: Numbers) -> Numbers:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


@dataclass(frozen=True)
class Mean(Part):
    """A total and what it is divided by: samples, frames or pairs, one number or one for each method."""

    total: Numbers
    count: Numbers | float

    def result(self) -> Numbers:
        """The total over the count; NaN where nothing was counted."""
        return _divide(self.total, np.asarray(self.count, np.float64))


@dataclass(frozen=True)
class Count(Part):
    """How many there are, the same for all methods."""

    total: int

    def result(self) -> Numbers:
        """The number for all methods."""
        return np.array(float(self.total))


@dataclass(frozen=True)
class Gain(Part):
    """sum v v* / sum v*^2; NaN where v*, over `count` samples, is below `least` in its root mean square."""

    product: Numbers
    energy: float
    count: int
    least: float

    def __add__(self, other: Any) -> Any:
        return replace(super().__add__(other), least=self.least)

    def result(self) -> Numbers:
        """The gain of each method."""
        changing = self.energy > self.least**2 * max(self.count, 1)
        return _divide(self.product, np.array(self.energy if changing else 0.0))


@dataclass(frozen=True)
class Correlation(Part):
    """Pearson correlation of each method with another row."""

    moments: Moments

    @classmethod
    def of(cls, values: Float64[np.ndarray, "m n"], other: Float64[np.ndarray, "n"]) -> "Correlation":
        """One part, of at least one pixel."""
        return cls(Moments.of(values, other))

    def only(self, method: int) -> Any:
        """The part of one method alone."""
        own = self.moments
        of_method = {name: _one(getattr(own, name), method) for name in ("x_mean", "xx", "xy")}
        return replace(self, moments=replace(own, **of_method))

    def result(self) -> Numbers:
        """The correlation of each method; NaN where it or the other row is constant."""
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


def steady_results(series: PixelSeries, n_frames: int) -> dict[str, Numbers]:
    """tsd, tsd_p95 and drift of log depth at the pixels of the static set, over `n_frames`; NaN without a pixel."""
    count, xx, xy, yy = (np.asarray(getattr(series.moments, name)) for name in ("n", "xx", "xy", "yy"))
    known = count >= 2
    # Of each pixel that has two values or more: population standard deviation, and least-squares slope over time.
    deviation, slope = np.sqrt(xx[:, known] / count[known]), xy[:, known] / yy[known]
    n_methods, n = deviation.shape
    if not n:
        return dict.fromkeys(("tsd", "tsd_p95", "drift"), np.full(n_methods, np.nan))
    return {
        "tsd": 100 * np.einsum("ms->m", deviation) / n,
        "tsd_p95": 100 * np.quantile(deviation, 0.95, axis=1),
        "drift": 100 * (n_frames - 1) * np.abs(np.einsum("ms->m", slope) / n),
    }
