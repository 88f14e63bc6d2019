"""Virtual KITTI 2: Scene*/<variation>/frames/{rgb,depth}/Camera_*, intrinsic.txt and extrinsic.txt.

Depth is 16-bit PNG in centimetres, 65535 (655.35 m) for the sky; extrinsics are world to camera, OpenCV axes.
Source: europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    inverted,
    numbered,
    numbered_reader,
    pinhole,
    read_table,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Every scene, variation and camera in `folder`."""

    def read(images: Path) -> Iterator[Found]:
        variation, camera = images.parent.parent.parent, int(images.name.removeprefix("Camera_"))
        files = numbered(images, "rgb_", ".jpg")
        labels = numbered(variation / "frames" / "depth" / images.name, "depth_", ".png")
        intrinsics = _of_camera(variation / "intrinsic.txt", 6, camera, list(files))
        extrinsics = _of_camera(variation / "extrinsic.txt", 18, camera, list(files))
        recording = Recording(
            name=f"{variation.parent.name}_{variation.name}_{camera}",
            fps=10.0,
            n_frames=len(files),
            read=numbered_reader(files, labels, scaled(0.01, 65535.0)),
            depth_scale_m=0.01,
            source="Virtual KITTI 2",
            licence="CC-BY-NC-SA-3.0",
            K=pinhole(*intrinsics[0]),
            cam_to_world=inverted(extrinsics.reshape(-1, 4, 4), variation / "extrinsic.txt"),
        )
        yield from unbroken_parts(recording, np.diff(list(files)) == 1)

    yield from each(sorted(folder.glob("Scene*/*/frames/rgb/Camera_*")), read)


def _of_camera(path: Path, n_columns: int, camera: int, numbers: list[int]) -> Float64[np.ndarray, "n c"]:
    """What a table of `frame camera ...` says of each frame `numbers` of one camera."""
    lines = {line[0]: line[2:] for line in read_table(path, n_columns, skip=1) if line[1] == camera}
    missing = [number for number in numbers if number not in lines]
    if missing or not numbers:
        raise InputError(f"{path}: no line of camera {camera} for frame {missing[:1]}: extract it again")
    return np.stack([lines[number] for number in numbers])
