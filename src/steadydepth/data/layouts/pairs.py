"""Your own list: a CSV with a header, or JSON lines, of images and their depth.

    image,depth,scale,sequence,fps
    a/0.jpg,a/0.png,0.001,walk,30

`image` is all that must be there; paths are relative to the list. `scale` is the metres of one unit of the depth file
(needed for 16-bit PNG, 1 otherwise). Lines of one `sequence` are its frames, in their order; a line without one is a
image, a sequence of one frame.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.data.layouts.recording import Recording, files_reader, scaled
from steadydepth.types import InputError

_KEYS = {"image", "depth", "scale", "sequence", "fps"}


def find_recordings(path: Path, split: str | None) -> Iterator[Recording]:
    """What the list `path` names; the depth of a sequence has one scale, and its frames one rate."""
    for name, lines in _grouped(path).items():
        scale = _number(path, lines, "scale", 1.0)
        images = [path.parent / line["image"] for line in lines]
        depths = [path.parent / line["depth"] if line.get("depth") else None for line in lines]
        is_png = any(depth is not None and depth.suffix.lower() == ".png" for depth in depths)
        if is_png and not lines[0].get("scale"):
            raise InputError(
                f"{path}: {name}: no scale; 16-bit PNG needs the metres of one step, such as 0.001: add it"
            )
        yield Recording(
            name=name,
            fps=_number(path, lines, "fps", 1.0),
            n_frames=len(images),
            read=files_reader(images, depths, scaled(scale)),
            depth_scale_m=scale if is_png else 0.001,
            source=path.name,
            licence="",
        )


def _grouped(path: Path) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.get("image") or set(line) - _KEYS:
            raise InputError(f"{path}: entry {number}: {line}; keys are {', '.join(sorted(_KEYS))}, image is needed")
        groups.setdefault(str(line.get("sequence") or f"{path.stem}_{number:06d}"), []).append(line)
    return groups


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            if path.suffix == ".csv":
                return list(csv.DictReader(file))
            return [dict(json.loads(line)) for line in file if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as CSV or JSON lines ({error}): give a .csv or .jsonl") from error


def _number(path: Path, lines: list[dict[str, Any]], key: str, otherwise: float) -> float:
    """What all `lines` say of `key`."""
    values = {line.get(key) for line in lines}
    try:
        numbers = {float(value) if value not in (None, "") else otherwise for value in values}
    except (TypeError, ValueError):
        numbers = set()
    if len(numbers) != 1 or not 0 < (number := numbers.pop()) < np.inf:
        raise InputError(f"{path}: {key} {values}; a sequence has one, above 0: write the same in all its lines")
    return number
