import base64
import re

import cv2
import numpy as np
import pytest

from steadydepth.reports.page import (
    Section,
    Table,
    colour_alike,
    column_over_time,
    draw_curves,
    in_a_row,
    png_url,
    render_page,
    shown_frames,
    side_by_side,
    view_clip,
    view_edges,
    view_errors,
)


def video(value, t=6, h=5, w=7):
    """Frame i of the video has the grey value + i everywhere."""
    return np.tile((value + np.arange(t, dtype=np.uint8))[:, None, None, None], (1, h, w, 3))


def decode(url):
    kind, data = re.fullmatch(r"data:([a-z/0-9]+);base64,(.*)", url).groups()
    assert kind == "image/png"
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def test_a_column_over_time_has_a_frame_in_each_column():
    strip = column_over_time(video(10))
    assert strip.shape == (5, 6, 3)
    assert strip[0, :, 0].tolist() == [10, 11, 12, 13, 14, 15]


def test_videos_stand_side_by_side_with_white_between():
    both = side_by_side([video(0), video(100)])
    assert both.shape == (6, 5, 7 + 4 + 7, 3)
    assert both[2, 0, :, 0].tolist() == [2] * 7 + [255] * 4 + [102] * 7


def test_consecutive_frames_come_from_the_middle_a_row_for_each_video():
    assert [shown_frames(n) for n in (1, 3, 6, 9)] == [slice(0, 1), slice(0, 3), slice(1, 5), slice(2, 6)]
    row = in_a_row(video(0)[shown_frames(6)])
    assert row.shape == (5, 4 * 7 + 3 * 4, 3)
    assert row[0, [0, 11, 22, 33], 0].tolist() == [1, 2, 3, 4]
    label, shown = view_clip("kitchen", {"input": video(0), "steady": video(100)}, "data:,").frames[1]
    assert label == "steady"
    np.testing.assert_array_equal(decode(shown), in_a_row(video(100)[1:5]))


def test_equal_depth_has_equal_colour_in_every_video_of_a_clip():
    one = np.linspace(1, 4, 2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    coloured = colour_alike({"one": one, "far": one * 2})
    same = np.argwhere(np.isclose(one, 2.0, atol=0.05))[0]
    twice = np.argwhere(np.isclose(one * 2, 2.0, atol=0.05))[0]
    difference = coloured["one"][tuple(same)].astype(int) - coloured["far"][tuple(twice)]
    assert np.abs(difference).max() < 16
    assert np.abs(coloured["one"].astype(int) - coloured["far"]).mean() > 16


def test_a_image_in_the_page_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(png_url(image)), image)
    view = view_clip("kitchen", {"input": video(10), "steady": video(50)}, "data:video/mp4;base64,AAAA")
    label, strip = view.strips[1]
    assert label == "steady"
    assert decode(strip)[0, ::100, 0].tolist() == [50, 51, 52, 53, 54, 55]


def test_the_page_holds_everything_and_escapes_names():
    row = {"metric": "flicker", "unit": "%", "better": "lower", "best": "b", "note": "", "<a>": "2", "b": "1"}
    section = Section("data", "3 clips", [Table("All", ["<a>", "b"], [row])], [])
    curves = draw_curves({"<a>": [{"step": step, "absolute": 1 / step, "relative": 0.1} for step in (1, 2, 3)]})
    page = render_page("title", [section], curves=curves)
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert '<td class="best">1</td>' in page
    assert page.count("<svg") == 2


def test_an_interval_stands_small_beside_its_value():
    row = {"metric": "flicker", "unit": "%", "better": "lower", "best": "a", "note": "", "a": "2 [1, 3]"}
    page = render_page("title", [Section("data", "", [Table("All", ["a"], [row])], [])], curves=[])
    assert '<td class="best">2 <small>[1, 3]</small></td>' in page


def test_runs_without_a_loss_have_no_curve():
    assert draw_curves({}) == []
    assert len(draw_curves({"a": [{"step": 1, "absolute": 0.5, "relative": 0.0}]})) == 1


def test_errors_of_all_methods_share_one_range_and_its_bar():
    valid = np.ones((2, 5, 7), bool)
    valid[1, 2, 3] = False
    errors = {"plain": np.full((2, 5, 7), 0.4), "steady": np.full((2, 5, 7), 0.1)}
    view = view_errors(errors, valid)
    assert view.top == pytest.approx(0.4)
    plain, steady = (decode(url) for _, url in view.rows)
    bar = decode(view.bar)
    assert plain[0, 0].tolist() == bar[0, -1].tolist()
    assert steady[0, 0].tolist() == bar[0, 64].tolist()
    assert plain[2, 7 + 4 + 3].tolist() == [128, 128, 128]
    assert view_errors(errors, np.zeros_like(valid)) is None
    assert view_errors({}, valid) is None


def test_edges_that_are_lost_are_blue_and_what_is_gained_is_orange():
    valid = np.ones((1, 9, 30), bool)
    valid[0, 0, 0] = False
    true_log, soft = np.zeros((2, 1, 9, 30))
    true_log[..., 8:] = 0.4
    soft[..., 7:], soft[..., 8:], soft[..., 9:] = 0.1, 0.3, 0.4  # over three pixels in place of one
    other = true_log.copy()
    other[..., 20:] += 0.4
    view = view_edges({"exact": true_log, "soft": soft, "other": other}, true_log, valid)
    exact, blurred, doubled = (decode(url)[:, :30] for _, url in view.rows)
    assert exact[0, 0].tolist() == [128, 128, 128]
    assert not exact[4].any()
    # Around 18 to 21 a step of 0.4 is seen that is not there.
    orange = [x for x in range(30) if doubled[4, x].any()]
    assert orange == [18, 19, 20, 21]
    assert (doubled[4, 18:22, 0] > doubled[4, 18:22, 2]).all()
    # A square from 6 to 10 holds all of the soft step as well; those farther left or right hold a part of it.
    blue = [x for x in range(30) if blurred[4, x, 2] > blurred[4, x, 0]]
    assert blue == [6, 9]
    assert [x for x in range(30) if blurred[4, x, 0] > blurred[4, x, 2]] == [5, 10]
    assert view_edges({}, true_log, valid) is view_edges({"a": soft}, true_log, valid < 0) is None


@pytest.mark.parametrize("missing", ["http://", "https://"])
def test_the_template_loads_nothing_from_elsewhere(missing):
    page = render_page("title", [], curves=[])
    assert missing not in page
