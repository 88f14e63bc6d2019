"""Pictures, folders and videos in; files of depth out, each whole or not at all, in constant memory."""

import json
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8

from steadydepth.data.video_files import write_depth_video, write_video
from steadydepth.files.image_files import write_png
from steadydepth.files.whole_files import check_name
from steadydepth.inference.exported import ExportedNet, is_exported
from steadydepth.inference.filters import check_filter, filter_frames
from steadydepth.inference.predictor import Predictor, Result
from steadydepth.inference.sources import Source, expand_input, open_source
from steadydepth.output.colours import colour_depth, depth_range, is_measured
from steadydepth.output.depth_files import (
    encode_range,
    picture_scale,
    write_prediction_exr,
    write_prediction_frames,
    write_prediction_pictures,
)
from steadydepth.output.exr_files import load_openexr
from steadydepth.output.stored_depth import open_raw
from steadydepth.types import Claims, DepthFrames, InputError

__all__ = ["Predictor", "Result", "load", "predict_files"]

# Told what is done, how many frames of it, and how many there are (0: not known).
Progress = Callable[[str, int, int], None]

_PREVIEW_SIDE = 640


@dataclass(frozen=True)
class _Predicted:
    """All depth of one source, on disk until it is asked for."""

    source: Source
    depth: DepthFrames  # NaN where there is no value

    @property
    def claims(self) -> Claims:
        return self.depth.claims

    def pictures(self, max_side: int | None) -> Iterator[UInt8[np.ndarray, "i j 3"]]:
        """Each frame with its depth in colours on the right, one range for all; the frames are read a second time."""
        near, far = depth_range(self.depth.read(), claims=self.claims)
        for image, depth in zip(self.source.frames(), self.depth.read(), strict=True):
            pair = np.hstack((image, colour_depth(depth, near, far, claims=self.claims)))
            factor = 1.0 if max_side is None else min(1.0, max_side / max(image.shape[:2]))
            size = (max(2, round(pair.shape[1] * factor)), max(2, round(pair.shape[0] * factor)))
            yield pair if factor == 1 else cv2.resize(pair, size, interpolation=cv2.INTER_AREA)

    def ends(self) -> tuple[float, float]:
        """The smallest and the largest value there is; (1, 2) when there is none."""
        low, high = np.inf, -np.inf
        for depth in self.depth.read():
            values = depth[is_measured(depth, self.claims)]
            if len(values):
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return (low, high) if low <= high else (1.0, 2.0)


def load(name: str | Path, *, device: torch.device | str | None = None, max_side: int | None = None) -> Predictor:
    """The model `name`, ready to predict: a folder, a hub name, `package.module:factory` or an exported file.

    A network is on a GPU when there is one and no device is named; a file runs on the CPU, at its own size.
    """
    if is_exported(name):
        return Predictor(ExportedNet(name), device="cpu", max_side=max_side)
    from steadydepth.models.load import load_model

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return Predictor(load_model(name), device=device, max_side=max_side)


def predict_files(
    predictor: Predictor,
    inputs: list[Path],
    out: Path,
    *,
    format: str = "npz",
    max_side: int | None = None,
    overwrite: bool = False,
    resume: bool = False,
    shard: tuple[int, int] | None = None,
    filter: str | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Depth and a coloured preview of every picture, picture folder, sequence folder and video; returns what it wrote.

    A folder is one video, in the order of its names. `npz`, `png16` and `exr` are prediction folders for evaluate;
    `mkv` is 16-bit FFV1 with a json that says how to read its codes; `mp4` shows frame and depth side by side,
    with the sound and the times of the video.
    `filter` is a key of `filters.FILTERS`. `shard` (i, n), i from 1, takes the inputs i, i + n, ... of all. InputError
    before anything is done when an output exists, unless `overwrite`, or two inputs share one name; and at the end,
    naming each, when some inputs could not be read: the others are written. `resume` leaves out inputs whose outputs
    are all there, and goes on with the others.
    """
    if format not in _WRITERS:
        raise InputError(f"format {format!r} is unknown; there are {', '.join(_WRITERS)}")
    if format == "exr":
        load_openexr()  # an installation without it is told now, not after the first video
    if filter is not None:
        check_filter(filter)
    if max_side is not None:
        predictor = Predictor(predictor.model, device=predictor.device, max_side=max_side)
    sources, failed = _open_all(inputs, shard or (1, 1))
    if resume:
        sources = {path: source for path, source in sources.items() if not _is_done(source, out, format)}
    _refuse_outputs(sources, out, format, overwrite=overwrite or resume)
    written: list[Path] = []
    with _telling(progress) as tell:
        for path, source in sources.items():
            try:
                written += _predict_one(predictor, source, out, format, filter, tell)
            except InputError as error:
                failed[path] = str(error)
            except Exception as error:
                error.add_note(f"while predicting {path}")
                raise
    if failed:
        listed = "\n".join(f"{path}: {why}" if str(path) not in why else why for path, why in failed.items())
        raise InputError(f"{len(failed)} input(s) failed, {len(sources.keys() - failed.keys())} written:\n{listed}")
    return written


def _open_all(inputs: list[Path], shard: tuple[int, int]) -> tuple[dict[Path, Source], dict[Path, str]]:
    index, n_shards = shard
    if not 1 <= index <= n_shards:
        raise InputError(f"shard {index}/{n_shards}: the first of four is 1/4, the last 4/4")
    failed: dict[Path, str] = {}
    paths: list[Path] = []
    for given in inputs:
        try:
            paths += expand_input(given)
        except InputError as error:
            failed[given] = str(error)
    sources: dict[Path, Source] = {}
    for path in paths[index - 1 :: n_shards]:
        try:
            sources[path] = open_source(path)
        except InputError as error:
            failed[path] = str(error)
    first: dict[str, Path] = {}
    for path, source in sources.items():
        if (other := first.setdefault(source.name, path)) != path:
            raise InputError(f"{other} and {path} would both be written as {source.name}: rename one, or run twice")
    return sources, failed


def _outputs(source: Source, format: str) -> list[str]:
    """Names of what is written for `source`, the depth first."""
    preview = f"{source.name}_preview.{'png' if source.n_frames == 1 else 'mp4'}"
    depth = {"npz": ".npz", "png16": "", "exr": "", "mp4": ".mp4", "mkv": ".mkv"}[format]
    beside = {"mp4": [], "mkv": [f"{source.name}.json", preview]}.get(format, [preview])
    return [f"{source.name}{depth}", *beside]


def _is_done(source: Source, out: Path, format: str) -> bool:
    return all((out / name).exists() for name in _outputs(source, format))


def _refuse_outputs(sources: dict[Path, Source], out: Path, format: str, *, overwrite: bool) -> None:
    inputs = {path.resolve() for path in sources}
    for source in sources.values():
        check_name(source.name, out)
        for path in (out / name for name in _outputs(source, format)):
            if path.resolve() in inputs:
                raise InputError(f"{path} is an input and would be overwritten: choose another folder for the output")
            if path.exists() and not overwrite:
                raise InputError(f"{path} exists: choose another folder, or say overwrite=True (--overwrite)")
            # Overwriting a folder deletes it: only one that holds nothing but a prediction.
            if path.is_dir() and {each.name for each in path.iterdir()} != {"depth", "meta.json"}:
                raise InputError(f"{path} is a folder with more than a prediction in it: choose another folder")


def _predict_one(
    predictor: Predictor, source: Source, out: Path, format: str, filter: str | None, tell: Progress
) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    # Beside the outputs, so that they are renamed and not copied; hidden until then.
    staging = out / f".{source.name}.{uuid.uuid4().hex[:8]}.part"
    staging.mkdir()
    try:
        predicted = _spool(predictor, source, staging / "depth.raw", filter, tell)
        ready = staging / "ready"
        ready.mkdir()
        _WRITERS[format](ready, predicted)
        finals = [out / name for name in _outputs(source, format)]
        for final in finals:
            if final.exists():
                final.rename(staging / f"old_{final.name}")
            (ready / final.name).rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return finals


def _spool(predictor: Predictor, source: Source, raw: Path, filter: str | None, tell: Progress) -> _Predicted:
    shape, n_done = (0, 0), 0
    said = ((np.where(r.valid, r.depth, np.float32(np.nan)), r.image) for r in predictor.stream(source.frames()))
    depths = (depth for depth, _ in said) if filter is None else filter_frames(filter, said)
    with raw.open("wb") as file:
        for depth in depths:
            file.write(depth.tobytes())
            shape, n_done = depth.shape, n_done + 1
            tell(source.name, n_done, source.n_frames or 0)
    if n_done == 0:
        raise InputError(f"{source.name}: no frame in it; give one with at least one frame")
    return _Predicted(source, open_raw(raw, (n_done, *shape), predictor.claims, chunk=1))


def _write_npz(folder: Path, predicted: _Predicted) -> None:
    write_prediction_frames(folder, predicted.source.name, predicted.depth)
    _write_preview(folder, predicted)


def _write_png16(folder: Path, predicted: _Predicted) -> None:
    name, claims = predicted.source.name, predicted.claims
    scale = picture_scale(predicted.ends()[1], claims)
    write_prediction_pictures(
        folder, name, predicted.depth.read(), claims, depth_scale_m=scale, fps=predicted.source.fps
    )
    _write_preview(folder, predicted)


def _write_exr(folder: Path, predicted: _Predicted) -> None:
    write_prediction_exr(
        folder, predicted.source.name, predicted.depth.read(), predicted.claims, fps=predicted.source.fps
    )
    _write_preview(folder, predicted)


def _write_mp4(folder: Path, predicted: _Predicted) -> None:
    source = predicted.source
    write_video(folder / f"{source.name}.mp4", predicted.pictures(None), source.fps, like=source.video)


def _write_mkv(folder: Path, predicted: _Predicted) -> None:
    low, high = predicted.ends()
    high = high if high > low else low + 1e-3 * abs(low) + 1e-6
    is_log = predicted.claims in ("metric", "scale")
    codes = (encode_range(depth, low, high, is_log=is_log) for depth in predicted.depth.read())
    write_depth_video(folder / f"{predicted.source.name}.mkv", codes, predicted.source.fps)
    share = "((code - 1) / 65534)"
    says = {
        "claims": predicted.claims,
        "low": low,
        "high": high,
        "value": f"low * (high / low) ** {share}" if is_log else f"low + (high - low) * {share}",
        "no_value": 0,
        "is_log": is_log,
        "fps": predicted.source.fps,
        "n_frames": predicted.depth.n_frames,
    }
    (folder / f"{predicted.source.name}.json").write_text(json.dumps(says, indent=1) + "\n", encoding="utf-8")
    _write_preview(folder, predicted)


def _write_preview(folder: Path, predicted: _Predicted) -> None:
    name = _outputs(predicted.source, "npz")[-1]
    if name.endswith(".png"):
        write_png(folder / name, next(predicted.pictures(_PREVIEW_SIDE)))
    else:
        write_video(folder / name, predicted.pictures(_PREVIEW_SIDE), predicted.source.fps)


_WRITERS = {"npz": _write_npz, "png16": _write_png16, "mp4": _write_mp4, "mkv": _write_mkv, "exr": _write_exr}


@contextmanager
def _telling(progress: Progress | None) -> Iterator[Progress]:
    """`progress` itself, or a bar on the terminal, or nothing when there is no terminal."""
    if progress is not None or not sys.stderr.isatty():
        yield progress or (lambda what, done, total: None)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda what, done, total: bar.update(task, description=what, completed=done, total=total or None)
