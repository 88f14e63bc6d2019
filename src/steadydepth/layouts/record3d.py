"""Record3D, of iPhones with LiDAR or TrueDepth: .r3d files, which are ZIP archives.

`metadata` is JSON: w and h of the colours, dw and dh of depth, fps, K by columns, or a camera fx, fy, cx, cy for each
frame, in pixels of the colours, and poses qx qy qz qw tx ty tz from camera to world, the camera's y up and z to the
back. rgbd/ has <number>.jpg, .depth and .conf: float32 metres and 8-bit confidence, packed by LZFSE (package lzfse).
Colour is resized to depth; pixels of low confidence were not measured.
Sources: github.com/marek-simonik/record3d, and nerfstudio's reader (nerfstudio/process_data/record3d_utils.py).
"""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import cv2
import numpy as np

from steadydepth.errors import import_extra
from steadydepth.files.damage import reading
from steadydepth.files.image_formats import size_fault
from steadydepth.files.images import HeldImage, read_colour
from steadydepth.files.listing import visible
from steadydepth.layouts.recording import Found, Frame, Recording, each, pinhole, quaternion_poses, resized_camera
from steadydepth.types import InputError

_MOST_BYTES = 2**28
_TO_OPENCV = np.diag([1.0, -1, -1, 1])  # of points in ARKit's camera axes


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """The .r3d files in `folder`, or `folder` itself, which is one."""
    files = [folder] if folder.is_file() else sorted(path for path in visible(folder) if path.suffix.lower() == ".r3d")
    yield from each(files, lambda path: [_recording(path)])


def _recording(path: Path) -> Recording:
    with reading(path, "as a Record3D file", "export it again"):
        with zipfile.ZipFile(path) as archive:
            numbers = sorted(int(PurePosixPath(name).stem) for name in archive.namelist() if _is_image(name))
            metadata = json.loads(_member(archive, "metadata"))
        size = int(metadata["h"]), int(metadata["w"])
        depth_size = int(metadata.get("dh", size[0])), int(metadata.get("dw", size[1]))
        lenses = metadata.get("perFrameIntrinsicCoeffs")
        # K is written by columns.
        lens = lenses[0][:4] if lenses else [metadata["K"][at] for at in (0, 4, 6, 7)]
        K = pinhole(*map(float, lens))
        poses = np.array(metadata["poses"], np.float64).reshape(-1, 7)
        fps = float(metadata.get("fps", 60))
    sizes_fault = size_fault(*size) or size_fault(*depth_size)
    if not numbers or numbers != list(range(len(poses))) or not 0 < fps < np.inf or sizes_fault:
        raise InputError(
            f"{path}: {len(numbers)} images and {len(poses)} poses at {fps:g} a second, of {size[1]} x {size[0]} and "
            f"{depth_size[1]} x {depth_size[0]} pixels; each image has a pose: export it again"
        )
    return Recording(
        name=path.stem,
        fps=fps,
        n_frames=len(numbers),
        read=_reader(path, depth_size),
        depth_scale_m=0.001,
        source="Record3D",
        licence="",
        K=resized_camera(K, size, depth_size),
        cam_to_world=quaternion_poses(poses[:, [4, 5, 6, 0, 1, 2, 3]]) @ _TO_OPENCV,
    )


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    return path.parent.name == "rgbd" and path.suffix == ".jpg" and path.stem.isdecimal() and path.stem.isascii()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """What a member holds; ValueError when its header promises more than any frame has."""
    if archive.getinfo(name).file_size > _MOST_BYTES:
        raise ValueError(f"{name} says that it has {archive.getinfo(name).file_size} bytes")
    return archive.read(name)


def _reader(path: Path, size: tuple[int, int]) -> Callable[[int], Frame]:
    def read(number: int) -> Frame:
        where = f"{path}, frame {number}"
        with reading(where, "as a frame of Record3D", "export it again"):
            with zipfile.ZipFile(path) as archive:
                names = {f"rgbd/{number}.{kind}" for kind in ("depth", "conf")} & set(archive.namelist())
                image = HeldImage(where, _member(archive, f"rgbd/{number}.jpg"))
                held = {name.rpartition(".")[2]: _member(archive, name) for name in names}
            depth = None if "depth" not in held else _unpacked(held["depth"], np.dtype("<f4"), size)
            if depth is not None and "conf" in held:
                depth = np.where(_unpacked(held["conf"], np.dtype("u1"), size) > 0, depth, np.float32(0))
        return cv2.resize(read_colour(image), size[::-1], interpolation=cv2.INTER_AREA), depth

    return read


def _unpacked(data: bytes, dtype: np.dtype, size: tuple[int, int]) -> np.ndarray:
    """An image (h, w) of LZFSE, or of plain numbers as other apps write it; ValueError when it is of another size."""
    n_bytes = size[0] * size[1] * dtype.itemsize
    if len(data) != n_bytes:
        lzfse = import_extra("lzfse", "record3d")
        try:
            data = lzfse.decompress(data)
        except lzfse.error as error:
            raise ValueError(f"LZFSE: {error}") from error
    if len(data) != n_bytes:
        raise ValueError(f"{len(data)} bytes for {size[1]} x {size[0]}")
    return np.frombuffer(data, dtype).reshape(size)
