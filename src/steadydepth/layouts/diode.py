"""DIODE: {train,val}/{indoors,outdoor}/scene_*/scan_*/*.png, with _depth.npy (h, w, 1, metres) and _depth_mask.npy.

Images of a laser scanner's stops, no video: each becomes a sequence of one frame.
Source: diode-dataset.org and github.com/diode-dataset/diode-devkit.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from steadydepth.files.depth_formats import read_numbers
from steadydepth.files.images import check_size
from steadydepth.layouts.recording import Recording, files_reader, pinhole

SPLITS = ("train", "val")
_K = pinhole(886.81, 927.06, 512.0, 384.0)  # intrinsics.txt of the development kit


def find_recordings(folder: Path, split: str | None) -> Iterator[Recording]:
    """Every image of the given part, or of all in `folder`."""
    for part in (split,) if split else SPLITS:
        for image in sorted(folder.glob(f"{part}/*/scene_*/scan_*/*.png")):
            yield Recording(
                name=image.stem,
                fps=1.0,
                n_frames=1,
                read=files_reader([image], [image.with_name(f"{image.stem}_depth.npy")], _read_masked),
                depth_scale_m=0.005,
                source="DIODE",
                licence="MIT",
                K=_K,
            )


def _read_masked(path: Path) -> Float32[np.ndarray, "h w"]:
    depth, mask = read_numbers(path), path.with_name(path.name.replace("_depth.npy", "_depth_mask.npy"))
    return np.where(check_size(mask, read_numbers(mask), *depth.shape) > 0, depth, np.float32(0))
