"""Depth as OpenEXR: 32-bit floats in the channel Z, as compositing programs read it; needs the extra `exr`."""

from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Float, Float32

from steadydepth.errors import InputError
from steadydepth.files.images import size_fault


def load_openexr() -> ModuleType:
    """The module OpenEXR (Academy Software Foundation; OpenCV's wheels write none); InputError without it."""
    try:
        import OpenEXR
    except ImportError as error:
        raise InputError("exr needs the package OpenEXR: pip install 'steadydepth[exr]', or choose npz") from error
    return OpenEXR


def write_exr(path: Path, depth: Float[np.ndarray, "h w"]) -> None:
    """Write `depth` as float32 without loss (ZIP), NaN and infinity as they are."""
    exr = load_openexr()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with exr.File(header, {"Z": np.ascontiguousarray(depth, np.float32)}) as file:
        file.write(str(path))


def read_exr(path: Path) -> Float32[np.ndarray, "h w"]:
    """The channel Z, or the only channel there is, as float32; InputError when unreadable or of another kind."""
    exr = load_openexr()
    try:
        with exr.File(str(path), header_only=True) as file:
            first, last = file.header()["dataWindow"]
        if fault := size_fault(int(last[1] - first[1]) + 1, int(last[0] - first[0]) + 1):
            raise InputError(f"{path}: {fault}: write the file again")
        with exr.File(str(path), separate_channels=True) as file:
            channels = {name: np.array(channel.pixels) for name, channel in file.channels().items()}
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as OpenEXR ({error}): write the file again") from error
    depth = next(iter(channels.values())) if len(channels) == 1 else channels.get("Z")
    if depth is None or depth.dtype.kind != "f" or depth.ndim != 2:
        found = ", ".join(f"{name} {values.dtype}" for name, values in channels.items())
        raise InputError(f"{path}: has the channels {found}; depth is floats in the channel Z: write one such channel")
    return depth.astype(np.float32)
