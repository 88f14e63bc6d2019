"""meta.json of a sequence folder: what it may say, and every mistake in it at once."""

import difflib
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from steadydepth.errors import InputError
from steadydepth.files.damage import refuse_pipe
from steadydepth.files.listing import unbroken

_CAMERA = "give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"


class SequenceMeta(BaseModel):
    """What meta.json says; keys unknown to us belong to other tools and are left alone."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    fps: float = Field(gt=0, allow_inf_nan=False, description="Frames a second.")
    fixed_camera: bool | None = Field(None, description="True when the camera never moves.")
    depth_scale_m: float | None = Field(None, gt=0, allow_inf_nan=False, description="Metres of one step of depth.")
    K: list[list[float]] | None = Field(None, description="3x3, pixels, pixel centres at integer coordinates.")
    cam_to_world: list[list[list[float]]] | None = Field(None, description="4x4 a frame, OpenCV axes, metres.")
    source: str | None = Field(None, description="Where the video comes from.")
    licence: str | None = Field(None, description="What others may do with it.")

    @field_validator("K")
    @classmethod
    def _is_camera(cls, rows: list[list[float]] | None) -> list[list[float]] | None:
        if rows is not None:
            matrix = _array(rows, (3, 3), "a camera matrix is 3x3")
            # Relative to its size: a K in normalised units is as good as one in pixels.
            if np.linalg.cond(matrix) > 1e12:
                raise ValueError(f"singular; a camera matrix can be inverted: {_CAMERA}")
            if not np.allclose(matrix[2], (0, 0, 1), rtol=0, atol=1e-6):  # K of a product may be off by rounding
                raise ValueError(f"its last row is not 0 0 1, as that of a transposed one: {_CAMERA}")
        return rows

    @field_validator("cam_to_world")
    @classmethod
    def _are_poses(cls, poses: list[list[list[float]]] | None) -> list[list[list[float]]] | None:
        if poses is not None:
            _array(poses, (len(poses), 4, 4), "poses are a list of 4x4, one a frame")
        return poses


def _array(values: list[Any], shape: tuple[int, ...], rule: str) -> Float64[np.ndarray, "..."]:
    try:
        array = np.array(values, np.float64)
    except ValueError:  # lists of several lengths
        array = np.zeros(0)
    if array.shape != shape:
        raise ValueError(f"{rule}: this one is not")
    if not np.isfinite(array).all():
        raise ValueError(f"{rule} of finite numbers: NaN or infinity is in it")
    return array


def read_meta(path: Path) -> tuple[SequenceMeta | None, list[str]]:
    """What `path` says, or None and every mistake in it, each naming file, key and rule."""
    try:
        refuse_pipe(path)
        values = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return None, [f'{path}: missing; a sequence has one with at least fps: write {{"fps": 30}}']
    except UnicodeDecodeError as error:
        return None, [
            f"{path}: is no UTF-8 text ({error.reason}), maybe the UTF-16 of a Windows shell: save it as UTF-8"
        ]
    except InputError as error:
        return None, [str(error)]
    except (OSError, ValueError, RecursionError) as error:  # JSON mistakes are ValueErrors
        return None, [f"{path}: cannot be read as JSON ({error}): write it again"]
    if not isinstance(values, dict):
        return None, [f'{path}: holds {type(values).__name__}; it is one JSON object such as {{"fps": 30}}']
    return check_meta(values, str(path))


def check_meta(values: dict[str, Any], where: str) -> tuple[SequenceMeta | None, list[str]]:
    """What `values` say by the keys of meta.json, or None and every mistake in them, each beginning with `where`."""
    try:
        return SequenceMeta.model_validate(values), []
    except ValidationError as error:
        misspelt = _misspelt(values)
        first = {fault["loc"][0]: fault for fault in reversed(error.errors())}  # of each key
        return None, [f"{where}: {_mistake(first[key], misspelt)}" for key in reversed(first)]


def _mistake(fault: Any, misspelt: dict[str, str]) -> str:
    where = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        hint = f"rename {misspelt[where]}" if where in misspelt else "write it"
        return f"{where}: missing; every sequence has it: {hint}"
    value = "" if isinstance(fault["input"], dict | list) else f" {fault['input']!r}"
    rule = SequenceMeta.model_fields[fault["loc"][0]].description if fault["loc"][1:] else None
    return f"{where}{value}: {fault['msg'].removeprefix('Value error, ')}{f': {rule}' if rule else ''}"


def against_files(path: Path, meta: SequenceMeta, n_frames: int, *, has_depth_folder: bool) -> list[str]:
    """Mistakes of meta.json beside what is in the folder: one pose a frame, a scale for the depth.

    Args:
        path: of meta.json, for the messages.
        meta: what was read from it.
        n_frames: images in the folder.
        has_depth_folder: whether depth/ is there.
    """
    faults = []
    if meta.cam_to_world is not None and len(meta.cam_to_world) != n_frames:
        n_poses = len(meta.cam_to_world)
        faults.append(f"{path}: cam_to_world: {n_poses} poses for {n_frames} frames; give one a frame")
    if has_depth_folder and meta.depth_scale_m is None:
        rule = "missing, and depth/ is there; give the metres of one step, such as 0.001"
        faults.append(f"{path}: depth_scale_m: {rule}")
    return faults


def bent_poses(path: Path, meta: SequenceMeta) -> list[str]:
    """Poses of `meta`, read from `path`, that are no rotation and translation."""
    if not meta.cam_to_world:
        return []
    poses = np.array(meta.cam_to_world, np.float64)
    turns = poses[:, :3, :3]
    off = np.abs(turns @ turns.transpose(0, 2, 1) - np.eye(3)).max(axis=(1, 2))
    rigid = (off < 1e-3) & (np.linalg.det(turns) > 0) & (np.abs(poses[:, 3] - [0, 0, 0, 1]).max(axis=1) < 1e-6)
    rule = "no rigid motion; a pose is a rotation and a translation above the row 0 0 0 1: write it again"
    bent = np.flatnonzero(~rigid)
    ends = [(bent[one.start], bent[one.stop - 1]) for one in unbroken(np.diff(bent) == 1, len(bent))]
    return [f"{path}: cam_to_world[{a if a == b else f'{a} to {b}'}]: {rule}" for a, b in ends]


def misspelt_keys(path: Path) -> list[str]:
    """Keys of a readable meta.json that look like ours but are not: they would be ignored."""
    keys = _misspelt(json.loads(path.read_text(encoding="utf-8-sig")))
    return [f"{path}: {written}: unknown; did you mean {key}?" for key, written in keys.items()]


def _misspelt(values: dict[str, Any]) -> dict[str, str]:
    """Keys of ours that are not there, and for each one that is there and looks like it."""
    known = [key for key in SequenceMeta.model_fields if key not in values]
    lower = {key.lower(): key for key in known}
    found = {}
    for written in values:
        if written not in SequenceMeta.model_fields and (
            close := difflib.get_close_matches(written.lower(), lower, n=1, cutoff=0.8)
        ):
            found[lower[close[0]]] = written
    return found
