import math

import numpy as np
import pytest
import torch

from steadydepth.errors import InputError
from steadydepth.metrics import tae
from steadydepth.metrics.accuracy import accuracy_scores
from steadydepth.metrics.fits import fit_scale
from steadydepth.metrics.protocols import (
    ACCURACY,
    METRICS,
    PROTOCOLS,
    choose_protocol,
    clean,
    crop_mask,
    valid_labels,
)


def slow_errors(predicted, truth):
    n = len(truth)
    logs = [math.log(d) - math.log(g) for d, g in zip(predicted, truth, strict=True)]
    pairs = list(zip(predicted, truth, strict=True))
    errors = {
        "abs_rel": sum(abs(d - g) / g for d, g in pairs) / n,
        "sq_rel": sum((d - g) ** 2 / g for d, g in pairs) / n,
        "rmse": math.sqrt(sum((d - g) ** 2 for d, g in pairs) / n),
        "rmse_log": math.sqrt(sum(e * e for e in logs) / n),
        "log10": sum(abs(math.log10(d) - math.log10(g)) for d, g in pairs) / n,
        "silog": 100 * math.sqrt(sum(e * e for e in logs) / n - (sum(logs) / n) ** 2),
    }
    for k in (1, 2, 3):
        errors[f"delta{k}"] = sum(max(d / g, g / d) < 1.25**k for d, g in pairs) / n
    return errors


def errors_of(predicted, truth):
    """Of one image of one row."""
    depth, true = np.array([[predicted]]), np.array([[truth]])
    return {name: float(value) for name, value in accuracy_scores(depth, true, np.ones(true.shape, bool)).items()}


def test_two_pixels_by_hand():
    errors = errors_of([2.0, 3.0], [1.0, 4.0])
    expected = {
        "abs_rel": (1 + 0.25) / 2,
        "sq_rel": (1 + 0.25) / 2,
        "rmse": 1.0,
        "rmse_log": math.sqrt((math.log(2) ** 2 + math.log(0.75) ** 2) / 2),
        "log10": (math.log10(2) - math.log10(0.75)) / 2,
        "silog": 50 * (math.log(2) - math.log(0.75)),
        "delta1": 0.0,
        "delta2": 0.5,
        "delta3": 0.5,
    }
    assert errors == pytest.approx(expected)
    assert tuple(errors) == ACCURACY


def test_exactly_125_per_cent_is_outside_delta1():
    errors = errors_of([1.25], [1.0])
    assert errors["delta1"] == 0
    assert errors["delta2"] == 1


def test_each_frame_weighs_the_same_however_few_its_pixels(tiny):
    tiny.valid[1] = False
    tiny.valid[2, 1:] = False
    frames = [t for t in range(5) if t != 1]
    slow = [slow_errors(tiny.depth[t][tiny.valid[t]].tolist(), tiny.truth[t][tiny.valid[t]].tolist()) for t in frames]
    found = accuracy_scores(tiny.depth, tiny.truth, tiny.valid)
    for name in ACCURACY:
        assert float(found[name]) == pytest.approx(np.mean([errors[name] for errors in slow]), rel=1e-9), name


def test_the_truth_costs_nothing_and_a_factor_has_no_silog(tiny):
    exact = accuracy_scores(tiny.truth, tiny.truth, tiny.valid)
    assert all(float(exact[name]) == (1 if name.startswith("delta") else 0) for name in ACCURACY)
    scaled = accuracy_scores(1.5 * tiny.truth, tiny.truth, tiny.valid)
    assert float(scaled["silog"]) == pytest.approx(0, abs=1e-5)
    assert float(scaled["abs_rel"]) == pytest.approx(0.5)


def test_a_large_common_factor_costs_silog_no_digits():
    # Errors of ln 1e6 plus 0 and 2e-6: 1e-6 from their mean. Squares of ln 1e6 would leave two digits of that.
    depth = np.array([[[9.0, 1e6, 1e6 * math.exp(2e-6)]]])
    found = accuracy_scores(depth, np.ones_like(depth), np.array([[[False, True, True]]]))
    assert float(found["silog"]) == pytest.approx(1e-4, rel=1e-5)


def test_numpy_and_torch_and_a_stack_of_methods_give_the_same_numbers(tiny):
    one = accuracy_scores(tiny.depth, tiny.truth, tiny.valid)
    other = accuracy_scores(
        torch.from_numpy(tiny.depth).requires_grad_(), torch.from_numpy(tiny.truth), torch.from_numpy(tiny.valid)
    )
    stack = accuracy_scores(np.stack((tiny.truth, tiny.depth)), tiny.truth, tiny.valid)
    for name in ACCURACY:
        assert one[name] == other[name]
        torch.testing.assert_close(stack[name][1], one[name], rtol=1e-12, atol=0)


def test_what_does_not_count_changes_nothing(tiny, poison):
    dirty = np.where(tiny.valid, tiny.truth, poison)
    clean_errors = accuracy_scores(tiny.depth, tiny.truth, tiny.valid)
    assert accuracy_scores(tiny.depth, dirty, tiny.valid) == clean_errors


@pytest.mark.parametrize("hole", [np.nan, np.inf, 0.0, 1e300])
def test_what_a_prediction_has_where_nothing_counts_is_never_read(hole):
    truth, valid = np.full((2, 8, 8), 2.0), np.ones((2, 8, 8), bool)
    valid[:, 0] = False
    depth = np.full((2, 8, 8), 2.2)
    depth[:, 0] = hole
    assert accuracy_scores(depth, truth, valid)["abs_rel"].item() == pytest.approx(0.1)
    camera = {"K": np.eye(3), "cam_to_world": np.tile(np.eye(4), (2, 1, 1))}
    assert tae(depth, valid, **camera).item() == pytest.approx(0)


def test_half_precision_of_torch_is_taken():
    depth, truth = torch.full((1, 4, 4), 2.5, dtype=torch.bfloat16), np.full((1, 4, 4), 2.0)
    assert accuracy_scores(depth, truth, np.ones(truth.shape, bool))["abs_rel"].item() == pytest.approx(0.25)


def test_a_clip_without_a_valid_pixel_has_no_value(tiny):
    assert all(value.isnan() for value in accuracy_scores(tiny.depth, tiny.truth, np.zeros_like(tiny.valid)).values())


def test_predictions_are_clipped_and_holes_count_as_very_wrong():
    raw = np.array([5.0, 0.0, -3.0, 100.0, np.inf, -np.inf, np.nan])
    assert clean(raw, PROTOCOLS["plain"]).tolist() == [5, 1e-3, 1e-3, 80, 80, 1e-3, 1e-3]


def test_the_range_of_labels_is_strict_and_never_reads_the_prediction():
    depth = np.float32([[[0, 1e-3, 2, 10, 80, 81, np.nan, np.inf, -1]]])
    valid = valid_labels(depth, np.ones_like(depth, bool), choose_protocol("plain"))
    assert valid[0, 0].tolist() == [False, depth[0, 0, 1] > 1e-3, True, True, False, False, False, False, False]
    shorter = choose_protocol("plain", max_depth=10.0)
    assert valid_labels(depth, np.ones_like(depth, bool), shorter)[0, 0, 3:5].tolist() == [False, False]
    masked = valid_labels(depth, np.zeros_like(depth, bool), shorter)
    assert not masked.any()


@pytest.mark.parametrize(
    ("crop", "size", "rows", "columns"),
    [
        ("garg", (375, 1242), (153, 371), (44, 1197)),
        ("eigen_kitti", (375, 1242), (124, 342), (44, 1197)),
        ("eigen_nyu", (480, 640), (45, 471), (41, 601)),
        ("scannet", (480, 640), (8, 472), (11, 629)),
        ("vda_kitti", (375, 1242), (0, 374), (0, 1242)),
        (None, (7, 9), (0, 7), (0, 9)),
    ],
)
def test_crops_are_the_published_ranges(crop, size, rows, columns):
    inside = np.argwhere(crop_mask(crop, *size))
    assert (inside[:, 0].min(), inside[:, 0].max() + 1) == rows
    assert (inside[:, 1].min(), inside[:, 1].max() + 1) == columns
    assert len(inside) == (rows[1] - rows[0]) * (columns[1] - columns[0])


@pytest.mark.parametrize(
    ("name", "dmax", "crop", "cut", "stride", "max_frames"),
    [
        ("plain", 80, None, None, 1, None),
        ("kitti", 80, "garg", None, 1, None),
        ("kitti_eigen", 80, "eigen_kitti", None, 1, None),
        ("nyu", 10, "eigen_nyu", None, 1, None),
        ("sintel", 70, None, None, 1, None),
        ("bonn", 10, None, None, 1, None),
        ("scannet", 10, "scannet", None, 1, None),
        ("vda_kitti", 80, None, "vda_kitti", 1, 110),
        ("vda_sintel", 70, None, None, 1, 100),
        ("vda_bonn", 10, None, None, 1, 110),
        ("vda_scannet", 10, None, "scannet", 3, 90),
        ("vda_nyu", 10, None, "eigen_nyu", 1, 500),
    ],
)
def test_protocols_have_the_published_ranges_and_frames(name, dmax, crop, cut, stride, max_frames):
    own = PROTOCOLS[name]
    assert (own.dmin, own.dmax, own.crop, own.cut) == (0.001, dmax, crop, cut)
    assert (own.stride, own.max_frames) == (stride, max_frames)
    is_vda = name.startswith("vda_")
    assert (own.align, own.clips_disparity) == (("disparity", True) if is_vda else (None, False))
    assert own.pastes_kb == (name in ("kitti", "kitti_eigen"))


def test_every_pixel_of_a_large_image_counts_once():
    truth = np.full((1, 130, 200), 2.0)
    depth = np.stack([1.1 * truth, truth * np.where(np.arange(200) < 100, 1.1, 1.3)])
    valid = np.ones(truth.shape, bool)
    assert accuracy_scores(depth, truth, valid)["abs_rel"].tolist() == pytest.approx([0.1, 0.2])
    assert fit_scale(depth[0, :, ::-1], 3 * depth[0, :, ::-1], valid[:, ::-1]).scale == pytest.approx(3)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="480 x 640, not 240 x 320"):
        crop_mask("eigen_nyu", 240, 320)
    with pytest.raises(InputError, match="choose one of plain, kitti"):
        choose_protocol("kity")
    with pytest.raises(InputError, match=r"max_depth -1\.0"):
        choose_protocol("plain", max_depth=-1.0)


def test_every_metric_says_which_way_is_better():
    assert {METRICS[name].better for name in ("abs_rel", "tsd", "vel", "opw")} == {"lower"}
    assert {METRICS[name].better for name in ("delta1", "rtc_1.01", "tcc")} == {"higher"}
    assert METRICS["gain"].better == "nearer 1"
