"""Public data sets: one file each says where its files lie, and what their numbers mean."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from steadydepth.layouts import (
    arkitscenes,
    diode,
    hypersim,
    kitti,
    nyu,
    pairs,
    pointodyssey,
    record3d,
    replica,
    rosbag,
    scannet,
    sintel,
    spring,
    stray_scanner,
    tartanair,
    tum,
    vkitti2,
)
from steadydepth.layouts.recording import Found
from steadydepth.types import InputError


@dataclass(frozen=True)
class Layout:
    """How a data set is found on disk, and the official parts it can be asked for."""

    find: Callable[[Path, str | None], Iterator[Found]]
    splits: tuple[str, ...] = ()


LAYOUTS = {
    "tum": Layout(tum.find_tum),
    "bonn": Layout(tum.find_bonn),
    "kitti": Layout(kitti.find_recordings, kitti.SPLITS),
    "vkitti2": Layout(vkitti2.find_recordings),
    "sintel": Layout(sintel.find_recordings, sintel.SPLITS),
    "tartanair": Layout(tartanair.find_recordings, tartanair.SPLITS),
    "nyu": Layout(nyu.find_recordings, nyu.SPLITS),
    "scannet": Layout(scannet.find_recordings, scannet.SPLITS),
    "hypersim": Layout(hypersim.find_recordings, hypersim.SPLITS),
    "spring": Layout(spring.find_recordings),
    "diode": Layout(diode.find_recordings, diode.SPLITS),
    "pointodyssey": Layout(pointodyssey.find_recordings, pointodyssey.SPLITS),
    "arkitscenes": Layout(arkitscenes.find_recordings, arkitscenes.SPLITS),
    "record3d": Layout(record3d.find_recordings),
    "replica": Layout(replica.find_recordings),
    "rosbag": Layout(rosbag.find_recordings),
    "stray_scanner": Layout(stray_scanner.find_recordings),
    "pairs": Layout(pairs.find_recordings),
}


def find_recordings(layout: str, folder: Path, split: str | None = None) -> Iterator[Found]:
    """Recordings of a data set, and what of it cannot be read.

    Args:
        layout: a key of LAYOUTS.
        folder: where the data set was extracted.
        split: part of the data set; None is all of it.

    Raises:
        InputError: there is neither, or no such layout or split.
    """
    if layout not in LAYOUTS:
        raise InputError(f"{layout}: unknown layout; there is video, videos, {', '.join(LAYOUTS)}")
    if not folder.exists():
        raise InputError(f"{folder} does not exist; it is where {layout} was extracted: check the path")
    splits = LAYOUTS[layout].splits
    if split is not None and split not in splits:
        raise InputError(f"{layout} has no part {split}; it has {', '.join(splits) or 'none'}")
    empty = True
    for recording in LAYOUTS[layout].find(folder, split):
        empty = False
        yield recording
    if empty:
        raise InputError(
            f"{folder}: nothing of {layout} in it; docs/data.md says which files lie where: check the path"
        )
