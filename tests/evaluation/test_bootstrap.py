"""Intervals of means over clips, and two reports compared clip by clip; numbers worked by hand or in slow loops."""

import json

import numpy as np
import pytest

from steadydepth.errors import InputError
from steadydepth.evaluation.bootstrap import (
    add_intervals,
    bootstrap_intervals,
    compare_reports,
    comparison_rows,
)
from steadydepth.evaluation.summary import mean_over_clips, table_rows
from steadydepth.metrics.protocols import METRICS

HEADER = {"align": "none", "protocol": "plain", "max_depth": 80.0}


def report_of(clips, **header):
    clips = {name: {"n_frames": 12} | values for name, values in clips.items()}
    return {"header": HEADER | header, "mean": mean_over_clips(clips.values()), "clips": clips}


def clips_of(metric, values, **more):
    return {f"clip_{i}": {metric: value} | more for i, value in enumerate(values)}


def test_intervals_are_those_of_a_slow_bootstrap_and_columns_share_their_draws():
    values = np.random.default_rng(1).gamma(2.0, size=(7, 2))
    values[[1, 4], 1] = np.nan
    found = bootstrap_intervals(values, n_resamples=300, seed=5)
    drawn = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=300)
    for column in range(2):
        means = []
        for counts in drawn:
            sample = [values[clip, column] for clip in range(7) for _ in range(counts[clip])]
            known = [value for value in sample if not np.isnan(value)]
            means += [np.mean(known)] if known else []
        np.testing.assert_allclose(found[:, column], np.percentile(means, [2.5, 97.5]), rtol=1e-12)


def test_two_clips_have_the_interval_worked_by_hand():
    # Of two clips, a quarter of the draws is each one twice and half is both: 2.5 % and 97.5 % are the two clips.
    assert bootstrap_intervals(np.array([[1.0], [4.0]]))[:, 0].tolist() == [1, 4]
    assert np.isnan(bootstrap_intervals(np.array([[1.0], [np.nan]]))).all()
    assert np.isnan(bootstrap_intervals(np.zeros((1, 3)))).all()


def test_an_interval_widens_with_spread_and_holds_the_true_mean_about_nineteen_times_of_twenty():
    generator = np.random.default_rng(0)
    # 200 data sets of 40 clips, a column each: they share their draws, which changes no interval.
    ends = bootstrap_intervals(generator.normal(3, 2, size=(40, 200)), n_resamples=400)
    share = np.mean((ends[0] < 3) & (ends[1] > 3))
    assert 0.88 < share < 0.99
    assert np.mean(ends[1] - ends[0]) == pytest.approx(2 * 1.96 * 2 / np.sqrt(40), rel=0.1)


def test_a_clip_with_few_samples_has_no_part_in_the_interval():
    clips = clips_of("flicker", [1.0, 2.0, 4.0], n_fixed=100) | {"few": {"flicker": 99.0, "n_fixed": 99}}
    low, high = add_intervals(report_of(clips))["interval"]["flicker"]
    assert (low, high) == (1, 4)


def test_intervals_stand_beside_the_means_for_the_model_and_its_controls_alike():
    clips = clips_of("abs_rel", [0.1, 0.2, 0.4, 0.5, 0.6])
    report = report_of(clips)
    report["controls"] = {"ema": {"mean": report["mean"], "clips": report["clips"]}}
    found = add_intervals(report, n_resamples=500)
    assert set(found["interval"]) == set(METRICS)
    assert found["interval"]["tae"] is None
    assert found["header"]["n_resamples"] == 500
    assert found["controls"]["ema"]["interval"] == found["interval"]
    assert "interval" not in report
    turned = dict(reversed(report["clips"].items()))
    assert add_intervals(report | {"clips": turned}, n_resamples=500)["interval"] == found["interval"]
    json.dumps(found, allow_nan=False)
    low, high = found["interval"]["abs_rel"]
    assert table_rows({"model": found})[0]["model"] == f"0.36 [{low:.3g}, {high:.3g}]"
    assert table_rows({"model": found})[0]["ema"] == "0.36"


def test_each_kind_of_camera_has_intervals_when_there_are_both():
    fixed = {f"f{i}": {"abs_rel": value, "fixed_camera": True} for i, value in enumerate((0.1, 0.3))}
    moving = {f"m{i}": {"abs_rel": value, "fixed_camera": False} for i, value in enumerate((0.5, 0.6))}
    report = report_of(fixed | moving | {"unknown": {"abs_rel": 0.9, "fixed_camera": None}})
    report["controls"] = {"ema": {"mean": report["mean"], "clips": report["clips"]}}
    found = add_intervals(report)
    for table in (found, found["controls"]["ema"]):
        # Of two clips 2.5 % and 97.5 % are the two clips.
        assert table["interval_fixed"]["abs_rel"] == [0.1, 0.3]
        assert table["interval_moving"]["abs_rel"] == [0.5, 0.6]
    assert set(add_intervals(report_of(fixed))) == set(report_of(fixed)) | {"interval"}


def test_a_comparison_worked_by_hand():
    here = report_of(clips_of("abs_rel", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]))
    there = report_of(clips_of("abs_rel", [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.7]) | {"more": {"abs_rel": 9.0}})
    comparison = compare_reports(here, there)
    assert comparison.shared == [f"clip_{i}" for i in range(7)]
    assert (comparison.only_here, comparison.only_there) == ([], ["more"])
    found = comparison.differences["abs_rel"]
    assert (found.n_clips, found.n_better) == (7, 6)
    assert found.mean == pytest.approx(2.8 / 7)
    assert found.other == pytest.approx(3.4 / 7)
    assert found.difference == pytest.approx(-0.6 / 7)
    assert found.ratio == pytest.approx(2.8 / 3.4)
    # The pairs differ by 0.1 or 0: far less than the clips differ from each other.
    assert found.interval[0] == pytest.approx(-0.1)
    assert -0.07 < found.interval[1] < -0.02
    assert found.verdict == "better"
    assert compare_reports(there, here).differences["abs_rel"].verdict == "worse"
    assert set(comparison.differences) == {"abs_rel"}


def test_a_report_does_not_differ_from_itself():
    report = report_of(clips_of("abs_rel", [0.1, 0.3, 0.2, 0.5, 0.4, 0.9]))
    found = compare_reports(report, report).differences["abs_rel"]
    assert (found.difference, found.interval, found.ratio, found.n_better) == (0, [0, 0], 1, 0)
    assert found.verdict == "no difference found"


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "verdict", "difference"),
    [
        ("delta1", 0.9, 0.7, "better", 0.2),
        ("delta1", 0.5, 0.7, "worse", -0.2),
        ("gain", 1.2, 0.5, "better", -0.3),  # |1.2 - 1| - |0.5 - 1|
        ("gain", 1.6, 0.7, "worse", 0.3),
        ("flicker", 0.0, 2.0, "better", -2.0),
    ],
)
def test_the_verdict_follows_the_direction_of_the_metric(metric, ours, theirs, verdict, difference):
    counted = {"n_fixed": 500, "n_tracked": 500}
    here = report_of(clips_of(metric, [ours] * 6, **counted))
    there = report_of(clips_of(metric, [theirs] * 6, **counted))
    found = compare_reports(here, there).differences[metric]
    assert found.verdict == verdict
    assert found.difference == pytest.approx(difference)
    assert found.n_better == (6 if verdict == "better" else 0)
    assert compare_reports(there, here).differences[metric].ratio == (pytest.approx(theirs / ours) if ours else None)


def test_five_clips_are_too_few_for_a_verdict():
    here, there = (report_of(clips_of("abs_rel", [value] * 5)) for value in (0.1, 0.2))
    assert compare_reports(here, there).differences["abs_rel"].verdict == "too few clips"


def test_a_clip_without_a_value_in_one_of_them_is_left_out_of_both():
    here = report_of(clips_of("abs_rel", [0.1, None, 0.3]))
    there = report_of(clips_of("abs_rel", [0.2, 0.9, 0.6]))
    found = compare_reports(here, there).differences["abs_rel"]
    assert (found.n_clips, found.other) == (2, pytest.approx(0.4))


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ({"align": "disparity"}, "align is none in this report and disparity in the other.*--align"),
        ({"protocol": "kitti"}, "protocol is plain in this report and kitti in the other"),
        ({"max_depth": 10.0}, r"max_depth is 80\.0 in this report and 10\.0 in the other.*--max-depth"),
    ],
)
def test_reports_that_were_scored_differently_are_not_compared(header, rule):
    clips = clips_of("abs_rel", [0.1, 0.2])
    with pytest.raises(InputError, match=rule):
        compare_reports(report_of(clips), report_of(clips, **header))


def test_reports_of_other_data_are_not_compared():
    here = report_of(clips_of("abs_rel", [0.1, 0.2]))
    with pytest.raises(InputError, match=r"share 0 clips \(2 here, such as clip_0; 1 in the other, such as kitchen"):
        compare_reports(here, report_of({"kitchen": {"abs_rel": 0.1}}))
    with pytest.raises(InputError, match="clip_0 has 12 frames here and 8 in the other"):
        compare_reports(here, report_of({"clip_0": {"abs_rel": 0.1, "n_frames": 8}}))


def test_a_row_of_the_comparison_reads_like_a_sentence():
    here = report_of(clips_of("abs_rel", [0.1] * 6))
    there = report_of(clips_of("abs_rel", [0.2] * 6))
    assert comparison_rows(compare_reports(here, there)) == [
        {
            "metric": "abs_rel",
            "unit": "fraction",
            "better": "lower",
            "this": "0.1",
            "other": "0.2",
            "difference": "-0.1",
            "95 % interval": "-0.1 to -0.1",
            "ratio": "0.500",
            "better in": "6 of 6",
            "verdict": "better",
        }
    ]


def test_a_comparison_says_where_edges_are_lost():
    plain, steady = (report_of(clips_of("edge_gain", [gain] * 7, rmse=2.0)) for gain in (0.5, 0.44))
    rows = {row["metric"]: row["verdict"] for row in comparison_rows(compare_reports(steady, plain))}
    assert rows == {"edge_gain": "worse, less than 0.9 of the other's edges", "rmse": "no difference found"}
    again = {row["metric"]: row["verdict"] for row in comparison_rows(compare_reports(plain, steady))}
    assert again["edge_gain"] == "better"
