import math

import numpy as np
import pytest

from steadydepth.metrics.accumulators import Correlation, Count, Gain, Mean, PixelSeries, merge, steady_results


def test_a_mean_of_two_parts_is_the_mean_of_the_whole():
    first, second = Mean(np.array([1.0, 6.0]), 2.0), Mean(np.array([5.0, 0.0]), 1.0)
    assert (first + second).result().tolist() == [2, 2]
    assert first.only(1).result().tolist() == [3]
    each = Mean(np.array([1.0, 6.0]), np.array([0.0, 3.0]))
    assert math.isnan(each.result()[0])
    assert each.only(-1).result().tolist() == [2]
    # One number that all methods share is that of each.
    assert Mean(np.array([4.0]), np.array([2.0])).only(3).result().tolist() == [2]


def test_parts_of_one_name_are_added_and_others_kept():
    both = merge({"a": Count(2), "b": Count(3)}, {"b": Count(4), "c": Count(5)})
    assert {name: float(part.result()) for name, part in both.items()} == {"a": 2, "b": 7, "c": 5}


def test_a_gain_needs_a_truth_that_changes():
    part = Gain(np.array([0.5, 2.0]), energy=2.0, count=4, least=1e-5)
    assert (part + part).result().tolist() == [0.25, 1]
    assert math.isnan(Gain(np.array([0.0]), energy=1e-12, count=4, least=1e-5).result()[0])


@pytest.mark.parametrize("cuts", [(), (1,), (2, 5), (1, 2, 3, 4, 5, 6)])
def test_a_correlation_does_not_depend_on_how_it_is_cut(cuts):
    generator = np.random.default_rng(0)
    values, other = 1e4 + generator.normal(size=(7, 2)), generator.normal(size=7)
    values[:, 1] += 2 * other
    parts = [
        Correlation.of(one.T, beside) for one, beside in zip(np.split(values, cuts), np.split(other, cuts), strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    expected = [np.corrcoef(values[:, i], other)[0, 1] for i in range(2)]
    np.testing.assert_allclose(total.result(), expected, rtol=1e-9)
    np.testing.assert_allclose(total.only(1).result(), expected[1:], rtol=1e-9)


def test_what_rounding_spreads_has_no_correlation():
    # The mean of three times 0.1 is not 0.1.
    constant, rising = np.full(3, 0.1), np.arange(3.0)
    assert constant.sum() / 3 != 0.1
    assert np.isnan(Correlation.of(constant[None], rising).result()).all()
    assert np.isnan(Correlation.of(rising[None], constant).result()).all()


def series_of(values, valid, frames):
    total = None
    for t in frames:
        one = PixelSeries.of(t, values[t].T, valid[t])
        total = one if total is None else total + one
    return total


def test_the_series_of_pixels_is_that_of_numpy_however_it_is_cut():
    generator = np.random.default_rng(1)
    values = 1e3 + generator.normal(size=(9, 5, 3))
    valid = generator.random((9, 5)) > 0.3
    valid[:, 3] = [True, False, True] + 6 * [False]  # two values are enough
    valid[:, 4] = [True] + 8 * [False]  # one value says nothing of spread and slope
    values[~valid] = np.nan
    deviations, slopes = [], []
    for pixel in range(4):
        times = np.flatnonzero(valid[:, pixel])
        deviations.append(values[times, pixel].std(axis=0))
        slopes.append(np.polyfit(times, values[times, pixel] - 1e3, 1)[0])
    for first in (0, 1, 4, 8):
        whole = series_of(values, valid, range(9))
        if first:
            whole = series_of(values, valid, range(first)) + series_of(values, valid, range(first, 9))
        results = steady_results(whole, 9)
        np.testing.assert_allclose(results["tsd"], 100 * np.mean(deviations, axis=0), rtol=1e-9)
        np.testing.assert_allclose(results["tsd_p95"], 100 * np.percentile(deviations, 95, axis=0), rtol=1e-9)
        np.testing.assert_allclose(results["drift"], 800 * np.abs(np.mean(slopes, axis=0)), rtol=1e-8)


def test_no_pixel_has_no_deviation():
    nothing = PixelSeries.of(0, np.zeros((2, 0)), np.zeros(0, bool))
    assert all(np.isnan(value).all() for value in steady_results(nothing, 3).values())
