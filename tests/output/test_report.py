import base64
import re

import cv2
import numpy as np
import pytest

from steadydepth.output.report import (
    Section,
    Table,
    colour_alike,
    column_over_time,
    consecutive_frames,
    draw_curves,
    png_url,
    render_page,
    side_by_side,
    view_clip,
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
    page = consecutive_frames([video(0), video(100)])
    assert page.shape == (5 + 4 + 5, 4 * 7 + 3 * 4, 3)
    assert page[0, [0, 11, 22, 33], 0].tolist() == [1, 2, 3, 4]
    assert page[9, [0, 11, 22, 33], 0].tolist() == [101, 102, 103, 104]


def test_equal_depth_has_equal_colour_in_every_video_of_a_clip():
    one = np.linspace(1, 4, 2 * 5 * 7, dtype=np.float32).reshape(2, 5, 7)
    coloured = colour_alike({"one": one, "far": one * 2})
    same = np.argwhere(np.isclose(one, 2.0, atol=0.05))[0]
    twice = np.argwhere(np.isclose(one * 2, 2.0, atol=0.05))[0]
    difference = coloured["one"][tuple(same)].astype(int) - coloured["far"][tuple(twice)]
    assert np.abs(difference).max() < 16
    assert np.abs(coloured["one"].astype(int) - coloured["far"]).mean() > 16


def test_a_picture_in_the_page_is_the_picture():
    picture = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(png_url(picture)), picture)
    view = view_clip("kitchen", {"input": video(10), "steady": video(50)}, "data:video/mp4;base64,AAAA")
    label, strip = view.strips[1]
    assert label == "steady"
    assert decode(strip)[0, ::100, 0].tolist() == [50, 51, 52, 53, 54, 55]


def test_the_page_holds_everything_and_escapes_names():
    row = {"metric": "flicker", "unit": "%", "better": "lower", "best": "b", "note": "", "<a>": "2", "b": "1"}
    section = Section("data", "3 clips", [Table("All", ["<a>", "b"], [row])], [])
    curves = draw_curves({"b": [{"step": step, "absolute": 1 / step, "relative": 0.1} for step in (1, 2, 3)]})
    page = render_page("title", [section], curves=curves, footer="end")
    assert "&lt;a&gt;" in page
    assert "<a>" not in page
    assert '<td class="best">1</td>' in page
    assert page.count("<svg") == 1
    assert "<?xml" not in page


@pytest.mark.parametrize("missing", ["http://", "https://"])
def test_the_template_loads_nothing_from_elsewhere(missing):
    page = render_page("title", [], curves="", footer="")
    assert missing not in page
