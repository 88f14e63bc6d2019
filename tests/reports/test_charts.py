import re
from xml.etree import ElementTree

import pytest

from steadydepth.reports.charts import Line, Point, line_chart, plane_chart, ticks


def parse(svg):
    return ElementTree.fromstring(svg)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*", text)]


def plane(points, **options):
    return plane_chart("plane", points, x_label="x", y_label="y", **options)


def spots(svg):
    """Where each named point stands, and its colour."""
    return {
        group.find("title").text.partition(":")[0]: (
            float(group.find("circle").get("cx")),
            float(group.find("circle").get("cy")),
            group.find("circle").get("stroke"),
        )
        for group in parse(svg).iter("g")
    }


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (0.2, 0.31, [0.2, 0.22, 0.24, 0.26, 0.28, 0.3]),
        (-1, 1, [-1, -0.5, 0, 0.5, 1]),
        (1200, 1700, [1200, 1300, 1400, 1500, 1600, 1700]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize("high", [1e-9, 0.3, 7.0, 99.0, 123456.0])
def test_there_are_two_to_six_ticks_whatever_the_range(high):
    assert 2 <= len(ticks(0, high)) <= 6


def test_a_line_breaks_at_a_gap_and_a_lonely_value_is_a_dot():
    svg = line_chart("t", [Line("a", range(6), [1, 2, None, 3, None, 4])], x_label="frame", y_label="error")
    path = parse(svg).find("g/path").get("d")
    assert re.sub(r"[\d. ]", "", path) == "MLMM"
    assert len(parse(svg).findall("g/circle")) == 2
    at = numbers(path)
    assert at[::2] == pytest.approx([58, 58 + 450 / 5, 58 + 450 * 3 / 5, 508], abs=0.06)
    # The axis begins at 0, so that heights above it are as the values are: 1, 2, 3, 4.
    bottom = 250 - 38
    heights = [bottom - y for y in at[1::2]]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 2, 3, 4], rel=0.01)


def test_equal_factors_are_equally_far_apart_on_a_logarithmic_axis():
    svg = line_chart("t", [Line("a", range(4), [100, 10, 0, 1])], x_label="step", y_label="loss", is_log=True)
    y = numbers(parse(svg).find("g/path").get("d"))[1::2]
    assert len(y) == 3  # 0 has no place there
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.11)
    assert y[0] < y[1]


def test_lines_of_a_chart_differ_in_colour_or_dash():
    lines = [Line(str(i), [0, 1], [i, i + 1]) for i in range(20)]
    paths = parse(line_chart("t", lines, x_label="x", y_label="y")).findall("g/path")
    assert len({(path.get("stroke"), path.get("stroke-dasharray")) for path in paths}) == 20


def test_nothing_to_draw_is_the_empty_text():
    assert line_chart("t", [Line("a", [], []), Line("b", [1], [None])], x_label="x", y_label="y") == ""
    assert line_chart("t", [Line("a", [1], [float("nan")])], x_label="x", y_label="y") == ""
    assert plane([]) == ""


def test_one_value_and_equal_values_have_a_chart():
    assert "<svg" in line_chart("t", [Line("a", [3], [0.5])], x_label="x", y_label="y")
    assert "<svg" in line_chart("t", [Line("a", [0, 1], [0.0, 0.0])], x_label="x", y_label="y")
    assert "<svg" in line_chart("t", [Line("a", [0, 1], [2.0, 2.0])], x_label="x", y_label="y", is_log=True)
    assert "<svg" in plane([Point("a", 0, 0)])


def test_points_stand_where_their_values_are_and_joins_go_through_them():
    points = [Point("a", 1, 10), Point("b", 2, 20, colour=1), Point("c", 4, 10, is_filled=False)]
    svg = plane(points, joins=[("a", "b", "c"), ("a", "unknown")])
    at = spots(svg)
    assert at["c"][0] - at["b"][0] == pytest.approx(2 * (at["b"][0] - at["a"][0]), abs=0.2)
    assert at["a"][1] == at["c"][1] > at["b"][1]
    assert at["a"][2] != at["b"][2]
    [line] = parse(svg).findall("polyline")
    assert numbers(line.get("points")) == [n for name in "abc" for n in at[name][:2]]
    assert [circle.get("fill") == "none" for circle in parse(svg).iter("circle")] == [False, False, True]


def test_a_far_point_stands_at_the_edge_with_its_values_and_does_not_set_the_range():
    points = [Point("a", 1, 10), Point("b", 2, 20)]
    alone, beside = spots(plane(points)), spots(plane(points, far=[Point("constant", 0, 900)]))
    assert (alone["a"], alone["b"]) == (beside["a"], beside["b"])
    name = "constant (off the chart"
    assert beside[name][1] == 30  # the top
    assert "constant (off the chart: 0, 900)" in plane(points, far=[Point("constant", 0, 900)])
    near = spots(plane(points, far=[Point("constant", 2.2, 14)]))
    assert near["constant"][0] > near["b"][0]


def test_names_do_not_cover_each_other():
    points = [Point(f"method {i}", 1 + 0.02 * (i % 3), 1 + 0.3 * i) for i in range(6)]
    texts = [text for text in parse(plane(points)).findall("text") if text.text.startswith("method")]
    boxes = [(float(t.get("x")), float(t.get("y"))) for t in texts]
    for i, (x, y) in enumerate(boxes):
        for other_x, other_y in boxes[:i]:
            assert abs(y - other_y) >= 10 or abs(x - other_x) >= 50


def test_names_are_escaped_and_the_chart_has_a_title_to_read_out():
    svg = line_chart("a < b", [Line('<i>"x"', [0, 1], [1, 2])], x_label="<x>", y_label="&")
    root = parse(svg)
    assert (root.get("role"), root.get("aria-label"), root.find("title").text) == ("img", "a < b", "a < b")
    assert root.find("g/title").text == '<i>"x"'
    assert "http" not in svg
    assert 'fill="currentColor"' in svg
    assert {text.get("text-anchor") for text in root.iter("text")} == {None, "start", "middle", "end"}
