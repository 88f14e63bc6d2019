"""Sums of windows and of clips become numbers by name: by hand, without a clip."""

import numpy as np
import pytest

from steadydepth.errors import InputError
from steadydepth.evaluation.alignment import Fitter
from steadydepth.evaluation.footage import LabelFrame
from steadydepth.evaluation.summary import ScoredClip, build_report, table_of_clips, table_rows
from steadydepth.evaluation.windows import Window, values_of
from steadydepth.metrics.accumulators import Count, Mean
from steadydepth.metrics.protocols import PROTOCOLS


def mean(total, count):
    return Mean(np.array([total]), count)


def test_windows_are_averaged_their_counts_added_and_one_that_is_not_complete_is_left_out():
    window = Window(2)
    for total, count, n in ((6.0, 2.0, 3), (5.0, 1.0, 4)):
        window.parts, window.n_frames = {"flicker": mean(total, count), "n_rigid": Count(n)}, 2
        window.close()
    window.parts, window.n_frames = {"flicker": mean(100.0, 1.0), "n_rigid": Count(9)}, 1
    found = window.values()
    assert (found["flicker"], found["n_rigid"], found["tae"]) == (4, 7, None)
    assert list(found) == sorted(found)


def test_a_window_of_all_frames_ends_with_them_once():
    whole = Window(None, {"flicker": mean(6.0, 2.0)}, n_frames=5)
    assert whole.values()["flicker"] == whole.values()["flicker"] == 3
    assert Window(None).values()["flicker"] is None


def test_values_are_plain_numbers_and_the_error_of_nvds_is_divided_by_frames():
    parts = {"opw_nvds": mean(12.0, 4.0), "n_rigid": Count(2), "sre": mean(0.0, 0.0)}
    found = values_of(parts, None, 5, 0)
    # A mean of 3 over the four pairs of five frames.
    assert found == {"opw_nvds": pytest.approx(3 * 4 / 5), "n_rigid": 2, "sre": None}
    assert type(found["n_rigid"]) is int
    assert "opw_nvds" not in values_of({"n_rigid": Count(2)}, None, 5, 0)


def clip(**values):
    counts = dict.fromkeys(("n_frames", "n_skipped", "n_nonfinite", "n_static", "n_moving"), 0)
    return {"scale": None, "shift": None, **counts, **values}


def test_means_over_all_clips_over_fixed_and_over_moving_cameras():
    clips = {
        "a": clip(fixed_camera=True, abs_rel=1.0, delta1=0.1),
        "b": clip(fixed_camera=False, abs_rel=3.0, delta1=0.3),
        "c": clip(fixed_camera=None, abs_rel=8.0, delta1=0.8),
    }
    table = table_of_clips(clips)
    for name, abs_rel in (("mean", 4), ("mean_fixed", 1), ("mean_moving", 3)):
        assert (table[name]["abs_rel"], table[name]["delta1"]) == pytest.approx((abs_rel, abs_rel / 10))
    assert table["clips"] == clips


def test_counts_of_clips_are_added_in_the_header():
    records = [
        ScoredClip("a", {"model": clip(n_frames=5, n_skipped=2, scale=2.0)}, {}, {"align": "scale"}, {}),
        ScoredClip("b", {"model": clip(n_frames=7, n_static=None, scale=0.5)}, {}, {"align": "none"}, {}),
    ]
    report = build_report(records, {"c": "why"}, data="here", protocol=PROTOCOLS["nyu"])
    header = report["header"]
    assert report["version"] == 1
    assert (header["n_frames"], header["n_skipped"], header["n_static"], header["n_moving"]) == (12, 2, 0, 0)
    assert (header["n_clips"], header["n_failed"], header["max_depth"]) == (2, 1, 10)
    assert (header["scale"], header["shift"], header["align"]) == ([0.5, 2.0], None, ["none", "scale"])
    assert report["failed"] == {"c": "why"}
    assert "controls" not in report


def test_a_metric_that_one_report_has_is_a_row():
    reports = {"ours": {"mean": {"abs_rel": 0.1, "tae": None}}, "theirs": {"mean": {"abs_rel": None, "tae": None}}}
    (row,) = table_rows(reports)
    assert (row["metric"], row["ours"], row["theirs"], row["best"]) == ("abs_rel", "0.1", "", "ours")


def test_a_fitter_counts_values_that_are_not_finite_and_those_that_the_protocol_raises():
    fitter = Fitter("disparity", "disparity", PROTOCOLS["vda_bonn"])
    frames = np.float32([[[1, np.nan], [np.inf, 3]], [[-2, 4], [0, 6]]])
    assert [fitter.count(frame) for frame in frames] == [2, 0]
    # Inverse depth 2 x + 1 of the label, of which -2 and 0 are taken for 0.001.
    for values in np.float64([[1, np.nan, np.inf, 3], [-2, 4, 0, 6]]):
        known = np.isfinite(values)
        truth = 1 / (2 * np.maximum(np.where(known, values, 1), 1e-3) + 1)
        fitter.add(values, LabelFrame(truth, np.ones(4, bool), None))
    fit = fitter.result(has_label=True)
    assert (fit.n_nonfinite, fit.low, fit.mean) == (2, -2, pytest.approx(12 / 6))
    assert fit.clipped == pytest.approx(2 / 6)
    assert (float(fit.alignment.scale), float(fit.alignment.shift)) == pytest.approx((2, 1), rel=1e-5)
    for value, expected in ((1.0, 3.0), (0.0, 0.0)):  # a median of 1 is one as any other, of 0 it is none
        fitter, label = (
            Fitter("scale", "scale", PROTOCOLS["plain"]),
            LabelFrame(np.full(3, 3.0), np.ones(3, bool), None),
        )
        fitter.add(np.full(3, value), label)
        fitter.begin_second_round()
        fitter.add_again(np.full(3, value), label)
        assert float(fitter.result(has_label=True).alignment.scale) == expected
    nothing = Fitter("none", "metric", PROTOCOLS["plain"])
    nothing.count(np.float32([[np.nan]]))
    with pytest.raises(InputError, match="every predicted value is NaN or infinite"):
        nothing.result(has_label=True)
