"""Charts as SVG text: lines over an axis, and points in a plane. No library, no script, readable on light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

Number = float | int

# Tableau's ten without the greys: bright enough for a dark page, dark enough for a light one.
COLOURS = ("#4e79a7", "#e8832a", "#d9484c", "#4f9a47", "#a06a99", "#2fa39b", "#c79b1d", "#9c755f")
# The same colour comes back with another dash, so that no two of many lines look alike.
_DASHES = ("none", "6 3", "2 2", "8 3 2 3")
_LINES, _PLANE = (520, 250), (520, 380)  # width and height of the charts in pixels
_CHARACTER = 6.3  # width in pixels, about, of a letter of 11 px
_GRID = 'stroke="currentColor" stroke-opacity=".16"'
# A rim in the colour of the page keeps names readable where a line runs under them.
_RIM = 'style="paint-order:stroke;stroke:var(--paper,Canvas);stroke-width:3px"'


@dataclass(frozen=True)
class Line:
    """Values over x, both in data units; None is a gap. Lines of one name keep one colour by their place."""

    name: str
    x: Sequence[Number]
    y: Sequence[Number | None]


@dataclass(frozen=True)
class Point:
    """A named point; `colour` is its place in the palette, shared by what belongs together."""

    name: str
    x: Number
    y: Number
    colour: int = 0
    is_filled: bool = True


@dataclass(frozen=True)
class _Axes:
    """The values that are shown, and the rectangle of the image in pixels that shows them."""

    x: tuple[Number, Number]
    y: tuple[Number, Number]
    left: Number
    right: Number
    top: Number
    bottom: Number
    is_log: bool = False

    def across(self, x: Number) -> Number:
        return self.left + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - self.left)

    def up(self, y: Number) -> Number:
        low, high, value = (math.log10(v) for v in (*self.y, y)) if self.is_log else (*self.y, y)
        return self.bottom - (value - low) / (high - low) * (self.bottom - self.top)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    is_log: bool = False,
) -> str:
    """Lines over one x axis, with a legend; the y axis begins at 0.

    Args:
        title: above it.
        lines: of one x axis.
        x_label: below it.
        y_label: beside it.
        is_log: a logarithmic y axis, which leaves out all but positives.

    Returns: SVG; the empty text when there is no value to draw.
    """

    def drawable(y: Number | None) -> Number | None:
        return None if y is None or not math.isfinite(y) or (is_log and y <= 0) else float(y)

    shown = [replace(line, y=[drawable(y) for y in line.y]) for line in lines]
    values = [y for line in shown for y in line.y if y is not None]
    if not values:
        return ""
    width, height = _LINES
    legend, legend_height = _legend([line.name for line in shown], width)
    low, high = min(values), max(values)
    across = _padded(min(min(line.x) for line in shown if line.x), max(max(line.x) for line in shown if line.x), 0)
    if is_log:
        first, last = _padded(math.log10(low), math.log10(high), 0.05)
        up = 10**first, 10**last
    else:
        up = min(low, 0), _padded(min(low, 0), high, 0.05)[1]
    axes = _Axes(across, up, 58, width - 12, 26 + legend_height, height - 38, is_log)
    drawn = [_drawn_line(line, number, axes) for number, line in enumerate(shown)]
    return _svg(title, width, height, [legend, _frame(axes, x_label, y_label), *drawn])


def plane_chart(
    title: str,
    points: Sequence[Point],
    *,
    x_label: str,
    y_label: str,
    joins: Sequence[Sequence[str]] = (),
    far: Sequence[Point] = (),
) -> str:
    """Named points in a plane.

    Args:
        title: above it.
        points: set the axes.
        x_label: below it.
        y_label: beside it.
        joins: names of points; a line goes through those of each, in that order.
        far: points that do not set the axes; those that lie well outside stand at the edge, with their values as a
            note.

    Returns: SVG; the empty text without points.
    """
    if not points:
        return ""
    width, height = _PLANE
    across, up = _span([point.x for point in points], far, "x"), _span([point.y for point in points], far, "y")
    axes = _Axes(across, up, 58, width - 16, 30, height - 38)
    placed = [*points, *(_at_the_edge(point, axes) for point in far)]
    at = {point.name: (axes.across(point.x), axes.up(point.y)) for point in placed}
    colours = {point.name: COLOURS[point.colour % len(COLOURS)] for point in placed}
    lines = [_join([name for name in join if name in at], at, colours) for join in joins]
    marks = [_mark(point, *at[point.name]) for point in placed]
    labels = _labels([point.name for point in placed], list(at.values()), axes)
    return _svg(title, width, height, [_frame(axes, x_label, y_label), *lines, *marks, *labels])


def _padded(low: Number, high: Number, share: Number) -> tuple[Number, Number]:
    """The range with a margin of that share on both sides, and never empty."""
    margin = share * (high - low) if high > low else 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _span(values: list[Number], far: Sequence[Point], axis: str) -> tuple[Number, Number]:
    """The range of `values` and of what is not more than half of it away, with a margin for the names."""
    low, high = min(values), max(values)
    reach = 0.5 * (high - low) if high > low else 0.1 * abs(high)
    near = [value for value in (getattr(point, axis) for point in far) if low - reach <= value <= high + reach]
    return _padded(min([low, *near]), max([high, *near]), 0.14)


def _at_the_edge(point: Point, axes: _Axes) -> Point:
    x, y = (min(max(v, a), b) for v, (a, b) in ((point.x, axes.x), (point.y, axes.y)))
    if (x, y) == (point.x, point.y):
        return point
    return replace(point, name=f"{point.name} (off the chart: {point.x:.3g}, {point.y:.3g})", x=x, y=y)


def ticks(low: Number, high: Number) -> list[Number]:
    """Round numbers from `low` up to `high`, a step of 1, 2 or 5 times a power of ten apart, six at the most."""
    power = 10.0 ** math.floor(math.log10((high - low) / 6))
    step = next(power * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (power * factor) < 6)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: Number, high: Number) -> list[Number]:
    factors = (1,) if high / low > 1000 else (1, 2, 5)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for factor in factors if low <= (tick := factor * 10.0**power) <= high]


def _frame(axes: _Axes, x_label: str, y_label: str) -> str:
    """Grid, numbers and names of both axes."""
    parts = []
    for tick in ticks(*axes.x):
        at = axes.across(tick)
        parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{axes.top}" y2="{axes.bottom}" {_GRID}/>')
        parts.append(_text(at, axes.bottom + 15, f"{tick:.4g}", "middle"))
    for tick in _log_ticks(*axes.y) if axes.is_log else ticks(*axes.y):
        at = axes.up(tick)
        parts.append(f'<line x1="{axes.left}" x2="{axes.right}" y1="{at:.1f}" y2="{at:.1f}" {_GRID}/>')
        parts.append(_text(axes.left - 6, at + 4, f"{tick:.4g}", "end"))
    parts.append(_text((axes.left + axes.right) / 2, axes.bottom + 32, x_label, "middle"))
    middle = (axes.top + axes.bottom) / 2
    turned = f'<text transform="translate(12 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    return "".join([*parts, turned])


def _stroke(number: int) -> str:
    dash = _DASHES[number // len(COLOURS) % len(_DASHES)]
    return f'stroke="{COLOURS[number % len(COLOURS)]}" stroke-width="1.6" stroke-dasharray="{dash}"'


def _legend(names: Sequence[str], width: int) -> tuple[str, int]:
    """A row, or as many as it takes, of line and name; and their height in pixels."""
    parts, x, y = [], 58.0, 34
    for number, name in enumerate(names):
        needed = 34 + _CHARACTER * len(name)
        if x + needed > width and x > 58:
            x, y = 58.0, y + 16
        parts.append(f'<line x1="{x:.1f}" x2="{x + 18:.1f}" y1="{y - 4}" y2="{y - 4}" {_stroke(number)}/>')
        parts.append(_text(x + 23, y, name, "start"))
        x += needed
    return "".join(parts), y - 18


def _drawn_line(line: Line, number: int, axes: _Axes) -> str:
    """The parts of a line between its gaps; a value with a gap on both sides is a dot."""
    known = [(axes.across(x), axes.up(y)) if y is not None else None for x, y in zip(line.x, line.y, strict=True)]
    steps, dots = [], []
    for before, here, after in zip([None, *known], known, [*known[1:], None], strict=False):
        if here is None:
            continue
        steps.append(f"{'L' if before else 'M'}{here[0]:.1f} {here[1]:.1f}")
        if before is None and after is None:
            dots.append(
                f'<circle cx="{here[0]:.1f}" cy="{here[1]:.1f}" r="2" fill="{COLOURS[number % len(COLOURS)]}"/>'
            )
    path = f'<path d="{"".join(steps)}" fill="none" {_stroke(number)}/>'
    return f"<g><title>{escape(line.name)}</title>{path}{''.join(dots)}</g>"


def _join(names: list[str], at: dict[str, tuple[Number, Number]], colours: dict[str, str]) -> str:
    if len(names) < 2:
        return ""
    through = " ".join(f"{at[name][0]:.1f},{at[name][1]:.1f}" for name in names)
    return f'<polyline points="{through}" fill="none" stroke="{colours[names[0]]}" stroke-opacity=".55"/>'


def _mark(point: Point, x: Number, y: Number) -> str:
    colour = COLOURS[point.colour % len(COLOURS)]
    fill = colour if point.is_filled else "none"
    mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'
    return f"<g><title>{escape(f'{point.name}: {point.x:.4g}, {point.y:.4g}')}</title>{mark}</g>"


def _labels(names: list[str], at: list[tuple[Number, Number]], axes: _Axes) -> list[str]:
    """Each name beside its point, on the side where it covers least of the points and of the names before it."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in at]
    texts = []
    for name, (x, y) in zip(names, at, strict=True):
        wide = _CHARACTER * len(name)
        # left edge and baseline: right, left, above, below, and the corners
        sides = [(x + 9, y + 4), (x - 9 - wide, y + 4), (x - wide / 2, y - 10), (x - wide / 2, y + 18)]
        sides += [(x + 6, y - 9), (x - 6 - wide, y - 9), (x + 6, y + 17), (x - 6 - wide, y + 17)]
        boxes = [(left, base - 10, left + wide, base + 3) for left, base in sides]
        covered = [sum(_overlap(box, other) for other in taken) + 10 * _outside(box, axes) for box in boxes]
        best = covered.index(min(covered))
        taken.append(boxes[best])
        texts.append(_text(*sides[best], name, "start"))
    return texts


_Box = tuple[Number, Number, Number, Number]


def _overlap(one: _Box, other: _Box) -> Number:
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0) * max(high, 0)


def _outside(box: _Box, axes: _Axes) -> Number:
    wide = max(axes.left - box[0], 0) + max(box[2] - axes.right, 0)
    return wide + max(axes.top - box[1], 0) + max(box[3] - axes.bottom, 0)


def _text(x: Number, y: Number, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_RIM}>{escape(text)}</text>'


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    """Text takes the colour of the page; the title is read out, and shown when the pointer rests on the chart."""
    name = escape(title)
    head = f'<svg role="img" aria-label="{name}" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="currentColor"'
    heading = f'<text x="58" y="15" font-size="13" font-weight="600">{name}</text>'
    return f"{head} {style}><title>{name}</title>{heading}{''.join(parts)}</svg>"
