import numpy as np
import pytest
import torch

from steadydepth.ops.alignment import (
    Alignment,
    apply,
    count_keys,
    find_rank,
    fit_disparity,
    fit_line,
    fit_median_scale,
    fit_scale,
    fit_scale_shift,
    median,
    to_depth,
    value_of,
)
from steadydepth.ops.moments import Moments

SIZE = (3, 4, 5)
NOTHING = Moments.of(np.zeros(0), np.zeros(0))


@pytest.fixture
def truth():
    return 1 + 4 * torch.rand(SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def valid():
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(1)) > 0.3


def test_three_points_by_hand():
    predicted, target = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 3.0, 8.0])
    everything = torch.ones(3, dtype=torch.bool)
    # Slope cov / var = (7 / 3) / (2 / 3), through the means (1, 4).
    fitted = fit_scale_shift(predicted, target, everything)
    assert float(fitted.scale) == pytest.approx(3.5)
    assert float(fitted.shift) == pytest.approx(0.5)
    assert float(fit_scale(predicted, target, everything).scale) == pytest.approx(19 / 5)
    assert float(fit_median_scale(predicted, target, everything).scale) == 3


def test_the_median_of_an_even_number_is_the_mean_of_the_two_middle_values():
    assert float(median(torch.tensor([4.0, 1.0, 3.0, 10.0]))) == 3.5
    assert float(median(torch.tensor([4.0, 1.0, 3.0]))) == 3
    assert median(torch.zeros(0)).isnan()


def test_the_fit_is_that_of_numpy(truth, valid):
    predicted = truth.sqrt() + 0.1 * torch.rand(SIZE, generator=torch.Generator().manual_seed(2))
    x, y = predicted[valid].double().numpy(), truth[valid].double().numpy()
    (scale, shift), *_ = np.linalg.lstsq(np.stack((x, np.ones_like(x)), axis=1), y, rcond=None)
    fitted = fit_scale_shift(predicted, truth, valid)
    np.testing.assert_allclose([fitted.scale, fitted.shift], [scale, shift], rtol=1e-10)
    median_scale = fit_median_scale(predicted, truth, valid).scale
    np.testing.assert_allclose(median_scale, np.median(y) / np.median(x), rtol=1e-12)


def test_a_large_offset_costs_no_digits(truth, valid):
    shifted = 2 * truth.double() + 1e6
    aligned = apply(shifted, fit_scale_shift(shifted, truth.double(), valid))
    torch.testing.assert_close(aligned, truth.double(), rtol=1e-8, atol=0)


def test_a_disparity_up_to_factor_and_offset_becomes_the_depth(truth, valid):
    disparity = 7 / truth.double() + 3
    aligned = to_depth(disparity, "disparity", "disparity", fit_disparity(disparity, truth.double(), valid))
    torch.testing.assert_close(aligned, truth.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("factor", "offset"), [(5, -3), (1e-3, 0), (1, -100), (1e-6, -1e-6)])
def test_factor_and_offset_of_a_disparity_do_not_matter(truth, valid, factor, offset):
    disparity = factor / truth.double() + offset
    aligned = to_depth(disparity, "disparity", "disparity", fit_disparity(disparity, truth.double(), valid))
    torch.testing.assert_close(aligned, truth.double(), rtol=1e-6, atol=0)


def test_nothing_is_farther_than_a_kilometre_and_a_label_of_zero_has_a_disparity():
    disparity = torch.tensor([-1.0, 0.0, 1e-4, 0.5])
    depth = to_depth(disparity, "disparity", "disparity", Alignment.of(1.0, 0.0))
    torch.testing.assert_close(depth, torch.tensor([1000.0, 1000.0, 1000.0, 2.0]).double())
    # 1 / (0 + 1e-8) and 1 / (3e-8 + 1e-8).
    both = torch.ones(2, dtype=torch.bool)
    fitted = fit_disparity(torch.tensor([1.0, 2.0]).double(), torch.tensor([0.0, 3e-8]).double(), both)
    assert float(fitted.scale) == pytest.approx(-7.5e7)
    assert float(fitted.shift) == pytest.approx(1.75e8)


def test_an_inverted_disparity_gets_a_negative_scale(truth, valid):
    assert fit_disparity(5 - 1 / truth, truth, valid).scale < 0


@pytest.mark.parametrize("value", [0.0, 0.1, 3.0])
def test_a_constant_prediction_becomes_the_mean_disparity(truth, valid, value):
    constant = torch.full(SIZE, value)
    fitted = fit_disparity(constant, truth, valid)
    assert fitted.scale == 0
    torch.testing.assert_close(fitted.shift, (1 / (truth[valid].double() + 1e-8)).mean())
    mean_depth = apply(constant, fit_scale_shift(constant, truth, valid))
    torch.testing.assert_close(mean_depth, truth[valid].double().mean().expand(SIZE))


def test_zeros_get_scale_zero(truth, valid):
    assert fit_scale(torch.zeros(SIZE), truth, valid).scale == 0
    assert fit_median_scale(torch.zeros(SIZE), truth, valid).scale == 0


@pytest.mark.parametrize("fit", [fit_scale, fit_median_scale, fit_scale_shift, fit_disparity])
@pytest.mark.parametrize("poison", [0.0, -1.0, float("nan"), float("inf")])
def test_what_is_not_valid_or_not_finite_has_no_vote(truth, valid, fit, poison):
    predicted = truth * 1.3 + 0.2
    clean = fit(predicted, truth, valid)
    dirty = fit(predicted, torch.where(valid, truth, poison), valid)
    assert (dirty.scale, dirty.shift) == (clean.scale, clean.shift)
    hole = torch.zeros(SIZE, dtype=torch.bool)
    hole[0, 0, 0] = hole[2, 1, 3] = True
    with_holes = fit(torch.where(hole, torch.nan, predicted), truth, valid | hole)
    without = fit(predicted, truth, valid & ~hole)
    assert (with_holes.scale, with_holes.shift) == (without.scale, without.shift)


@pytest.mark.parametrize("fit", [fit_scale, fit_median_scale, fit_scale_shift, fit_disparity])
def test_nothing_valid_gives_nan(truth, fit):
    assert fit(truth, truth, torch.zeros(SIZE, dtype=torch.bool)).scale.isnan()


def test_the_gradient_goes_through_the_fit_and_stays_finite(truth, valid):
    for predicted in (truth.sqrt(), torch.full(SIZE, 2.0)):
        predicted = predicted.requires_grad_()
        fitted = fit_scale_shift(predicted, truth, valid)
        (apply(predicted, fitted) - truth).abs().mean().backward()
        assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize("cuts", [(), (1,), (13, 14, 40)])
def test_a_line_from_parts_is_the_line_of_the_whole(truth, cuts):
    x = (1e6 + truth.double().sqrt()).flatten().numpy()
    y = truth.double().flatten().numpy()
    parts = zip(np.split(x, cuts), np.split(y, cuts), strict=True)
    scale, shift = fit_line(sum((Moments.of(*part) for part in parts), NOTHING))
    whole = fit_scale_shift(torch.from_numpy(x), torch.from_numpy(y), torch.ones(60, dtype=torch.bool))
    assert scale == pytest.approx(float(whole.scale), rel=1e-8)
    assert scale * x + shift == pytest.approx(float(whole.scale) * x + float(whole.shift), rel=1e-8)


def test_sums_of_nothing_and_of_a_constant():
    rows = np.array([[1.0, 3.0], [2.0, 6.0], [5.0, 5.0]])
    total = Moments.of(np.zeros((3, 0)), np.zeros(0)) + Moments.of(rows, np.array([0.0, 2.0]))
    assert (total.x_mean.tolist(), total.xy.tolist()) == ([2, 4, 5], [2, 4, 0])
    assert np.isnan(fit_line(NOTHING)).all()
    assert fit_line(NOTHING + Moments.of(np.full(3, 0.1), np.array([1.0, 2.0, 6.0]))) == (0, 3)


@pytest.mark.parametrize("n", [1, 2, 7, 60, 61])
def test_the_exact_middle_is_found_in_counts(n):
    generator = np.random.default_rng(n)
    values = (generator.normal(size=n) * np.exp(4 * generator.normal(size=n))).astype(np.float32)
    values[: n // 3] = values[0]  # ties
    parts = np.array_split(values, 3)
    counts = sum(count_keys(part) for part in parts)
    for rank in ((n - 1) // 2, n // 2):
        first, left = find_rank(counts, rank)
        second, _ = find_rank(sum(count_keys(part, first) for part in parts), left)
        assert value_of(first, second) == np.sort(values)[rank]
