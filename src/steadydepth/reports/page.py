"""One self-contained HTML page: tables, charts, images and video."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, UInt8

from steadydepth.files.images import encode_png
from steadydepth.metrics.edges import CONTRAST_RADIUS, contrast_change
from steadydepth.ops.colours import colour_change, colour_depth, colour_error, depth_range, error_top
from steadydepth.reports.charts import Line, line_chart

Images = UInt8[np.ndarray, "t h w 3"]
GAP = 4  # pixels between images that stand side by side
COLUMN_FRAMES = 4  # consecutive frames shown beside each other
STRIP_SIZE = (128, 600)  # pixels of the strip over time, about: each row and frame gets the same integer number of them
BAR = (12, 256)  # rows and columns of a colour bar


@dataclass(frozen=True)
class Table:
    """Rows of `evaluation.summary.table_rows`, with the columns in order."""

    title: str
    columns: list[str]
    rows: list[dict[str, str]]


@dataclass(frozen=True)
class MapView:
    """Maps of the shown frames, a row for each method, full colour at `top`, and a colour bar to it; data URLs."""

    rows: list[tuple[str, str]]
    top: float
    bar: str = ""


@dataclass(frozen=True)
class ClipView:
    """What the page shows of one clip; images and video as data URLs, charts as SVG."""

    name: str
    labels: list[str]
    video: str
    frames: list[tuple[str, str]]
    strips: list[tuple[str, str]]
    errors: MapView | None = None
    edges: MapView | None = None  # lost and gained
    charts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Section:
    """One data set: how it was scored, its tables, charts of all methods, and a few of its clips."""

    title: str
    facts: str
    tables: list[Table]
    clips: list[ClipView]
    charts: list[str] = field(default_factory=list)


def colour_alike(depths: Mapping[str, Float32[np.ndarray, "t h w"]]) -> dict[str, Images]:
    """Several depth videos of one clip in one colour range, so that they can be compared and flicker stays visible."""
    near, far = depth_range(depths.values())
    return {name: colour_depth(depth, near, far) for name, depth in depths.items()}


def side_by_side(videos: Sequence[UInt8[np.ndarray, "t h _ 3"]]) -> UInt8[np.ndarray, "t h wide 3"]:
    """Videos of one length and height beside each other, white between them."""
    t, h = videos[0].shape[:2]
    gap = np.full((t, h, GAP, 3), 255, np.uint8)
    parts = [part for video in videos for part in (gap, video)]
    return np.concatenate(parts[1:], axis=2)


def shown_frames(n_frames: int) -> slice:
    """The few consecutive frames from the middle of a clip that the page shows as images."""
    first = max(n_frames // 2 - COLUMN_FRAMES // 2, 0)
    return slice(first, min(first + COLUMN_FRAMES, n_frames))


def in_a_row(images: Images) -> UInt8[np.ndarray, "h wide 3"]:
    """Images beside each other, white between them."""
    return side_by_side([image[None] for image in images])[0]


def column_over_time(video: Images) -> UInt8[np.ndarray, "h t 3"]:
    """The middle column of each frame, in the order of time from left to right."""
    return np.ascontiguousarray(video[:, :, video.shape[2] // 2].swapaxes(0, 1))


def png_url(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A PNG as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"


def video_url(path: Path) -> str:
    """An MP4 file as a data URL."""
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def view_clip(
    name: str,
    videos: Mapping[str, Images],
    video: str,
    *,
    errors: MapView | None = None,
    edges: MapView | None = None,
    charts: Sequence[str] = (),
) -> ClipView:
    """The view of one clip from its videos.

    Args:
        name: of the clip.
        videos: by label, in the order in which they are shown.
        video: URL of all of them side by side.
        errors: where each one is wrong.
        edges: what each one loses of the edges.
        charts: SVG; empty ones are left out.
    """
    strips, frames = [], []
    for label, images in videos.items():
        strip = column_over_time(images)
        high, wide = (n * max(1, size // n) for n, size in zip(strip.shape, STRIP_SIZE, strict=False))
        strips.append((label, png_url(cv2.resize(strip, (wide, high), interpolation=cv2.INTER_NEAREST))))
        frames.append((label, png_url(in_a_row(images[shown_frames(len(images))]))))
    return ClipView(name, list(videos), video, frames, strips, errors, edges, [chart for chart in charts if chart])


def view_errors(errors: Mapping[str, Float[np.ndarray, "t h w"]], valid: Bool[np.ndarray, "t h w"]) -> MapView | None:
    """Maps of the errors of several methods in one colour range, grey where not `valid`; None where nothing is."""
    if not errors or not valid.any():
        return None
    top = error_top(errors.values(), [valid] * len(errors))
    rows = [(label, png_url(in_a_row(colour_error(error, top, valid)))) for label, error in errors.items()]
    ramp = np.tile(np.linspace(0, 1, BAR[1], dtype=np.float32), (BAR[0], 1))
    return MapView(rows, top, png_url(colour_error(ramp, 1.0, np.ones(BAR, bool))))


def view_edges(
    logs: Mapping[str, Float64[np.ndarray, "t h w"]],
    true_log: Float64[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
) -> MapView | None:
    """Edges that methods lose and gain, in one range of colours; None where nothing is valid.

    Args:
        logs: log depth by method.
        true_log: log of the label.
        valid: where it counts.
    """
    if not logs or not valid.any():
        return None
    changes = {label: contrast_change(log, true_log, valid) for label, log in logs.items()}
    top = error_top([np.abs(change) for change in changes.values()], [valid] * len(changes))
    rows = [(label, png_url(in_a_row(colour_change(change, top, valid)))) for label, change in changes.items()]
    return MapView(rows, top)


def draw_curves(logs: Mapping[str, Sequence[Mapping[str, float | int]]]) -> list[str]:
    """Absolute and relative loss over the steps, a line for each run, as SVG; one chart each."""
    charts = []
    for part in ("absolute", "relative"):
        lines = [
            Line(name, [line["step"] for line in log], [line.get(part) for line in log]) for name, log in logs.items()
        ]
        charts.append(line_chart(f"{part} loss", lines, x_label="step", y_label="loss", is_log=True))
    return [chart for chart in charts if chart]


def render_page(title: str, sections: Sequence[Section], *, curves: Sequence[str]) -> str:
    """The page as text.

    Args:
        title: of the page.
        sections: one for each set of data.
        curves: SVG of the training.
    """
    template = Path(__file__).with_name("page.html.j2")
    return render_template(template, title=title, sections=sections, curves=curves, edge_radius=CONTRAST_RADIUS)


def render_template(template: Path, **values: Any) -> str:
    """A page of Jinja as text; everything that is not ours to mark up is escaped."""
    import jinja2

    loader = jinja2.FileSystemLoader(template.parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template.name).render(values)
