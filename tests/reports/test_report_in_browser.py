"""The page of `report` in a real browser: on a phone and on a desk, and what a screen reader is told."""

import numpy as np
import pytest
from browser import opened_browser

from steadydepth.reports.page import Section, Table, draw_curves, render_page, view_clip

LOG = [{"step": step, "absolute": 1 / step, "relative": 0.1} for step in (1, 2, 3)]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    row = {"unit": "%/frame", "better": "lower", "best": "steady", "note": "", "plain": "2.125", "steady": "1.375"}
    rows = [{"metric": name, **row} for name in ("flicker", "log_depth_correlation")]
    image = np.zeros((6, 5, 7, 3), np.uint8)
    clip = view_clip("kitchen", {"input": image, "steady": image}, "data:,")
    section = Section("data", "1 clip", [Table("All clips", ["plain", "steady"], rows)], [clip])
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(
        render_page("title", [section], curves=draw_curves({"plain": LOG, "steady": LOG})), encoding="utf-8"
    )
    return path


@pytest.fixture(scope="module")
def page(file):
    with opened_browser() as browser:
        opened = browser.new_page()
        opened.goto(file.as_uri())
        yield opened


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
