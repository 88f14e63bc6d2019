"""One self-contained HTML page: tables, loss curves, pictures and video."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from steadydepth.errors import InputError
from steadydepth.output.colours import colour_depth, depth_range

Pictures = UInt8[np.ndarray, "t h w 3"]
GAP = 4  # pixels between pictures that stand side by side
COLUMN_FRAMES = 4  # consecutive frames shown beside each other
STRIP_WIDTH = 600  # pixels of the strip over time, about: each frame gets the same whole number of them


@dataclass(frozen=True)
class Table:
    """Rows of `metrics.summary.table_rows`, with the columns in order."""

    title: str
    columns: list[str]
    rows: list[dict[str, str]]


@dataclass(frozen=True)
class ClipView:
    """What the page shows of one clip; pictures and video as data URLs."""

    name: str
    labels: list[str]
    video: str
    frames: str
    strips: list[tuple[str, str]]


@dataclass(frozen=True)
class Section:
    """One data set: how it was scored, its tables and a few of its clips."""

    title: str
    facts: str
    tables: list[Table]
    clips: list[ClipView]


def colour_alike(depths: Mapping[str, Float32[np.ndarray, "t h w"]]) -> dict[str, Pictures]:
    """Several depth videos of one clip in one colour range, so that they can be compared and flicker stays visible."""
    near, far = depth_range(depths.values())
    return {name: colour_depth(depth, near, far) for name, depth in depths.items()}


def side_by_side(videos: Sequence[UInt8[np.ndarray, "t h _ 3"]]) -> UInt8[np.ndarray, "t h wide 3"]:
    """Videos of one length and height beside each other, white between them."""
    t, h = videos[0].shape[:2]
    gap = np.full((t, h, GAP, 3), 255, np.uint8)
    parts = [part for video in videos for part in (gap, video)]
    return np.concatenate(parts[1:], axis=2)


def consecutive_frames(videos: Sequence[Pictures]) -> UInt8[np.ndarray, "high wide 3"]:
    """A row for each video with a few consecutive frames from its middle."""
    first = max(len(videos[0]) // 2 - COLUMN_FRAMES // 2, 0)
    rows = []
    for video in videos:
        shown = video[first : first + COLUMN_FRAMES]
        rows.append(side_by_side([frame[None] for frame in shown])[0])
    gap = np.full((GAP, rows[0].shape[1], 3), 255, np.uint8)
    parts = [part for row in rows for part in (gap, row)]
    return np.concatenate(parts[1:], axis=0)


def column_over_time(video: Pictures) -> UInt8[np.ndarray, "h t 3"]:
    """The middle column of each frame, in the order of time from left to right."""
    return np.ascontiguousarray(video[:, :, video.shape[2] // 2].swapaxes(0, 1))


def png_url(image: UInt8[np.ndarray, "h w 3"]) -> str:
    """A PNG as a data URL."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    if not done:
        raise RuntimeError(f"OpenCV could not encode a PNG of {image.shape}")
    return _data_url("image/png", data.tobytes())


def video_url(path: Path) -> str:
    """An MP4 file as a data URL."""
    return _data_url("video/mp4", path.read_bytes())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def view_clip(name: str, videos: Mapping[str, Pictures], video: str) -> ClipView:
    """The view of one clip from its videos by label; `video` is the URL of them side by side."""
    strips = []
    for label, pictures in videos.items():
        strip = column_over_time(pictures)
        width = len(pictures) * max(1, STRIP_WIDTH // len(pictures))
        wide = cv2.resize(strip, (width, strip.shape[0]), interpolation=cv2.INTER_NEAREST)
        strips.append((label, png_url(wide)))
    return ClipView(name, list(videos), video, png_url(consecutive_frames(list(videos.values()))), strips)


def draw_curves(logs: Mapping[str, Sequence[Mapping[str, float | int]]]) -> str:
    """Absolute and relative loss over the steps, a line for each run, as SVG."""
    try:
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("the curves of a report need matplotlib: pip install 'steadydepth[report]'") from error
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axis, part in zip(figure.subplots(1, 2), ("absolute", "relative"), strict=True):
        for name, lines in logs.items():
            axis.plot([line["step"] for line in lines], [line[part] for line in lines], label=name, linewidth=1.2)
        axis.set(title=f"{part} loss", xlabel="step", yscale="log")
        axis.grid(visible=True, alpha=0.3)
        axis.legend()
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text)
    return text.getvalue().partition("?>")[2].partition(">")[2]  # without XML and document type headers


def render_page(title: str, sections: Sequence[Section], *, curves: str, footer: str) -> str:
    """The page as text; everything that is not ours to mark up is escaped."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.get_template("report.html.j2")
    return page.render(title=title, sections=sections, curves=Markup(curves), footer=footer)
