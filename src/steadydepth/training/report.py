"""What a person wants to see of finished runs, collected into one page."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import nn

from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.video_files import write_video
from steadydepth.errors import InputError
from steadydepth.files.whole_files import new_file
from steadydepth.metrics.evaluate import predict_sequence
from steadydepth.metrics.summary import table_rows
from steadydepth.models.load import load_model
from steadydepth.output.report import (
    ClipView,
    Pictures,
    Section,
    Table,
    colour_alike,
    draw_curves,
    render_page,
    side_by_side,
    video_url,
    view_clip,
)

SHOWN_SIDE = 256  # pixels: small frames are enlarged to about this for the page
MOVING_PICTURE = "flicker.webp"
LONGEST = 150  # frames of a clip that the page shows


@dataclass(frozen=True)
class Evaluation:
    """A metrics.json and the folder it lies in."""

    name: str
    report: dict[str, Any]


def _find(folders: list[Path], file: str) -> list[Path]:
    """The file in each folder, or in the folders directly inside it."""
    found = [path for folder in folders for path in sorted({*folder.glob(file), *folder.glob(f"*/{file}")})]
    return sorted(set(found), key=lambda path: path.stat().st_mtime)


def _read_log(path: Path) -> list[dict[str, float | int]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_report(runs: list[Path], out: Path | None = None) -> Path:
    """One page of the runs and evaluations in `runs`, at `out` or as report.html in the first; returns its path.

    A folder is taken with the folders directly inside it. Evaluations on the same data stand in one section. Beside the
    page, flicker.webp shows the first labelled clip.
    """
    missing = [str(folder) for folder in runs if not folder.is_dir()]
    if missing:
        raise InputError(
            f"{', '.join(missing)}: no such folder; give run folders, or a folder of them such as runs/demo"
        )
    evaluations = [Evaluation(path.parent.name, json.loads(path.read_text())) for path in _find(runs, "metrics.json")]
    logs = {path.parent.name: _read_log(path) for path in _find(runs, "metrics.jsonl")}
    if not evaluations and not logs:
        raise InputError(f"{runs[0]}: holds no metrics.json and no metrics.jsonl; train or evaluate into it first")
    page = out or runs[0] / "report.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    (page.parent / MOVING_PICTURE).unlink(missing_ok=True)
    groups: dict[str, list[Evaluation]] = {}
    for evaluation in evaluations:
        groups.setdefault(evaluation.report["header"]["data"], []).append(evaluation)
    sections = [_section(data, group, page.parent) for data, group in groups.items()]
    html = render_page(
        f"steadydepth: {runs[0].name}",
        sections,
        curves=draw_curves(logs) if logs else "",
        footer="Written by steadydepth report. One alignment for a clip, one colour range for a clip.",
    )
    with new_file(page) as part:
        part.write_text(html)
    return page


def _section(data: str, group: list[Evaluation], folder: Path) -> Section:
    header = group[0].report["header"]
    facts = ", ".join(
        f"{name} {header[name]}"
        for name in ("n_clips", "n_frames", "fps", "align", "dmax", "split_source", "flow_source", "n_skipped")
        if header.get(name) is not None
    )
    tables = [
        _table(title, {one.name: one.report for one in group}, part)
        for title, part in (("All clips", "mean"), ("Fixed camera", "mean_fixed"), ("Moving camera", "mean_moving"))
    ]
    models = {one.name: one.report["header"].get("model") for one in group}
    shown = {name: load_model(model) for name, model in models.items() if model is not None and Path(model).is_dir()}
    clips = []
    if shown and Path(data).exists():
        clips = [_view(sequence, shown, folder) for sequence in _choose(Path(data))]
    return Section(data, facts, [table for table in tables if table.rows], clips)


def _table(title: str, reports: dict[str, dict[str, Any]], part: str) -> Table:
    def only(table: dict[str, Any]) -> dict[str, Any]:
        return {"mean": table.get(part) or {}}

    chosen = {
        name: only(report) | {"controls": {key: only(one) for key, one in report.get("controls", {}).items()}}
        for name, report in reports.items()
    }
    rows = table_rows(chosen)
    head = ("metric", "unit", "better", "best", "note")
    return Table(title, [name for name in rows[0] if name not in head] if rows else [], rows)


def _choose(data: Path) -> list[Sequence]:
    """The first clip of a fixed camera and the first of a moving one; else the first two."""
    sequences = [open_sequence(path) for path in find_sequences(data)]
    first: dict[bool | None, Sequence] = {}
    for sequence in sequences:
        first.setdefault(sequence.fixed_camera, sequence)
    return list(first.values())[:2] if len(first) > 1 else sequences[:2]


def _view(sequence: Sequence, models: dict[str, nn.Module], folder: Path) -> ClipView:
    clip = sequence.read(0, min(sequence.n_frames, LONGEST))
    depths = {} if clip.depth is None else {"label": clip.depth}
    for name, model in models.items():
        depths[name] = predict_sequence(model, sequence, stop=LONGEST)
    videos = {"input": clip.frames} | colour_alike(depths)
    videos = {label: _enlarge(pictures) for label, pictures in videos.items()}
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "clip.mp4"
        write_video(path, side_by_side(list(videos.values())), clip.fps)
        url = video_url(path)
    if clip.depth is not None and not (folder / MOVING_PICTURE).exists():
        kept = [videos[label] for label in videos if label != "label"]
        _write_moving_picture(folder / MOVING_PICTURE, side_by_side(kept), clip.fps)
    return view_clip(sequence.name, videos, url)


def _enlarge(pictures: Pictures) -> UInt8[np.ndarray, "t high wide 3"]:
    h, w = pictures.shape[1:3]
    factor = max(1, round(SHOWN_SIDE / max(h, w)))
    size = (w * factor, h * factor)
    return np.stack([cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST) for picture in pictures])


def _write_moving_picture(path: Path, pictures: Pictures, fps: float) -> None:
    images = [Image.fromarray(picture) for picture in pictures]
    with new_file(path) as part:
        images[0].save(part, save_all=True, append_images=images[1:], duration=round(1000 / fps), loop=0, quality=70)
