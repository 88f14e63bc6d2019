"""MPI Sintel with depth: training/{clean,final}/<scene>, training/depth and training/camdata_left.

.dpt: a tag, width and height as int32, float32 metres; .cam: the tag, K (3 x 3) and world to camera (3 x 4), float64.
Source: sintel.is.tue.mpg.de/depth (its io package).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.files.damage import reading
from steadydepth.files.depth_formats import read_tagged
from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    inverted,
    numbered,
    numbered_reader,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

SPLITS = ("clean", "final")  # the rendering passes of the one part that has depth


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Scenes of one pass, `final` (with motion blur and fog) without `split`."""

    def read(images: Path) -> Iterator[Found]:
        training = images.parent.parent
        files = numbered(images, "frame_", ".png")
        labels = numbered(training / "depth" / images.name, "frame_", ".dpt")
        cameras = [_camera(training / "camdata_left" / images.name / f"frame_{number:04d}.cam") for number in files]
        if not cameras:
            raise InputError(f"{images}: no frame_0001.png and on: extract it again")
        recording = Recording(
            name=f"{images.parent.name}_{images.name}",
            fps=24.0,
            n_frames=len(files),
            read=numbered_reader(files, labels, scaled(1.0)),
            depth_scale_m=0.002,
            source="MPI Sintel depth",
            licence="CC-BY-3.0 (Blender Foundation, durian.blender.org)",
            K=cameras[0][0],
            cam_to_world=np.stack([pose for _, pose in cameras]),
        )
        yield from unbroken_parts(recording, np.diff(list(files)) == 1)

    yield from each(sorted((folder / "training" / (split or "final")).glob("*/")), read)


def _camera(path: Path) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    with reading(path, "as a camera of MPI Sintel"):
        numbers = read_tagged(path, "<f8")
    if len(numbers) != 21:
        raise InputError(f"{path}: holds {len(numbers)} numbers; a camera of MPI Sintel has 21: copy it again")
    return numbers[:9].reshape(3, 3), inverted(np.vstack((numbers[9:].reshape(3, 4), [0, 0, 0, 1])), path)
