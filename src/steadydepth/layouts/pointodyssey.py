"""PointOdyssey: {train,val,test}/<sequence>/{rgbs,depths} and anno.npz with cameras.

Depth is 16-bit PNG, 65535 for 1000 m, which is the sky; extrinsics are world to camera, intrinsics 3 x 3, one a frame,
of pixels that are counted from the edge of the image: its middle is at half of its width.
Source: github.com/y-zheng18/point_odyssey (README, utils; render_human.py for the intrinsics).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.files.damage import reading
from steadydepth.layouts.recording import Found, Recording, each, inverted, numbered, numbered_reader, scaled
from steadydepth.types import InputError

SPLITS = ("train", "val", "test")


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Sequences of the given part, or of all in `folder`."""
    for part in (split,) if split else SPLITS:
        yield from each(sorted(folder.glob(f"{part}/*/rgbs")), lambda images: [_recording(images)])


def _recording(images: Path) -> Recording:
    files = numbered(images, "rgb_", ".jpg")
    labels = numbered(images.parent / "depths", "depth_", ".png")
    K, extrinsics = _cameras(images.parent / "anno.npz")
    if not len(K) == len(extrinsics) == len(files) > 0:
        raise InputError(f"{images.parent}: {len(K)} cameras for {len(files)} images: extract it again")
    return Recording(
        name=f"{images.parent.parent.name}_{images.parent.name}",
        fps=30.0,
        n_frames=len(files),
        read=numbered_reader(files, labels, scaled(1000 / 65535, 65535.0)),
        depth_scale_m=1000 / 65535,
        source="PointOdyssey",
        licence="CC-BY-NC-SA-4.0",
        K=K[0] - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]],
        cam_to_world=inverted(extrinsics, images.parent / "anno.npz"),
    )


def _cameras(path: Path) -> tuple[Float64[np.ndarray, "n 3 3"], Float64[np.ndarray, "n 4 4"]]:
    with (
        reading(path, "as arrays of intrinsics and extrinsics", "extract it again"),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return arrays["intrinsics"].astype(np.float64), arrays["extrinsics"].astype(np.float64)
