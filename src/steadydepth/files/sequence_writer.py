"""Clips become sequence folders, each complete or not at all."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from steadydepth.files.atomic_writes import check_name, new_folder
from steadydepth.files.images import check_size, encode_depth, encode_flow, write_png
from steadydepth.types import Clip, InputError


def write_sequence(
    root: str | Path, clip: Clip, *, depth_scale_m: float | None, source: str | None, licence: str | None
) -> Path:
    """Write a clip as the sequence folder ROOT/<clip.name>, complete or not at all.

    Args:
        root: made where it is missing.
        clip: its frames, and the labels that it has; flow is rounded to 1/64 px.
        depth_scale_m: metres of one step, to the nearest of which depth is rounded; None for a clip without depth.
        source: where it is from, for meta.json.
        licence: of the data, for meta.json.

    Returns: the folder of the sequence.

    Raises:
        InputError: the folder exists, the name climbs out, a part does not belong to the frames, or a valid depth or
            flow does not fit 16 bits.
    """
    return write_clips(Path(root), clip.name, [clip], depth_scale_m=depth_scale_m, source=source, licence=licence)


def write_clips(
    root: Path,
    name: str,
    clips: Iterable[Clip],
    *,
    depth_scale_m: float | None,
    source: str | None,
    licence: str | None,
    rename: Callable[[int], str] | None = None,
) -> Path:
    """Write clips that follow one another as one sequence, as `write_sequence`; one is held at a time.

    Args:
        root: made where it is missing.
        name: of the sequence.
        clips: of one size; rate and cameras are those of the first.
        depth_scale_m: metres of one step; None for clips without depth.
        source: where it is from, for meta.json.
        licence: of the data, for meta.json.
        rename: gives the name in place of `name` when all are written, from the number of frames.

    Returns: the folder of the sequence.

    Raises:
        InputError: as of `write_sequence`; the size changes, depth has no scale, or there is no frame.
    """
    target = root / check_name(name, root)
    first, n_frames = None, 0
    poses: list[Any] = []

    def chosen() -> Path:
        return target if rename is None else root / check_name(rename(n_frames), root)

    with new_folder(target, rename=chosen) as part:
        for clip in clips:
            if clip.depth is not None and depth_scale_m is None:
                raise InputError(f"{target}: the clip has depth; give depth_scale_m, the metres of one step, as 0.001")
            first = first or clip
            _check_clip(clip, target)
            check_size(target / f"frame {n_frames}", clip.frames[0], *first.frames.shape[1:3])
            for number in range(len(clip.frames)):
                _write_frame(part, clip, number, n_frames + number, depth_scale_m, target)
            n_frames += len(clip.frames)
            poses += [] if clip.cam_to_world is None else clip.cam_to_world.tolist()
        if first is None:
            raise InputError(f"{target}: no frame to write; a sequence has at least one: choose others")
        meta = _meta_of(first, poses, depth_scale_m if (part / "depth").is_dir() else None, source, licence)
        (part / "meta.json").write_text(json.dumps(meta, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return chosen()


def _check_clip(clip: Clip, target: Path) -> None:
    """InputError where a part of a clip does not belong to its frames, or a reader would refuse what is written."""
    frames, shape = clip.frames, clip.frames.shape[:3]
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape:
        raise InputError(f"{target}: frames are {frames.dtype} {frames.shape}; they are uint8 (t, h, w, 3)")
    if not 0 < clip.fps < np.inf:
        raise InputError(f"{target}: {clip.fps} frames a second; give a number above 0")
    needed = {"depth": shape, "valid": shape, "objects": shape, "cam_to_world": (len(frames), 4, 4), "K": (3, 3)}
    pairs = (len(frames) - 1, *shape[1:])
    needed |= {"flow": (*pairs, 2), "flow_valid": pairs}
    for name, size in needed.items():
        if (part := getattr(clip, name)) is not None and part.shape != size:
            raise InputError(f"{target}: {name} is {part.shape}, and for frames of {shape} it is {size}")
    for name in ("K", "cam_to_world"):
        if (part := getattr(clip, name)) is not None and not np.isfinite(part).all():
            raise InputError(f"{target}: {name} holds NaN or infinity: leave it out, or correct it")
    if clip.objects is not None and (clip.objects.min() < 0 or clip.objects.max() > 255):
        found = f"{clip.objects.min()} to {clip.objects.max()}"
        raise InputError(f"{target}: numbers of objects are {found}; they are 0 to 255: count them anew")


def _write_frame(
    part: Path, clip: Clip, number: int, number_there: int, depth_scale_m: float | None, target: Path
) -> None:
    file, name = f"{number_there:04d}.png", f"{target}, frame {number_there}"

    def write(kind: str, image: np.ndarray) -> None:
        (part / kind).mkdir(exist_ok=True)
        write_png(part / kind / file, image)

    write("rgb", clip.frames[number])
    if clip.objects is not None:
        write("objects", clip.objects[number].astype(np.uint8))
    if clip.depth is not None and depth_scale_m is not None:
        depth = clip.depth[number]
        # What is masked out but has a depth keeps it where it fits: the mask is its own file.
        steps = np.where(np.isfinite(depth), depth, 0) / depth_scale_m
        fits = (steps >= 0.5) & (steps < 65535.5)
        valid = clip.valid[number] if clip.valid is not None else depth > 0
        write("depth", encode_depth(depth, valid | fits, depth_scale_m, name=name))
        if (fits & ~valid).any():
            write("valid", valid.astype(np.uint8) * np.uint8(255))
    if clip.flow is not None and number < len(clip.flow):
        known = clip.flow_valid[number] if clip.flow_valid is not None else np.ones(clip.flow.shape[1:3], bool)
        write("flow", encode_flow(clip.flow[number], known, name=name))


def _meta_of(
    clip: Clip, poses: list[Any], depth_scale_m: float | None, source: str | None, licence: str | None
) -> dict[str, Any]:
    meta = {
        "fps": float(clip.fps),
        "fixed_camera": None if clip.fixed_camera is None else bool(clip.fixed_camera),
        "depth_scale_m": depth_scale_m,
        "K": None if clip.K is None else clip.K.tolist(),
        "cam_to_world": poses or None,
        "source": source,
        "licence": licence,
    }
    return {key: value for key, value in meta.items() if value is not None}
