"""TartanAir: <environment>/{Easy,Hard}/P*/ with image_left, depth_left (.npy, metres) and pose_left.txt.

TartanAir V2: <environment>/Data_{easy,hard}/P*/ with image_lcam_front, depth_lcam_front (.png, whose channels are the
four bytes of float32 metres) and pose_lcam_front.txt. One camera for all, of 640 x 480 or 640 x 640, with a field of
view of 90 degrees about the middle of the image; poses are in the NED axes x forward, y right, z down.
Source: github.com/castacks/tartanair_tools, data_type.md, which gives no frame rate: 30 is written; and tartanairpy,
docs/modalities.rst (10 a second) and examples/accumulate_pointcloud.py (the middle of the first pixel is at 0.5).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from steadydepth.files.damage import reading
from steadydepth.files.image_formats import open_image
from steadydepth.layouts.recording import (
    Found,
    Recording,
    each,
    numbered,
    numbered_reader,
    pinhole,
    quaternion_poses,
    read_table,
    scaled,
)
from steadydepth.types import InputError

SPLITS = ("Easy", "Hard")
_TO_NED = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # of points in OpenCV axes


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Trajectories in `folder`, of the left camera; the archives of V1 put an environment in a folder of its name."""
    for level in (split,) if split else SPLITS:
        kinds = (
            f"*/{level}/P*/image_left",
            f"*/*/{level}/P*/image_left",
            f"*/Data_{level.lower()}/P*/image_lcam_front",
        )
        places = {place for kind in kinds for place in folder.glob(kind)}
        yield from each(sorted(places), lambda images: [_recording(images)])


def _recording(images: Path) -> Recording:
    place, camera = images.parent, images.name.removeprefix("image_")
    rate, middle, suffix, read_depth = _KINDS[camera]
    files = numbered(images, "", f"_{camera}.png")
    labels = numbered(place / f"depth_{camera}", "", f"_{camera}_depth{suffix}")
    path = place / f"pose_{camera}.txt"
    poses = quaternion_poses(read_table(path, 7))
    if len(poses) != len(files):
        raise InputError(f"{path}: {len(poses)} poses for {len(files)} images: extract it again")
    return Recording(
        name=f"{place.parent.parent.name}_{place.parent.name}_{place.name}",
        fps=rate,
        n_frames=len(files),
        read=numbered_reader(files, labels, read_depth),
        depth_scale_m=0.002,
        source="TartanAir",
        licence="CC-BY-4.0",
        K=pinhole(320.0, 320.0, 319.5, middle),
        cam_to_world=_TO_NED.T @ poses @ _TO_NED,
    )


def _read_packed(path: Path) -> Float32[np.ndarray, "h w"]:
    """Float32 whose bytes are blue, green, red and alpha."""
    with reading(path, "as PNG of four channels"):
        bgra = np.array(open_image(path.read_bytes(), "PNG"))[:, :, [2, 1, 0, 3]]
        return np.ascontiguousarray(bgra).view("<f4")[..., 0]


_KINDS = {"left": (30.0, 239.5, ".npy", scaled(1.0)), "lcam_front": (10.0, 319.5, ".png", _read_packed)}
