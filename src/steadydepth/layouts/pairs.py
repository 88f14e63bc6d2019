"""Your own list: a CSV with a header, or JSON lines, of images and their depth.

    image,depth,scale,sequence,fps
    a/0.jpg,a/0.png,0.001,walk,30

`image` is all that must be there; paths are relative to the list. `scale` is the metres of one unit of the depth file
(needed for PNG and PGM of 16 bits, 1 otherwise). Depth of floats is written in the steps that fit it. Lines of one
`sequence` are its frames, in their order; a line without one is an image, a sequence of one frame.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from steadydepth.files.damage import reading
from steadydepth.layouts.recording import Found, Recording, each, files_reader, scaled
from steadydepth.types import InputError

LOG = logging.getLogger(__name__)
# Half of a scene is never farther.
FARTHEST_M = 500.0
# Nothing is so far: renderers write 1e10 and the like where there is no surface, however many pixels that is.
_NOTHING_M = 1e6
# Of each depth file, for the choice of a step; and the share of pixels that may be a sky beyond it.
_SAMPLES, _MOST_SKY = 10000, 0.25
_KEYS = {"image", "depth", "scale", "sequence", "fps"}


def find_recordings(path: Path, split: str | None) -> Iterator[Found]:
    """What the list `path` names; the depth of a sequence has one scale, and its frames one rate."""
    groups = _grouped(path)
    yield from each(groups, lambda name: [_recording(path, name, groups[name])])


def _recording(path: Path, name: str, lines: list[dict[str, Any]]) -> Recording:
    scale = _number(path, lines, "scale", 1.0)
    images = [_listed(path, line["image"]) for line in lines]
    depths = [_listed(path, line["depth"]) if line.get("depth") else None for line in lines]
    is_png = any(depth is not None and depth.suffix.lower() in (".png", ".pgm") for depth in depths)
    if is_png and not lines[0].get("scale"):
        raise InputError(
            f"{path}: {name}: no scale; depth of 16 bits needs the metres of one step, such as 0.001: add it"
        )
    read = scaled(scale)
    return Recording(
        name=name,
        fps=_number(path, lines, "fps", 1.0),
        n_frames=len(images),
        read=files_reader(images, depths, read),
        depth_scale_m=scale if is_png else _fitting_step(_samples(depths, read)),
        source=path.name,
        licence="",
    )


def _listed(path: Path, name: str) -> Path:
    """A file of the list, relative to it or not; with the backslashes of Windows as well."""
    found = path.parent / name
    # A line that is split at the wrong places may be too long for a name.
    return found if os.path.exists(found) else path.parent / name.replace("\\", "/")  # noqa: PTH110


def _samples(
    depths: Iterable[Path | None], read: Callable[[Path], Float32[np.ndarray, "h w"]]
) -> Iterator[Float32[np.ndarray, "n"]]:
    """Measured depth of each file, evenly thinned out but for the farthest; a file that cannot be read has its turn."""
    for depth in depths:
        with suppress(InputError):
            values = read(depth) if depth is not None else np.zeros(0, np.float32)
            measured = values[(values > 0) & (values < _NOTHING_M)]
            yield np.append(measured[:: max(1, len(measured) // _SAMPLES)], measured.max(initial=0))


def _fitting_step(depths: Iterable[Float32[np.ndarray, "n"]]) -> float:
    """The metres of one step of 16 bits for measured depth: a millimetre where that loses nothing.

    Otherwise the largest depth has the largest code. Where the nearest pixels (2 %) would then be wrong by more than
    half a percent, because of a sky far behind all else, and no more than a quarter of the pixels is beyond what finer
    steps reach, these are taken: what is beyond is not measured.
    """
    values = np.concatenate([np.zeros(0, np.float32), *depths]).astype(np.float64)
    values = values[values > 0]
    if not len(values):
        return 0.001
    if np.median(values) > FARTHEST_M:
        LOG.warning(
            "half of the depth is beyond %g m (its median is %.4g m): check `scale`", FARTHEST_M, np.median(values)
        )
    near, far = float(np.quantile(values, 0.02)), float(values.max())
    finest = 0.01 * near
    if finest >= 0.001 and far <= 65.535:
        return 0.001
    if far / 65535 > finest and (values > 65535 * finest).mean() <= _MOST_SKY:
        return finest
    return far / 65535


def _grouped(path: Path) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line.get("image") or set(line) - _KEYS:
            line = {key: value for key, value in line.items() if value}
            raise InputError(f"{path}: entry {number}: {line}; keys are {', '.join(sorted(_KEYS))}, image is needed")
        groups.setdefault(str(line.get("sequence") or f"{path.stem}_{number:06d}"), []).append(line)
    return groups


def _lines(path: Path) -> list[dict[str, Any]]:
    with reading(path, "as CSV or JSON", "give a .csv with a header, a .jsonl or a list in .json"):
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            return _csv_lines(text)
        is_list = text.lstrip().startswith("[")
        lines = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
        if wrong := next((line for line in lines if not isinstance(line, dict)), None):
            raise ValueError(f"{str(wrong)[:80]} is no object with keys")
        return [
            {key: value if isinstance(value, str) else str(value) for key, value in line.items() if value is not None}
            for line in lines
        ]


def _csv_lines(text: str) -> list[dict[str, Any]]:
    """Lines of a CSV with commas, tabs or semicolons (Excel, where commas are for decimals); without spaces around."""
    head = text.split("\n", 1)[0]
    between = max(",;\t", key=head.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=between, skipinitialspace=True)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    return [{key: value.strip() if isinstance(value, str) else value for key, value in row.items()} for row in rows]


def _number(path: Path, lines: list[dict[str, Any]], key: str, otherwise: float) -> float:
    """What all `lines` say of `key`."""
    values = {line.get(key) for line in lines}
    try:
        # A decimal comma beside semicolons.
        numbers = {float(str(value).replace(",", ".")) if value not in (None, "") else otherwise for value in values}
    except (TypeError, ValueError):
        numbers = set()
    if len(numbers) != 1 or not 0 < (number := numbers.pop()) < np.inf:
        raise InputError(f"{path}: {key} {values}; a sequence has one, above 0: write the same in all its lines")
    return number
