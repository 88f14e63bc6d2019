"""OpenEXR: depth as 16-bit or 32-bit floats in the channel Z, and frames of linear light; needs the extra `exr`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt8

from steadydepth.errors import InputError, import_extra
from steadydepth.files.damage import reading
from steadydepth.files.image_formats import size_fault


def load_openexr() -> Any:
    """The module OpenEXR (Academy Software Foundation; OpenCV's wheels write none); InputError where it is missing."""
    return import_extra("OpenEXR", "exr", "exr needs the package OpenEXR", ", or choose npz")


def write_exr(path: Path, depth: Float[np.ndarray, "h w"], *, is_half: bool = False) -> None:
    """Write depth without loss (ZIP), NaN and infinity as they are.

    Args:
        path: replaced where it exists.
        depth: in any unit.
        is_half: float16 in place of float32: three digits, half the size, at most 65504.

    Raises:
        InputError: a number is above that, or the package OpenEXR is missing.
    """
    exr = load_openexr()
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(depth, np.float16 if is_half else np.float32)
    if is_half and not np.isfinite(values[np.isfinite(depth)]).all():
        most = np.abs(depth[np.isfinite(depth)]).max()
        raise InputError(f"{path}: {most:g} does not fit floats of 16 bits, 65504 at most: write exr, of 32 bits")
    # What OpenEXR writes to a file by itself ends as a RuntimeError without a number when the disk is full.
    held = io.BytesIO()
    with exr.File(header, {"Z": values}) as file:
        file.write(held)
    path.write_bytes(held.getvalue())


def read_exr(path: Path) -> Float32[np.ndarray, "h w"]:
    """The channel Z, that of a layer (ViewLayer.Depth.Z) where one alone has it, or the only channel, as float32.

    Raises:
        InputError: the file is unreadable or of another kind.
    """
    exr = load_openexr()
    with reading(path, "as OpenEXR", "write the file again"):
        channels = _channels(exr, path.read_bytes())
    names = list(channels) if len(channels) == 1 or "Z" not in channels else ["Z"]
    if len(names) > 1:  # of several layers; Blender's pass Depth has the channel Z, or V
        names = [name for name in channels if name.endswith((".Z", "Depth.V"))]
    depth = channels[names[0]] if len(names) == 1 else None
    if depth is None or depth.dtype.kind != "f" or depth.ndim != 2:
        found = ", ".join(f"{name} {values.dtype}" for name, values in channels.items())
        raise InputError(f"{path}: has the channels {found}; depth is floats in one channel Z: write one such channel")
    return depth.astype(np.float32)


def decode_light(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """A frame of linear light (R, G, B, or Y alone) as 8-bit sRGB; what is above 1 is white, what is no number black.

    ValueError saying what is wrong with it; InputError without the package.
    """
    exr = load_openexr()
    try:
        channels = _channels(exr, data)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    # Of several layers the one without a name is the image.
    names = ("R", "G", "B") if "R" in channels else ("Y", "Y", "Y")
    if missing := sorted(set(names) - channels.keys()):
        raise ValueError(f"has no channel {' or '.join(missing)} but {', '.join(channels)}; a frame has R, G and B")
    linear = np.stack([channels[name].astype(np.float32) for name in names], axis=-1)
    light = np.clip(np.nan_to_num(linear, nan=0.0), 0, 1)
    # IEC 61966-2-1: the transfer function of sRGB.
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def _channels(exr: Any, data: bytes) -> dict[str, np.ndarray]:
    """The channels of the first part; ValueError or RuntimeError when they cannot be read."""
    with exr.File(io.BytesIO(data), header_only=True) as file:
        first, last = file.header()["dataWindow"]
    if fault := size_fault(int(last[1] - first[1]) + 1, int(last[0] - first[0]) + 1):
        raise ValueError(fault)
    with exr.File(io.BytesIO(data), separate_channels=True) as file:
        return {name: np.array(channel.pixels) for name, channel in file.channels().items()}
