"""What predict writes of one source, by format: the depth, and a preview in colours."""

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import count, takewhile
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from steadydepth.errors import InputError
from steadydepth.files.exr import load_openexr
from steadydepth.files.images import write_png
from steadydepth.files.predictions import (
    encode_range,
    image_scale,
    write_prediction_exr,
    write_prediction_frames,
    write_prediction_images,
)
from steadydepth.files.prefetch import for_each_in_threads, read_ahead
from steadydepth.files.video_write import write_depth_video, write_video
from steadydepth.inference.depth_cache import CachedDepth
from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.frame_sources import Source
from steadydepth.inference.point_clouds import coloured_points, load_rerun, write_ply, write_rerun
from steadydepth.inference.stereo import Stereo, anaglyph, side_by_side
from steadydepth.ops.depth_view import DepthView, Range
from steadydepth.video_types import Claims

PREVIEW_SIDE = 320  # pixels of the longer side of a frame in a preview, which stands beside its depth


@dataclass(frozen=True)
class Output:
    """What is written of each input, and how it looks.

    Args:
        format: one of `FORMATS`.
        view: range and colours of what shows depth, and the range of a stereo pair.
        stereo: how deep a stereo pair is.
        keep_names: whether files of frames are named as the images of the input, and not by numbers from 0000.
        made_by: what is noted of the model, beside the filter.
    """

    format: str = "npz"
    view: DepthView = field(default_factory=DepthView)
    stereo: Stereo = field(default_factory=Stereo)
    keep_names: bool = False
    made_by: Mapping[str, Any] = field(default_factory=dict)

    def noted(self, filter: ChosenFilter) -> dict[str, Any]:
        """What each output of a format of `NOTING` notes of how it was made."""
        names = {"keep_names": self.keep_names} if self.format in _NAMED else {}
        return {**filter.noted(), "format": self.format, **names, **self.made_by}


def outputs(source: Source, format: str) -> list[str]:
    """Names of what is written for `source`, the depth first."""
    name, is_image = source.name, source.n_frames == 1
    if format in _STEREO:
        return [f"{name}_{format}.{'png' if is_image else 'mp4'}"]
    depth = {"npz": ".npz", "mp4": ".mp4", "mkv": ".mkv", "rerun": ".rrd"}.get(format, "")
    preview = [] if format in WITHOUT_PREVIEW else [f"{name}_preview.{'png' if is_image else 'mp4'}"]
    return [f"{name}{depth}", *([f"{name}.json"] if format == "mkv" else []), *preview]


def folder_content(format: str) -> set[str]:
    """What is in the folder of a format that writes one."""
    return {"ply": {"points"}, "png": {"shown"}}.get(format, {"depth", "meta.json"})


def check_output(output: Output, claims: Claims) -> None:
    """See that a format can be written for what the model claims.

    Raises:
        InputError: the format is unknown, its package missing, or not for these claims.
    """
    format = output.format
    if format not in FORMATS:
        raise InputError(f"format {format!r} is unknown; there are {', '.join(FORMATS)}")
    output.view.check(claims)
    if format in NEED_CAMERA and claims not in ("metric", "scale"):
        raise InputError(f"{format} needs depth, in metres or up to one factor; this model claims {claims}: choose npz")
    if format in ("exr", "exr16"):
        load_openexr()
    if format == "rerun":
        load_rerun()


def _names(cached: CachedDepth, output: Output) -> tuple[str, ...] | None:
    return cached.source.names if output.keep_names else None


def _file_names(cached: CachedDepth, output: Output) -> Iterator[str]:
    """A name for each frame: that of its image, or its number."""
    return iter(_names(cached, output) or (f"{number:04d}" for number in count()))


def _write_npz(folder: Path, cached: CachedDepth, output: Output) -> None:
    write_prediction_frames(folder, cached.source.name, cached.depth, noted=output.noted(cached.filter))


def _write_frames(folder: Path, cached: CachedDepth, output: Output) -> None:
    """A folder of images: png16, exr or exr16."""
    write: Callable[..., Path] = partial(write_prediction_exr, is_half=output.format == "exr16")
    if output.format == "png16":
        step, offset = image_scale(*cached.ends(), cached.claims)
        write = partial(write_prediction_images, depth_scale_m=step, depth_offset=offset)
    noted, names = output.noted(cached.filter), _names(cached, output)
    write(folder, cached.source.name, cached.depth.read(), cached.claims, fps=cached.fps, noted=noted, names=names)


def _write_png(folder: Path, cached: CachedDepth, output: Output) -> None:
    """Depth in colours; in grey of 16 bits, of which a colour map has 8."""
    shown, view = folder / cached.source.name / "shown", output.view
    shown.mkdir(parents=True)

    def write(one: tuple[str, np.ndarray, Range]) -> None:
        name, depth, ends = one
        if view.is_grey:
            share = np.nan_to_num(view.nearness(depth, ends, cached.claims), nan=0.0)
            write_png(shown / f"{name}.png", np.rint(65535 * share).astype(np.uint16))
        else:
            write_png(shown / f"{name}.png", view.paint(depth, ends, cached.claims))

    frames = zip(_file_names(cached, output), cached.depth.read(), cached.ranges(view), strict=False)
    for_each_in_threads(write, frames)


def _write_mp4(folder: Path, cached: CachedDepth, output: Output) -> None:
    path = folder / f"{cached.source.name}.mp4"
    _write_moving(path, cached.images(None, output.view), cached.fps, like=cached.source.video)


def _write_stereo(folder: Path, cached: CachedDepth, output: Output) -> None:
    view, combine = output.view, _STEREO[output.format]

    def images() -> Iterator[np.ndarray]:
        for (image, depth), ends in zip(cached.frames(), cached.ranges(view), strict=False):
            yield combine(*output.stereo.pair(image, view.nearness(depth, ends, cached.claims)))

    _write_moving(folder / outputs(cached.source, output.format)[0], images(), cached.fps, like=cached.source.video)


def _write_moving(path: Path, images: Iterator[np.ndarray], fps: float, **options: Any) -> None:
    """A video, or an image where the name says so."""
    if path.suffix == ".png":
        write_png(path, next(images))
    else:
        write_video(path, read_ahead(images), fps, **options)


def _write_mkv(folder: Path, cached: CachedDepth, output: Output) -> None:
    low, high = cached.ends()
    high = high if high > low else low + 1e-3 * abs(low) + 1e-6
    is_log = cached.claims in ("metric", "scale")
    # Resized beside a hole a value is rounded to one beyond the ends, which would be no value.
    codes = (encode_range(np.clip(depth, low, high), low, high, is_log=is_log) for depth in cached.depth.read())
    source = cached.source
    write_depth_video(folder / f"{source.name}.mkv", read_ahead(codes), cached.fps, like=source.video)
    share = "((code - 1) / 65534)"
    description = {
        "claims": cached.claims,
        **output.noted(cached.filter),
        "low": low,
        "high": high,
        "value": f"low * (high / low) ** {share}" if is_log else f"low + (high - low) * {share}",
        "no_value": 0,
        "is_log": is_log,
        "fps": cached.fps,
        "n_frames": cached.depth.n_frames,
    }
    (folder / f"{source.name}.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _write_preview(folder: Path, cached: CachedDepth, output: Output, is_given_up: Event) -> None:
    """The video, or the image, of frames and depth side by side."""
    images = takewhile(lambda _: not is_given_up.is_set(), cached.images(PREVIEW_SIDE, output.view))
    _write_moving(folder / outputs(cached.source, "npz")[-1], images, cached.fps, preset="ultrafast")


def _write_ply(folder: Path, cached: CachedDepth, output: Output) -> None:
    points = folder / cached.source.name / "points"
    points.mkdir(parents=True)

    def write(named: tuple[str, tuple[np.ndarray, np.ndarray]]) -> None:
        name, (image, depth) = named
        write_ply(points / f"{name}.ply", *coloured_points(depth, image, cached.K))

    for_each_in_threads(write, zip(_file_names(cached, output), cached.frames(), strict=False))


def _write_rerun(folder: Path, cached: CachedDepth, output: Output) -> None:
    name = cached.source.name
    write_rerun(folder / f"{name}.rrd", read_ahead(cached.frames()), cached.K, name=name, fps=cached.fps)


_STEREO = {"sbs": side_by_side, "anaglyph": anaglyph}
FORMATS: dict[str, Callable[[Path, CachedDepth, Output], None]] = {
    "npz": _write_npz,
    "png16": _write_frames,
    "mp4": _write_mp4,
    "mkv": _write_mkv,
    "exr": _write_frames,
    "exr16": _write_frames,
    "png": _write_png,
    "sbs": _write_stereo,
    "anaglyph": _write_stereo,
    "ply": _write_ply,
    "rerun": _write_rerun,
}
NEED_CAMERA = ("ply", "rerun")
_NAMED = ("png16", "exr", "exr16")
NOTING = ("npz", "mkv", *_NAMED)  # what made them; the others have no place for it
WITHOUT_PREVIEW = ("mp4", "png", "sbs", "anaglyph", "rerun")


def write_outputs(folder: Path, cached: CachedDepth, output: Output) -> None:
    """Write what `outputs` names into `folder`: depth, and its preview beside it at the same time.

    Args:
        folder: exists.
        cached: what was predicted, and of what.
        output: format, view and stereo.
    """
    has_preview, is_given_up = output.format not in WITHOUT_PREVIEW, Event()
    with ThreadPoolExecutor(1) as thread:
        preview = thread.submit(_write_preview, folder, cached, output, is_given_up) if has_preview else None
        try:
            FORMATS[output.format](folder, cached, output)
            if preview is not None:
                preview.result()
        except BaseException:
            is_given_up.set()  # or the end of a long video would be waited for
            raise
