"""Hypersim: <scene>/images/scene_<cam>_final_preview and _geometry_hdf5, cameras in <scene>/_detail.

depth_meters.hdf5 is the distance to the camera's centre, not planar depth: z = d / |K^-1 (x, y, 1)|. The camera of a
scene is in metadata_camera_parameters.csv, which the authors publish beside the data, in or above IN; without it the
focal length is 886.81 px of the 1024 x 768 images. Many scenes have a tilted or shifted lens, which sees what a camera
that is turned sees: K and poses are of that one. Camera axes are x right, y up, z backward; positions are in asset
units, of which _detail/metadata_scene.csv says the metres. Frames are key frames far apart, so the rate is 1.
`split` reads metadata_images_split_scene_v1.csv in or above IN.
Source: github.com/apple/ml-hypersim (README; contrib/mikeroberts3000; its issue 9 for the planar depth).
"""

import csv
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.files.damage import reading
from steadydepth.files.depth_formats import open_h5, read_numbers
from steadydepth.layouts.recording import (
    Found,
    Matrix,
    Recording,
    each,
    in_or_above,
    numbered,
    numbered_reader,
    pinhole,
    read_csv,
    rigid,
    unbroken_parts,
)
from steadydepth.types import InputError

LOG = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
_DEFAULT_K = pinhole(886.81, 886.81, (1024 - 1) / 2, (768 - 1) / 2)
_CAMERA_FILE = "metadata_camera_parameters.csv"
_TO_OPENCV = np.diag([1.0, -1, -1, 1])
_SPLIT_FILE = "metadata_images_split_scene_v1.csv"


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Every camera of every scene in `folder`, in stretches of frames that were published."""
    places = sorted(folder.glob("ai_*/images/scene_*_final_preview"))
    wanted = _of_split(folder, split) if split else None
    cameras = _cameras(folder)

    def read(images: Path) -> Iterator[Recording]:
        camera, scene = images.name.removeprefix("scene_").removesuffix("_final_preview"), images.parent.parent
        files = numbered(images, "frame.", ".tonemap.jpg")
        if not files:
            raise InputError(f"{images}: no frame.0000.tonemap.jpg and on: extract it again")
        if wanted is not None:
            files = {number: path for number, path in files.items() if (scene.name, camera, number) in wanted}
        if files:
            yield from _parts(scene, camera, files, cameras.get(scene.name))

    yield from each(places, read)


def _cameras(folder: Path) -> dict[str, tuple[Matrix, Matrix]]:
    """K and turn of the camera of each scene that the authors' list names; none where there is no list."""
    found = in_or_above(folder, _CAMERA_FILE)
    if found is None:
        return {}
    with reading(found, "as a list of cameras"), found.open(encoding="utf-8-sig", newline="") as file:
        return {line["scene_name"]: _camera(line) for line in csv.DictReader(file)}


def _camera(line: dict[str, str]) -> tuple[Matrix, Matrix]:
    """K, and the turn from its axes to those of the poses, both of OpenCV, from OpenGL's projection."""
    height, width = (float(line[f"settings_output_img_{side}"]) for side in ("height", "width"))
    to_ndc = np.array([[float(line[f"M_proj_{row}{column}"]) for column in range(3)] for row in (0, 1, 3)])
    to_pixels = np.array([[width / 2, 0, (width - 1) / 2], [0, -height / 2, (height - 1) / 2], [0, 0, 1]])
    # A ray is to_rays @ (x, y, 1), and a tilted camera sees what one that is turned sees: to_rays = turn @ inv(K).
    turn, inverse = np.linalg.qr(np.linalg.inv(to_pixels @ to_ndc @ _TO_OPENCV[:3, :3]))
    signs = np.sign(np.diag(inverse))
    K = np.linalg.inv(signs[:, None] * inverse)
    return K / K[2, 2], turn * signs


def _of_split(folder: Path, split: str) -> set[tuple[str, str, int]]:
    found = in_or_above(folder, _SPLIT_FILE)
    if found is None:
        raise InputError(f"{folder / _SPLIT_FILE}: missing; --split reads the official list: put it there")
    lines = read_csv(found, ("scene_name", "camera_name", "frame_id", "split_partition_name"))
    with reading(found, "as a list of numbered frames"):
        return {(scene, camera, int(frame)) for scene, camera, frame, part in lines if part == split}


def _parts(scene: Path, camera: str, files: dict[int, Path], own: tuple[Matrix, Matrix] | None) -> Iterator[Recording]:
    if own is None:
        LOG.warning(
            "%s: its own camera is not known; the usual one is taken, by which walls may bend: put %s beside the data",
            scene.name, _CAMERA_FILE,
        )  # fmt: skip
    K, turn = own or (_DEFAULT_K, np.eye(3))
    labels = numbered(scene / "images" / f"scene_{camera}_geometry_hdf5", "frame.", ".depth_meters.hdf5")
    poses = _poses(scene / "_detail", camera)
    numbers = list(files)
    if numbers[-1] >= len(poses):
        raise InputError(f"{scene}: {len(poses)} key frames of {camera}, and frame {numbers[-1]}: extract it again")
    published = Recording(
        name=f"{scene.name}_{camera}",
        fps=1.0,
        n_frames=len(numbers),
        read=numbered_reader(files, labels, lambda path: planar(read_numbers(path), K)),
        depth_scale_m=0.001,
        source="Hypersim",
        licence="CC-BY-SA-3.0",
        K=K,
        cam_to_world=poses[numbers] @ rigid(turn, np.zeros(3)),
    )
    yield from unbroken_parts(published, np.diff(numbers) == 1)


def planar(distance: Float32[np.ndarray, "h w"], K: Float64[np.ndarray, "3 3"]) -> Float32[np.ndarray, "h w"]:
    """Depth along the optical axis from the distance to the centre of the camera K."""
    height, width = distance.shape
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack((x, y, np.ones_like(x)), axis=-1) @ np.linalg.inv(K).T
    return (distance / np.linalg.norm(rays, axis=-1)).astype(np.float32)


def _poses(detail: Path, camera: str) -> Float64[np.ndarray, "n 4 4"]:
    lines = read_csv(detail / "metadata_scene.csv", ("parameter_name", "parameter_value"))
    with reading(detail / "metadata_scene.csv", "as a list with meters_per_asset_unit", "extract it again"):
        metres = float({line[0]: line[1] for line in lines}["meters_per_asset_unit"])
    positions = _dataset(detail / camera / "camera_keyframe_positions.hdf5", 3) * metres
    turns = _dataset(detail / camera / "camera_keyframe_orientations.hdf5", 3, 3)
    if not len(turns) == len(positions) > 0:
        raise InputError(f"{detail / camera}: {len(turns)} orientations, {len(positions)} positions: extract it again")
    return np.stack([rigid(turn, position) @ _TO_OPENCV for turn, position in zip(turns, positions, strict=True)])


def _dataset(path: Path, *shape: int) -> Float64[np.ndarray, "n ..."]:
    with open_h5(path) as file:
        return file["dataset"][()].astype(np.float64).reshape(-1, *shape)
