"""KITTI raw, with the annotated depth of the depth benchmark beside it: the left colour camera, image_02.

IN has the dates (2011_09_26/<drive>_sync/..., with the calibration files) and the folders train and val of
data_depth_annotated. Depth is 16-bit PNG, 256 a metre, 0 where the laser saw nothing; the first and last five frames of
a drive have none. Poses come from the GPS/IMU in oxts, as its own convertOxtsToPose does.
Source: www.cvlibs.net/datasets/kitti (raw data development kit; depth development kit).
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from steadydepth.files.damage import reading
from steadydepth.layouts.recording import (
    Found,
    Recording,
    Unreadable,
    each,
    inverted,
    numbered,
    numbered_reader,
    read_table,
    rigid,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

LOG = logging.getLogger(__name__)
SPLITS = ("train", "val")
_EARTH_M = 6378137.0


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Drives in `folder`; with `split` those that the depth benchmark has annotated for it."""

    def read(images: Path) -> Iterator[Found]:
        drive = images.parent.parent
        labels = _annotated(folder, drive.name, (split,) if split else SPLITS)
        if labels or not split:
            yield from _parts(drive, images, labels)

    yield from each(sorted(folder.glob("*/*_sync/image_02/data")), read)


def _annotated(folder: Path, drive: str, splits: tuple[str, ...]) -> dict[int, Path]:
    for base in (folder, folder / "data_depth_annotated"):
        for split in splits:
            if labels := numbered(base / split / drive / "proj_depth" / "groundtruth" / "image_02", "", ".png"):
                return labels
    return {}


def _parts(drive: Path, images: Path, labels: dict[int, Path]) -> Iterator[Found]:
    files = numbered(images, "", ".png") or numbered(images, "", ".jpg")
    if not files:
        raise InputError(f"{images}: no 0000000000.png and on: extract the drive again")
    K, camera_to_imu = _camera(drive.parent)
    measured, faults = _all_oxts(drive, list(files))
    yield from (Unreadable(f"{drive.name}, frame {number}", why) for number, why in faults.items())
    # Without any pose the images and their depth are worth keeping; with some, a frame without one is a gap.
    numbers = list(measured or files)
    origin = next(iter(measured.values()), None)
    poses = None
    if origin is not None:
        # In the world of the first pose.
        back = np.linalg.inv(_mercator(origin, origin[0]))
        poses = np.stack([back @ _mercator(one, origin[0]) @ camera_to_imu for one in measured.values()])
    kept = Recording(
        name=drive.name,
        fps=10.0,
        n_frames=len(numbers),
        read=numbered_reader({number: files[number] for number in numbers}, labels, scaled(1 / 256)),
        depth_scale_m=1 / 256,
        source="KITTI raw and annotated depth",
        licence="CC-BY-NC-SA-3.0",
        K=K,
        cam_to_world=poses,
    )
    yield from unbroken_parts(kept, np.diff(numbers) == 1, len(files))


def _camera(date: Path) -> tuple[Float64[np.ndarray, "3 3"], Float64[np.ndarray, "4 4"]]:
    """K of the rectified camera 2, and the move of its points to the IMU."""
    camera = _calibration(date / "calib_cam_to_cam.txt")
    to_camera = rigid(*_motion(date / "calib_velo_to_cam.txt"))
    to_velo = rigid(*_motion(date / "calib_imu_to_velo.txt"))
    with reading(date / "calib_cam_to_cam.txt", "as cameras with P_rect_02 and R_rect_00"):
        projection = camera["P_rect_02"].reshape(3, 4)
        rectify = rigid(camera["R_rect_00"].reshape(3, 3), np.zeros(3))
    K = projection[:, :3]
    from_imu = rigid(np.eye(3), inverted(K, date) @ projection[:, 3]) @ rectify @ to_camera @ to_velo
    return K, inverted(from_imu, date)


def _motion(path: Path) -> tuple[np.ndarray, np.ndarray]:
    values = _calibration(path)
    with reading(path, "as a motion, R of 9 and T of 3 numbers"):
        return values["R"].reshape(3, 3), values["T"].reshape(3)


def _calibration(path: Path) -> dict[str, Float64[np.ndarray, "n"]]:
    """Keys and their numbers; lines that hold text, such as the time, are left out."""
    with reading(path, "as text, the calibration of a date"):
        lines = [line.partition(":") for line in path.read_text(encoding="utf-8-sig").splitlines()]
    values = {}
    for key, _, numbers in lines:
        try:
            values[key] = np.array(numbers.split(), np.float64)
        except ValueError:
            continue
    return values


def _all_oxts(drive: Path, numbers: list[int]) -> tuple[dict[int, Float64[np.ndarray, "6"]], dict[int, str]]:
    """Latitude, longitude (degrees), altitude (m), roll, pitch and yaw (radians) of frames; of the others why not."""
    found, faults = {}, {}
    folder = drive / "oxts" / "data"
    if not folder.is_dir():
        LOG.warning("%s: missing, so without poses: extract all of the drive to have them", folder)
        return {}, {}
    for number in numbers:
        path = folder / f"{number:010d}.txt"
        try:
            pose = read_table(path, 30)[0, :6]
        except InputError as error:
            faults[number] = str(error)
            continue
        if np.isfinite(pose).all():
            found[number] = pose
        else:  # the first one is where the world begins
            faults[number] = f"{path}: NaN or infinity in its pose: copy it again"
    return found, faults


def _mercator(at: Float64[np.ndarray, "6"], latitude: float) -> Float64[np.ndarray, "4 4"]:
    """The IMU's pose by Mercator's projection, scaled to that latitude."""
    scale = np.cos(np.radians(latitude))
    x = scale * _EARTH_M * np.radians(at[1])
    y = scale * _EARTH_M * np.log(np.tan(np.radians(90 + at[0]) / 2))
    (sx, sy, sz), (cx, cy, cz) = np.sin(at[3:6]), np.cos(at[3:6])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return rigid(about_z @ about_y @ about_x, np.array([x, y, at[2]]))
