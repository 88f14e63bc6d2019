"""Bytes of clients to images, and depth to the bytes that they asked for."""

import io
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PIL

from steadydepth.errors import InputError
from steadydepth.files.exr import write_exr
from steadydepth.files.images import HeldImage, encode_png, read_colour
from steadydepth.files.predictions import image_codes, image_scale
from steadydepth.inference.session import Image, Result
from steadydepth.serving.messages import encode_zstd, float16_scale

# What browsers and cameras send; decoders of rarer kinds are not offered to strangers.
KINDS = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}


def decode_image(data: bytes, most_pixels: int) -> Image:
    """RGB of a JPEG, PNG or WebP, as it is shown; its size is looked at before anything is decoded.

    Args:
        data: the bytes of the file.
        most_pixels: rows times columns that are decoded.

    Raises:
        InputError: it is of another kind, damaged, or has too many pixels.
    """
    try:
        silent = warnings.catch_warnings(action="ignore")
        with silent, PIL.open(io.BytesIO(data), formats=list(KINDS.values())) as image:  # reads the header alone
            width, height = image.size
    except (OSError, ValueError, SyntaxError, TypeError, ArithmeticError, LookupError, PIL.DecompressionBombError):
        raise InputError(f"the image is none of {', '.join(KINDS.values())}, or damaged: send one of them") from None
    _check_pixels(height, width, most_pixels)
    return read_colour(HeldImage("the image", data))


def raw_image(data: memoryview, height: Any, width: Any, most_pixels: int) -> Image:
    """RGB pixels as they are.

    Args:
        data: row by row.
        height: of the message's header, rows.
        width: of the message's header, columns.
        most_pixels: rows times columns that are taken.

    Raises:
        InputError: they are not height * width * 3 bytes, or too many.
    """
    if type(height) is not int or type(width) is not int:  # true is an int too
        raise InputError("pixels need height and width in their header, whole numbers")
    _check_pixels(height, width, most_pixels)
    if len(data) != height * width * 3:
        raise InputError(f"{height} x {width} pixels are {height * width * 3} bytes of RGB, these are {len(data)}")
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


def _check_pixels(height: int, width: int, most_pixels: int) -> None:
    if min(height, width) < 1 or height * width > most_pixels:
        raise InputError(f"the image is {width} x {height}; it has 1 to {most_pixels} pixels: shrink it")


def encode_depth(result: Result, format: str) -> tuple[dict[str, Any], bytes]:
    """Depth as one of `messages.FORMATS`: what its header says, and its bytes; NaN where there is no value."""
    depth = result.measured
    values = depth[result.valid]
    low, high = (float(values.min()), float(values.max())) if len(values) else (1.0, 2.0)
    scale, offset = 1.0, 0.0
    if format == "png16":
        scale, offset = image_scale(low, high, result.claims)
        payload = encode_png(image_codes(depth - np.float32(offset), scale, "depth"))
    elif format == "float16":
        scale = float16_scale(max(abs(low), abs(high)))
        payload = (depth / np.float32(scale)).astype("<f2").tobytes()
    else:
        payload = encode_zstd(depth) if format == "zstd" else depth.astype("<f4").tobytes()
    height, width = depth.shape
    header = {"format": format, "height": height, "width": width, "claims": result.claims}
    return {**header, "scale": scale, "offset": offset}, payload


def encode_npz(result: Result) -> bytes:
    """The npz of a prediction folder: `depth` (1, h, w) float32 and the text `claims`."""
    file = io.BytesIO()
    np.savez(file, depth=result.measured[None], claims=np.array(result.claims))
    return file.getvalue()


def encode_exr(result: Result) -> bytes:
    """OpenEXR, float32 in the channel Z; InputError without the package OpenEXR."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "depth.exr"
        write_exr(path, result.measured)
        return path.read_bytes()
