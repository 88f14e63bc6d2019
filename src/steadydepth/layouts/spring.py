"""Spring: train/<scene>/{frame_left,disp1_left,cam_data}, numbered from 1.

Disparity is HDF5 (.dsp5) at twice the image's size, in pixels of the image: every second row and column is taken, and
z = fx 0.065 m / disparity. intrinsics.txt has a line fx fy cx cy a frame, extrinsics.txt world to camera, row by row.
Source: spring-benchmark.org and github.com/cv-stuttgart/flow_library, spring_utils.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from steadydepth.files.depth_formats import read_numbers
from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    inverted,
    numbered,
    numbered_reader,
    pinhole,
    read_table,
)
from steadydepth.types import InputError

_BASELINE_M = 0.065


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Training scenes in `folder`, of the left camera; the test scenes have no public depth."""

    def read(images: Path) -> Iterator[Found]:
        scene = images.parent
        files = numbered(images, "frame_left_", ".png")
        labels = numbered(scene / "disp1_left", "disp1_left_", ".dsp5")
        intrinsics = read_table(scene / "cam_data" / "intrinsics.txt", 4)
        extrinsics = read_table(scene / "cam_data" / "extrinsics.txt", 16)
        if not len(intrinsics) == len(extrinsics) == len(files):
            raise InputError(f"{scene / 'cam_data'}: {len(extrinsics)} cameras, {len(files)} images: extract it again")
        focal_px = dict(zip(files, intrinsics[:, 0].tolist(), strict=True))
        yield Recording(
            name=f"spring_{scene.name}",
            fps=24.0,
            n_frames=len(files),
            read=numbered_reader(files, labels, partial(_read_depth, focal_px)),
            depth_scale_m=0.002,
            source="Spring",
            licence="CC-BY-4.0",
            K=pinhole(*intrinsics[0]),
            cam_to_world=inverted(extrinsics.reshape(-1, 4, 4), scene / "cam_data" / "extrinsics.txt"),
        )

    yield from each(sorted(folder.glob("train/*/frame_left")), read)


def _read_depth(focal_px: dict[int, float], path: Path) -> Float32[np.ndarray, "h w"]:
    disparity = read_numbers(path)[::2, ::2]
    visible = disparity > 0  # NaN is not
    scale = focal_px[int(path.stem.rpartition("_")[2])] * _BASELINE_M  # of its own frame: some lenses zoom
    return np.where(visible, scale / np.where(visible, disparity, 1), 0).astype(np.float32)
