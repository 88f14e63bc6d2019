"""ScanNet, extracted by its SensReader: <scene>/{color,depth,pose,intrinsic}, frames numbered from 0.

Depth is 16-bit PNG in millimetres, 640 x 480; colour, 1296 x 968, is resized to it, and the depth camera's K is
written. Poses are camera to world; where tracking was lost they are -inf, nan or 0, and a new sequence begins.
Source: github.com/ScanNet/ScanNet (README, SensReader/python). `split` reads scannetv2_<split>.txt in or above IN.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float64

from steadydepth.files.damage import reading
from steadydepth.files.images import read_colour
from steadydepth.layouts.recording import (
    Found,
    Frame,
    Recording,
    Unreadable,
    each,
    in_or_above,
    numbered,
    places,
    read_table,
    scaled,
    unbroken_parts,
)
from steadydepth.types import InputError

SPLITS = ("train", "val", "test")
_RATE_HZ = 30.0


def find_recordings(folder: Path, split: str | None) -> Iterator[Found]:
    """Scenes in `folder`, or `folder` itself."""
    wanted = _scenes(folder, split) if split else None
    yield from each((one for one in places(folder, "color") if wanted is None or one.name in wanted), _parts)


def _scenes(folder: Path, split: str) -> set[str]:
    name = f"scannetv2_{split}.txt"
    found = in_or_above(folder, name)
    if found is None:
        raise InputError(f"{folder / name}: missing; --split {split} reads the official list: put it there")
    with reading(found, "as text"):
        return set(found.read_text(encoding="utf-8-sig").split())


def _parts(place: Path) -> Iterator[Found]:
    images = numbered(place / "color", "", ".jpg") or numbered(place / "color", "", ".png")
    if not images:
        raise InputError(f"{place / 'color'}: no 0.jpg and on: extract it again")
    labels, tracked_in = numbered(place / "depth", "", ".png"), numbered(place / "pose", "", ".txt")
    poses = {}
    for number in images:
        try:
            poses[number] = read_table(tracked_in.get(number, place / "pose" / f"{number}.txt"), 4)
        except InputError as error:
            yield Unreadable(f"{place.name}, frame {number}", str(error))
    numbers = [number for number, pose in poses.items() if _is_tracked(pose)]
    if not numbers:
        raise InputError(f"{place}: no frame of color/ has a finite pose in pose/: extract it again")
    if not labels:
        raise InputError(f"{place}: no image in depth/, which says the size: extract it again")
    sized = next((path for number, path in labels.items() if number in images), next(iter(labels.values())))
    steps = np.diff(numbers)
    step = int(steps.min()) if len(steps) else 1  # SensReader may leave frames out
    tracked = Recording(
        name=place.name,
        fps=_RATE_HZ / step,
        n_frames=len(numbers),
        read=_reader([images[number] for number in numbers], [labels.get(number) for number in numbers], sized),
        depth_scale_m=0.001,
        source="ScanNet",
        licence="ScanNet Terms of Use",
        K=read_table(place / "intrinsic" / "intrinsic_depth.txt", 4)[:3, :3],
        cam_to_world=np.stack([poses[number] for number in numbers]),
    )
    yield from unbroken_parts(tracked, steps == step, len(images))


def _is_tracked(pose: Float64[np.ndarray, "n m"]) -> bool:
    """Whether a pose is one: where tracking was lost its numbers are infinite, none, or all 0, by the exporter."""
    return bool(pose.shape == (4, 4) and np.isfinite(pose).all() and abs(np.linalg.det(pose[:3, :3]) - 1) < 0.1)


def _reader(images: list[Path], labels: list[Path | None], sized: Path) -> Callable[[int], Frame]:
    """Colour at the size of depth, of which `sized` is an image; a frame without depth is one without a label."""
    read_depth = scaled(0.001)

    @lru_cache(maxsize=1)
    def size() -> tuple[int, ...]:
        return read_depth(sized).shape

    def read(number: int) -> Frame:
        label = labels[number]
        depth = None if label is None else read_depth(label)
        height, width = size() if depth is None else depth.shape
        return cv2.resize(read_colour(images[number]), (width, height), interpolation=cv2.INTER_AREA), depth

    return read
