"""What predict writes of one source, by format: the depth, and a preview in colours."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

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
from steadydepth.inference.frame_sources import Source
from steadydepth.inference.point_clouds import coloured_points, load_rerun, write_ply, write_rerun
from steadydepth.types import Claims, InputError

# Pixels of the longer side of a frame in a preview, which stands beside its depth.
_PREVIEW_SIDE = 320


def outputs(source: Source, format: str) -> list[str]:
    """Names of what is written for `source`, the depth first."""
    preview = f"{source.name}_preview.{'png' if source.n_frames == 1 else 'mp4'}"
    depth = {"npz": ".npz", "mp4": ".mp4", "mkv": ".mkv", "rerun": ".rrd"}.get(format, "")
    beside = {"mp4": [], "rerun": [], "mkv": [f"{source.name}.json", preview]}.get(format, [preview])
    return [f"{source.name}{depth}", *beside]


def folder_content(format: str) -> set[str]:
    """What is in the folder of a format that writes one."""
    return {"points"} if format == "ply" else {"depth", "meta.json"}


def check_format(format: str, claims: Claims) -> None:
    """InputError when it is unknown, its package missing, or not for what the model claims."""
    if format not in _WRITERS:
        raise InputError(f"format {format!r} is unknown; there are {', '.join(_WRITERS)}")
    if format in NEED_CAMERA and claims not in ("metric", "scale"):
        raise InputError(f"{format} needs depth, in metres or up to one factor; this model claims {claims}: choose npz")
    if format == "exr":
        load_openexr()
    if format == "rerun":
        load_rerun()


def _write_npz(folder: Path, cached: CachedDepth) -> None:
    write_prediction_frames(folder, cached.source.name, cached.depth, **cached.filter.noted())


def _write_png16(folder: Path, cached: CachedDepth) -> None:
    name, claims = cached.source.name, cached.claims
    step, offset = image_scale(*cached.ends(), claims)
    write_prediction_images(
        folder,
        name,
        cached.depth.read(),
        claims,
        depth_scale_m=step,
        depth_offset=offset,
        fps=cached.fps,
        **cached.filter.noted(),
    )


def _write_exr(folder: Path, cached: CachedDepth) -> None:
    name, depths = cached.source.name, cached.depth.read()
    write_prediction_exr(folder, name, depths, cached.claims, fps=cached.fps, **cached.filter.noted())


def _write_mp4(folder: Path, cached: CachedDepth) -> None:
    source = cached.source
    write_video(folder / f"{source.name}.mp4", read_ahead(cached.images(None)), cached.fps, like=source.video)


def _write_mkv(folder: Path, cached: CachedDepth) -> None:
    low, high = cached.ends()
    high = high if high > low else low + 1e-3 * abs(low) + 1e-6
    is_log = cached.claims in ("metric", "scale")
    codes = (encode_range(depth, low, high, is_log=is_log) for depth in cached.depth.read())
    write_depth_video(folder / f"{cached.source.name}.mkv", read_ahead(codes), cached.fps)
    share = "((code - 1) / 65534)"
    description = {
        "claims": cached.claims,
        **cached.filter.noted(),
        "low": low,
        "high": high,
        "value": f"low * (high / low) ** {share}" if is_log else f"low + (high - low) * {share}",
        "no_value": 0,
        "is_log": is_log,
        "fps": cached.fps,
        "n_frames": cached.depth.n_frames,
    }
    (folder / f"{cached.source.name}.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")


def _write_preview(folder: Path, cached: CachedDepth) -> None:
    """The video, or the image, of frames and depth side by side, if the format has one."""
    name, images = outputs(cached.source, "npz")[-1], cached.images(_PREVIEW_SIDE)
    if name.endswith(".png"):
        write_png(folder / name, next(images))
    else:
        write_video(folder / name, read_ahead(images), cached.fps, preset="ultrafast")


def _write_ply(folder: Path, cached: CachedDepth) -> None:
    points = folder / cached.source.name / "points"
    points.mkdir(parents=True)

    def write(numbered: tuple[int, tuple[np.ndarray, np.ndarray]]) -> None:
        number, (image, depth) = numbered
        write_ply(points / f"{number:04d}.ply", *coloured_points(depth, image, cached.K))

    for_each_in_threads(write, enumerate(cached.frames()))


def _write_rerun(folder: Path, cached: CachedDepth) -> None:
    name = cached.source.name
    write_rerun(folder / f"{name}.rrd", read_ahead(cached.frames()), cached.K, name=name, fps=cached.fps)


_WRITERS: dict[str, Callable[[Path, CachedDepth], None]] = {
    "npz": _write_npz,
    "png16": _write_png16,
    "mp4": _write_mp4,
    "mkv": _write_mkv,
    "exr": _write_exr,
    "ply": _write_ply,
    "rerun": _write_rerun,
}
NEED_CAMERA = ("ply", "rerun")
_WITHOUT_PREVIEW = ("mp4", "rerun")


def write_outputs(folder: Path, cached: CachedDepth, format: str) -> None:
    """Write what `outputs` names into `folder`: depth, and its preview beside it at the same time."""
    with ThreadPoolExecutor(1) as thread:
        preview = thread.submit(_write_preview, folder, cached) if format not in _WITHOUT_PREVIEW else None
        _WRITERS[format](folder, cached)
        if preview is not None:
            preview.result()
