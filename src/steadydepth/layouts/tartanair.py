"""TartanAir: <environment>/{Easy,Hard}/P*/ with image_left, depth_left (.npy, metres) and pose_left.txt.

One camera for all, 640 x 480 with a field of view of 90 degrees about the middle of the image; poses are in the NED
axes x forward, y right, z down.
Source: github.com/castacks/tartanair_tools, data_type.md. It gives no frame rate: 30 is written.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
    """Trajectories in `folder`, of the left camera; the archives put an environment in a folder of its name."""
    for level in (split,) if split else SPLITS:
        places = {*folder.glob(f"*/{level}/P*/image_left"), *folder.glob(f"*/*/{level}/P*/image_left")}
        yield from each(sorted(places), lambda images: [_recording(images)])


def _recording(images: Path) -> Recording:
    place = images.parent
    files = numbered(images, "", "_left.png")
    labels = numbered(place / "depth_left", "", "_left_depth.npy")
    poses = quaternion_poses(read_table(place / "pose_left.txt", 7))
    if len(poses) != len(files):
        raise InputError(f"{place / 'pose_left.txt'}: {len(poses)} poses for {len(files)} images: extract it again")
    return Recording(
        name=f"{place.parent.parent.name}_{place.parent.name}_{place.name}",
        fps=30.0,
        n_frames=len(files),
        read=numbered_reader(files, labels, scaled(1.0)),
        depth_scale_m=0.002,
        source="TartanAir",
        licence="CC-BY-4.0",
        K=pinhole(320.0, 320.0, 319.5, 239.5),
        cam_to_world=_TO_NED.T @ poses @ _TO_NED,
    )
