"""NYU Depth v2: raw sequences of .ppm and .pgm dumps, or the labelled nyu_depth_v2_labeled.mat.

Raw: r-<time>-<n>.ppm and d-<time>-<n>.pgm of a Kinect, not synchronised; metres are 351.3 / (1092.5 - code), its bytes
swapped, of a camera of its own, 2.5 cm beside the colour camera. Both images are undistorted and depth is warped
into the colour camera, the nearer point in front, as the toolbox's project_depth_map does. Labelled: images that are
not video, depth already aligned and filled. `split` (train, test) reads splits.mat of the toolbox beside the .mat file.
Source: cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html and its toolbox (camera_params.m).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.files.damage import reading
from steadydepth.files.depth_formats import load_extra, open_h5
from steadydepth.files.images import read_pnm
from steadydepth.files.mat_files import check_mat
from steadydepth.layouts.recording import Found, Frame, Recording, each, pinhole, unbroken_parts
from steadydepth.layouts.tum import nearest
from steadydepth.types import InputError

SPLITS = ("train", "test")
_COLOUR_K = pinhole(518.85790117450188, 519.46961112127485, 325.58244941119034, 253.73616633400465)
_COLOUR_LENS = np.array([0.20796615, -0.58613825, 0.00072231363, 0.0010479627, 0.49856987])
_DEPTH_K = pinhole(582.62448167737955, 582.69103270988637, 313.04475870804731, 238.44389626620386)
_DEPTH_LENS = np.array([-0.099897237, 0.39065325, 0.0019290593, -0.0019422022, -0.51031725])
_TURN = np.linalg.inv(
    np.array(
        [
            [0.99997798940829263, 0.0050518419386157446, 0.0043011152014118693],
            [-0.0050359919480810989, 0.99998051861143999, -0.0036879781309514218],
            [-0.0043196624923060242, 0.0036662365748484798, 0.99998394948385538],
        ]
    )
)
_SHIFT_M = -np.array([0.025031875059141302, -0.00029342312935846411, 0.00066238747008330102])
_FARTHEST_M = 10.0
_LICENCE = "research; see cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"
# Dumps are 20 to 30 a second, of two streams: the nearest is at most a frame away, and a pause is longer than ten.
_NEAR_S, _GAP_S = 0.03, 0.35


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Raw scenes in `folder` (or `folder` itself), or the images of the .mat file `folder`.

    Raises:
        InputError: a part of raw scenes is asked for; they have none.
    """
    if folder.suffix == ".mat":
        yield from _labelled(folder, split)
        return
    if split:
        raise InputError(f"{folder}: only the labelled .mat is split in train and test: give it, or leave --split out")
    scenes = {path.parent for pattern in ("r-*.ppm", "*/r-*.ppm") for path in folder.glob(pattern)}
    yield from each(sorted(scenes), _raw)


def _raw(scene: Path) -> Iterator[Recording]:
    images, depths = _stamped(scene, "r-*.ppm"), _stamped(scene, "d-*.pgm")
    times, depth_times = np.array([time for time, _ in images]), np.array([time for time, _ in depths])
    paired = nearest(times, depth_times, _NEAR_S)
    kept = np.flatnonzero(paired >= 0)
    if len(kept) == 0:
        raise InputError(f"{scene}: no image has depth, d-*.pgm, within {_NEAR_S} s: extract it again")
    steps = np.diff(times[kept])
    pairs = [(images[number][1], depths[paired[number]][1]) for number in kept]
    recorded = Recording(
        name=scene.name,
        fps=1 / float(np.median(steps)) if len(steps) else 1.0,
        n_frames=len(pairs),
        read=lambda number: _read_raw(*pairs[number]),
        depth_scale_m=0.001,
        source="NYU Depth v2, raw",
        licence=_LICENCE,
        K=_COLOUR_K,
    )
    yield from unbroken_parts(recorded, steps < _GAP_S)


def _stamped(scene: Path, pattern: str) -> list[tuple[float, Path]]:
    with reading(scene, f"as dumps {pattern} with the time in their names"):
        return sorted((float(path.stem.split("-")[1]), path) for path in scene.glob(pattern))


def _read_raw(image: Path, depth: Path) -> Frame:
    codes = read_pnm(depth).byteswap()
    near = codes < 1092  # beyond lies what is infinitely far, and 2047, which is no measurement
    metres = np.where(near, 351.3 / (1092.5 - np.where(near, codes, 0)), 0)
    metres[metres > _FARTHEST_M] = 0
    return cv2.undistort(read_pnm(image), _COLOUR_K, _COLOUR_LENS), into_colour(metres.astype(np.float32))


def into_colour(depth: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    """Depth of the Kinect's depth camera as its colour camera sees it, both undistorted; 0 where no point falls."""
    height, width = depth.shape
    K = _DEPTH_K
    maps = cv2.initUndistortRectifyMap(K, _DEPTH_LENS, np.eye(3), K, (width, height), cv2.CV_32FC1)
    straight = cv2.remap(depth, *maps, cv2.INTER_NEAREST)
    y, x = np.nonzero(straight)
    points = straight[y, x] * (np.linalg.inv(K) @ np.stack((x, y, np.ones(len(x)))))
    return splat(_TURN @ points + _SHIFT_M[:, None], _COLOUR_K, height, width)


def splat(
    points: Float64[np.ndarray, "3 n"], K: Float64[np.ndarray, "3 3"], height: int, width: int
) -> Float32[np.ndarray, "h w"]:
    """The depth image of `points`: each falls on its nearest pixel, where the nearest of them counts.

    Args:
        points: in the camera's axes, metres.
        K: pixels, pixel centres at integer coordinates.
        height: rows of the image.
        width: columns of the image.

    Returns: metres; 0 where no point falls.
    """
    x, y, z = K @ points
    column, row = np.rint(x / z).astype(int), np.rint(y / z).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (z > 0)
    image = np.full((height, width), np.inf)
    np.minimum.at(image, (row[inside], column[inside]), z[inside])
    return np.where(np.isfinite(image), image, 0).astype(np.float32)


def _labelled(path: Path, split: str | None) -> Iterator[Recording]:
    """Each image a recording of one frame; MATLAB's (h, w, 3, n) is (n, 3, w, h) in HDF5."""
    with open_h5(path) as file:
        if "images" not in file or "depths" not in file:
            raise InputError(f"{path}: no images and depths; it is nyu_depth_v2_labeled.mat: give that file")
        images, depths = file["images"], file["depths"]
        numbers = _numbers(path.parent / "splits.mat", split) if split else range(len(depths))
        if not all(0 <= number < len(depths) for number in numbers):
            raise InputError(f"{path.parent / 'splits.mat'}: names images that {path.name} has not: copy both again")
        for number in numbers:
            yield Recording(
                name=f"nyu_{number + 1:04d}",  # as MATLAB counts
                fps=1.0,
                n_frames=1,
                read=lambda _, n=number: _read_labelled(path, images, depths, n),  # type: ignore[misc]
                depth_scale_m=0.001,
                source="NYU Depth v2, labelled",
                licence=_LICENCE,
                K=_COLOUR_K,
            )


def _read_labelled(path: Path, images: Any, depths: Any, number: int) -> Frame:
    with reading(f"{path}, image {number + 1}", "as arrays"):
        image, depth = images[number].transpose(2, 1, 0), depths[number].T
        return np.ascontiguousarray(image), np.ascontiguousarray(depth.astype(np.float32))


def _numbers(path: Path, split: str) -> list[int]:
    io = load_extra("scipy.io")
    with reading(path, "as the toolbox's splits.mat, which --split needs", "put it there", io.matlab.MatReadError):
        check_mat(path, most_bytes=2**24)  # a few thousand numbers
        name = f"{split}Ndxs"
        return [int(number) - 1 for number in io.loadmat(path, variable_names=[name])[name].ravel()]
