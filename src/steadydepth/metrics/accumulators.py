"""Sums and counts from a part, a number from all parts: what every metric is made of.

A part is what one frame, one pair of frames or one clip adds. Parts of a metric are added with `+`, in any grouping,
and `result` makes the number, NaN where nothing was counted. Everything is float64, one number a method (m).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float64

Numbers = Float64[np.ndarray, "..."]


@runtime_checkable
class Part(Protocol):
    """Something that can be added to its like, and comes to a number for each method."""

    def __add__(self, other: Any) -> "Part": ...

    def only(self, method: int) -> "Part":
        """What belongs to one method."""

    def result(self) -> Numbers: ...


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
        return Mean(_one(self.total, method), _one(self.count, method))

    def result(self) -> Numbers:
        return _divide(self.total, np.asarray(self.count, np.float64))


@dataclass(frozen=True)
class Count:
    """How many there are, the same for all methods."""

    total: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.total + other.total)

    def only(self, method: int) -> "Count":
        return self

    def result(self) -> Numbers:
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
        return Gain(_one(self.product, method), self.energy, self.count, self.least)

    def result(self) -> Numbers:
        changing = self.energy > self.least**2 * max(self.count, 1)
        return _divide(self.product, np.array(self.energy if changing else 0.0))


@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of each method with another row, from means and centred second moments."""

    n: int
    mean: Numbers
    other_mean: float
    square: Numbers
    other_square: float
    product: Numbers

    @classmethod
    def of(cls, values: Float64[np.ndarray, "m n"], other: Float64[np.ndarray, "n"]) -> "Correlation":
        """The moments of one part, of at least one pixel."""
        mean, other_mean = np.einsum("mn->m", values) / len(other), float(other.mean())
        own, beside = values - mean[:, None], other - other_mean
        return cls(
            n=len(other),
            mean=mean,
            other_mean=other_mean,
            square=np.einsum("mn,mn->m", own, own),
            other_square=float(np.einsum("n,n->", beside, beside)),
            product=np.einsum("mn,n->m", own, beside),
        )

    def __add__(self, other: "Correlation") -> "Correlation":
        n = self.n + other.n
        away, other_away = other.mean - self.mean, other.other_mean - self.other_mean
        weight = self.n * other.n / n
        return Correlation(
            n=n,
            mean=self.mean + away * (other.n / n),
            other_mean=self.other_mean + other_away * (other.n / n),
            square=self.square + other.square + away**2 * weight,
            other_square=self.other_square + other.other_square + other_away**2 * weight,
            product=self.product + other.product + away * other_away * weight,
        )

    def only(self, method: int) -> "Correlation":
        return replace(
            self, mean=_one(self.mean, method), square=_one(self.square, method), product=_one(self.product, method)
        )

    def result(self) -> Numbers:
        # Rounding leaves a constant about 1e-16 of its size for a deviation: that is none.
        spread = self.square > self.n * (1e-12 * self.mean) ** 2
        if not self.other_square > self.n * (1e-12 * self.other_mean) ** 2:
            spread = np.zeros_like(spread)
        both = np.sqrt(np.where(spread, self.square * self.other_square, 1))
        return np.where(spread, self.product / both, np.nan)


@dataclass(frozen=True)
class PixelSeries:
    """A value over time at each of s pixels: how often it was there, its mean, its spread and its slope.

    Running means and centred second moments (Welford; Chan et al. 1979 for the sum of two), so no digits are lost.
    """

    count: Float64[np.ndarray, "s"]
    time: Float64[np.ndarray, "s"]  # mean of the frame numbers where there was a value
    time_square: Float64[np.ndarray, "s"]
    mean: Float64[np.ndarray, "m s"]
    square: Float64[np.ndarray, "m s"]
    product: Float64[np.ndarray, "m s"]  # of time and value

    @classmethod
    def of(cls, t: int, values: Float64[np.ndarray, "m s"], valid: Bool[np.ndarray, "s"]) -> "PixelSeries":
        """One frame."""
        known = values if valid.all() else np.where(valid, values, 0)
        nothing, times = np.zeros_like(values), np.full(len(valid), float(t))
        return cls(valid.astype(np.float64), times, np.zeros(len(valid)), known, nothing, nothing)

    def __add__(self, other: "PixelSeries") -> "PixelSeries":
        count = self.count + other.count
        safe = np.maximum(count, 1)
        share, weight = other.count / safe, self.count * other.count / safe
        # Where one side has nothing its mean is not a value: the other's is taken over whole.
        later = np.where(self.count > 0, other.time - self.time, 0)
        away = other.mean - self.mean
        weighted = away * weight
        first = self.count == 0
        return PixelSeries(
            count=count,
            time=np.where(first, other.time, self.time + later * share),
            time_square=self.time_square + other.time_square + later**2 * weight,
            mean=self.mean + away * share,
            square=self.square + other.square + weighted * away,
            product=self.product + other.product + weighted * later,
        )

    def deviation(self) -> Float64[np.ndarray, "m s"]:
        """Population standard deviation of each pixel that has two values or more."""
        known = self.count >= 2
        return np.sqrt(self.square[:, known] / self.count[known])

    def slope(self) -> Float64[np.ndarray, "m s"]:
        """Least-squares slope over time of each pixel that has two values or more."""
        known = self.count >= 2
        return self.product[:, known] / self.time_square[known]


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
