"""Replica as iMAP and NICE-SLAM render it: <scene>/{results/frame%06d.jpg, results/depth%06d.png, traj.txt}.

Depth is 16-bit PNG, planar, 6553.5 a metre; traj.txt has a camera-to-world matrix a line, OpenCV axes; cam_params.json
lies beside the scenes. No rate is given.
Source: github.com/cvg/nice-slam (configs/Replica, src/utils/datasets.py).
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.files.damage import reading
from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    in_or_above,
    numbered,
    numbered_reader,
    pinhole,
    places,
    read_table,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

_RATE_HZ = 30.0
_CAMERA = {"fx": 600.0, "fy": 600.0, "cx": 599.5, "cy": 339.5, "scale": 6553.5}


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Scenes in `folder`, or `folder` itself."""
    yield from each((one for one in places(folder, "results") if (one / "traj.txt").is_file()), _parts)


def _parts(place: Path) -> Iterator[Recording]:
    images, labels = numbered(place / "results", "frame", ".jpg"), numbered(place / "results", "depth", ".png")
    if not images:
        raise InputError(f"{place / 'results'}: no frame*.jpg: download it again")
    poses = read_table(place / "traj.txt", 16).reshape(-1, 4, 4)
    numbers = list(images)
    if numbers[-1] >= len(poses):
        raise InputError(f"{place / 'traj.txt'}: {len(poses)} poses for frames to {numbers[-1]}: download it again")
    K, step_m = _camera(place)
    rendered = Recording(
        name=place.name,
        fps=_RATE_HZ,
        n_frames=len(numbers),
        read=numbered_reader(images, labels, scaled(step_m)),
        depth_scale_m=step_m,
        source="Replica",
        licence="Replica research terms",
        K=K,
        cam_to_world=poses[numbers],
    )
    yield from unbroken_parts(rendered, np.diff(numbers) == 1)


def _camera(place: Path) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """K and the metres of one step of depth, as cam_params.json in or above the scene says."""
    camera = _CAMERA
    if (path := in_or_above(place, "cam_params.json")) is not None:
        with reading(path, f"as a camera with {', '.join(_CAMERA)}"):
            stored = json.loads(path.read_text(encoding="utf-8-sig"))["camera"]
            camera = {name: float(stored[name]) for name in _CAMERA}
    if not 0 < camera["scale"] < np.inf:
        raise InputError(f"{path}: scale {camera['scale']}: the steps of a metre are above 0: copy it again")
    return pinhole(camera["fx"], camera["fy"], camera["cx"], camera["cy"]), 1 / camera["scale"]
