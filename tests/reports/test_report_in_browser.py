"""The page of `report` in a real browser: on a phone and on a desk, and what a screen reader is told."""

import numpy as np
import pytest
from browser import opened_browser

from steadydepth.files.video_write import write_video
from steadydepth.reports.page import Section, Table, draw_curves, render_page, video_url, view_clip

LOG = [{"step": step, "absolute": 1 / step, "relative": 0.1} for step in (1, 2, 3)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    row = {"unit": "%/frame", "better": "lower", "best": "steady", "note": "", "plain": "2.125", "steady": "1.375"}
    rows = [{"metric": name, **row} for name in ("flicker", "log_depth_correlation")]
    image = np.zeros((6, 5, 7, 3), np.uint8)
    folder = tmp_path_factory.mktemp("report")
    write_video(folder / "clip.mp4", np.zeros((6, 16, 16, 3), np.uint8), 10.0)
    clip = view_clip("kitchen", {"input": image, "steady": image}, video_url(folder / "clip.mp4"))
    section = Section("data", "1 clip", [Table("All clips", ["plain", "steady"], rows)], [clip])
    path = folder / "report.html"
    path.write_text(
        render_page("title", [section], curves=draw_curves({"plain": LOG, "steady": LOG})), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser, file):
    opened = browser.new_page()
    opened.goto(file.as_uri())
    return opened


def test_a_phone_shows_the_numbers_first(page):
    page.set_viewport_size({"width": 360, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    for cell in page.locator("td", has_text="2.125").all() + page.locator("td", has_text="1.375").all():
        box = cell.bounding_box()
        assert box["x"] + box["width"] <= 360


def test_charts_stand_beside_each_other_where_there_is_room(page):
    page.set_viewport_size({"width": 1100, "height": 800})
    first, second = (chart.bounding_box() for chart in page.locator(".charts svg").all())
    assert first["y"] == second["y"]
    assert second["x"] > first["x"] + first["width"]
    page.set_viewport_size({"width": 360, "height": 640})
    first, second = (chart.bounding_box() for chart in page.locator(".charts svg").all())
    assert second["y"] > first["y"] + first["height"]


def test_what_is_seen_has_a_name(page):
    assert page.locator("video").get_attribute("aria-label") == "kitchen: input, steady"
    unnamed = "[...document.querySelectorAll('img, svg, video')].filter((one) => !(one.alt || one.ariaLabel)).length"
    assert page.evaluate(unnamed) == 0
    assert "" not in [head.strip() for head in page.locator("th").all_inner_texts()]


@pytest.mark.parametrize(("motion", "is_paused"), [("reduce", True), ("no-preference", False)])
def test_videos_play_by_themselves_unless_less_motion_is_asked_for(browser, file, motion, is_paused):
    page = browser.new_page(reduced_motion=motion)
    page.goto(file.as_uri())
    video = page.locator("video")
    page.wait_for_function("document.querySelector('video').readyState >= 2")
    assert video.evaluate("video => video.paused") == is_paused
    assert video.evaluate("video => video.controls")
    video.evaluate("video => video.play()")  # as its control does
    page.wait_for_function("document.querySelector('video').currentTime > 0")
    page.close()
