"""Hypersim: <scene>/images/scene_<cam>_final_preview and _geometry_hdf5, cameras in <scene>/_detail.

depth_meters.hdf5 is the distance to the camera's centre, not planar depth: z = d f / sqrt(x^2 + y^2 + f^2), with the
focal length f = 886.81 px of its 1024 x 768 images. Camera axes are x right, y up, z backward; positions are in asset
units, of which _detail/metadata_scene.csv says the metres. Frames are key frames far apart, so the rate is 1.
`split` reads metadata_images_split_scene_v1.csv in or above IN.
Source: github.com/apple/ml-hypersim (README; its issue 9 for the planar depth).
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.data.layouts.recording import Recording, files_reader, numbered, part_name, pinhole, read_csv, rigid
from steadydepth.data.sequence_listing import unbroken
from steadydepth.files.depth_formats import open_h5, read_numbers
from steadydepth.types import InputError

SPLITS = ("train", "val", "test")
_FOCAL_PX = 886.81
_TO_OPENCV = np.diag([1.0, -1, -1, 1])
_SPLIT_FILE = "metadata_images_split_scene_v1.csv"


def find_recordings(folder: Path, split: str | None) -> Iterator[Recording]:
    """Every camera of every scene in `folder`, in stretches of frames that were published."""
    places = sorted(folder.glob("ai_*/images/scene_*_final_preview"))
    wanted = _of_split(folder, split) if split else None
    for images in places:
        camera, scene = images.name.removeprefix("scene_").removesuffix("_final_preview"), images.parent.parent
        files = numbered(images, "frame.", ".tonemap.jpg")
        if wanted is not None:
            files = {number: path for number, path in files.items() if (scene.name, camera, number) in wanted}
        if files:
            yield from _parts(scene, camera, files)


def _of_split(folder: Path, split: str) -> set[tuple[str, str, int]]:
    lists = [base / _SPLIT_FILE for base in (folder, folder.parent)]
    found = next((path for path in lists if path.is_file()), None)
    if found is None:
        raise InputError(f"{lists[0]}: missing; --split reads the official list: put it there")
    lines = read_csv(found, ("scene_name", "camera_name", "frame_id", "split_partition_name"))
    return {(scene, camera, int(frame)) for scene, camera, frame, part in lines if part == split}


def _parts(scene: Path, camera: str, files: dict[int, Path]) -> Iterator[Recording]:
    labels = numbered(scene / "images" / f"scene_{camera}_geometry_hdf5", "frame.", ".depth_meters.hdf5")
    poses = _poses(scene / "_detail", camera)
    numbers = list(files)
    if numbers[-1] >= len(poses):
        raise InputError(f"{scene}: {len(poses)} key frames of {camera}, and frame {numbers[-1]}: extract it again")
    for stretch in unbroken(np.diff(numbers) == 1, len(numbers)):
        here = numbers[stretch.start : stretch.stop]
        yield Recording(
            name=part_name(f"{scene.name}_{camera}", stretch, len(numbers)),
            fps=1.0,
            n_frames=len(here),
            read=files_reader([files[n] for n in here], [labels.get(n) for n in here], _read_planar),
            depth_scale_m=0.001,
            source="Hypersim",
            licence="CC-BY-SA-3.0",
            K=pinhole(_FOCAL_PX, _FOCAL_PX, (1024 - 1) / 2, (768 - 1) / 2),
            cam_to_world=poses[here],
        )


def _read_planar(path: Path) -> Float32[np.ndarray, "h w"]:
    return planar(read_numbers(path), _FOCAL_PX)


def planar(distance: Float32[np.ndarray, "h w"], focal_px: float) -> Float32[np.ndarray, "h w"]:
    """Depth along the optical axis from the distance to the camera's centre, which the axis leaves in mid-image."""
    height, width = distance.shape
    x, y = np.arange(width) - (width - 1) / 2, np.arange(height)[:, None] - (height - 1) / 2
    return (distance * (focal_px / np.sqrt(x**2 + y**2 + focal_px**2))).astype(np.float32)


def _poses(detail: Path, camera: str) -> Float64[np.ndarray, "n 4 4"]:
    sizes = read_csv(detail / "metadata_scene.csv", ("parameter_name", "parameter_value"))
    try:
        metres = next(float(value) for name, value in sizes if name == "meters_per_asset_unit")
    except (StopIteration, ValueError) as error:
        raise InputError(f"{detail / 'metadata_scene.csv'}: no meters_per_asset_unit: extract it again") from error
    with (
        open_h5(detail / camera / "camera_keyframe_positions.hdf5") as positions,
        open_h5(detail / camera / "camera_keyframe_orientations.hdf5") as turns,
    ):
        pairs = zip(turns["dataset"][()], positions["dataset"][()] * metres, strict=True)
        return np.stack([rigid(turn, position) @ _TO_OPENCV for turn, position in pairs])
