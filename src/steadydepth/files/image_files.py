"""Images on disk, read strictly: what is truncated, damaged or of another kind is an error, never a grey patch."""

import zlib
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from steadydepth.types import InputError

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg")

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
# KITTI's flow encoding: u = (R - 32768) / 64 pixels.
_FLOW_ZERO, _FLOW_STEPS = 32768, 64.0


def read_colour(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an 8-bit PNG or JPEG, grey repeated, alpha dropped; InputError when unreadable, truncated or 16-bit."""
    data = _whole_bytes(path)
    if data.startswith(_PNG_SIGNATURE) and data[24] == 16:
        raise InputError(f"{path}: a 16-bit image; frames are 8-bit RGB: convert it to 8 bits")
    return cv2.cvtColor(_decode(path, data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_depth_codes(path: Path) -> UInt16[np.ndarray, "h w"]:
    """The 16-bit values of a depth PNG; InputError when it is unreadable, truncated or of another kind."""
    return _read_as(path, np.uint16, 2, "depth is a 16-bit PNG of one channel", "write it as uint16 (h, w)")


def read_labels(path: Path) -> UInt8[np.ndarray, "h w"]:
    """The 8-bit values of an objects or valid PNG; InputError when it is unreadable, truncated or of another kind."""
    rule = "objects and valid are 8-bit PNG of one channel"
    return _read_as(path, np.uint8, 2, rule, "write it as uint8 (h, w), without palette")


def read_flow(path: Path) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Flow in pixels (x, y), 0 where invalid, and where it is valid; from KITTI's 16-bit PNG."""
    rule = "flow is a 16-bit PNG of three channels R, G, B = u, v, valid (KITTI)"
    blue_first = _read_as(path, np.uint16, 3, rule, "write it as uint16 (h, w, 3)")
    valid = blue_first[..., 0] != 0
    flow = (blue_first[..., :0:-1].astype(np.float32) - _FLOW_ZERO) / np.float32(_FLOW_STEPS)
    return np.where(valid[..., None], flow, np.float32(0)), valid


def encode_flow(
    flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"], *, name: str
) -> UInt16[np.ndarray, "h w 3"]:
    """KITTI's codes in the order R, G, B = u, v, valid, rounded to 1/64 px; invalid pixels are 0, 0, 0.

    InputError naming `name` when a valid flow is not finite or reaches beyond about 512 px.
    """
    codes = np.rint(np.where(valid[..., None], flow, 0).astype(np.float64) * _FLOW_STEPS) + _FLOW_ZERO
    if not np.all((codes >= 0) & (codes <= 65535)):
        raise InputError(f"{name}: flow beyond -512 to 511.98 px does not fit KITTI's 16 bits: mark it invalid")
    return np.where(valid[..., None], np.dstack((codes, np.ones(valid.shape))), 0).astype(np.uint16)


def encode_depth(
    depth: Float32[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], scale_m: float, *, name: str
) -> UInt16[np.ndarray, "h w"]:
    """Depth in metres as multiples of `scale_m`, rounded to nearest; 0 where not `valid`.

    InputError naming `name` when a valid depth is not finite, or its code is not in 1 to 65535.
    """
    codes = np.rint(np.where(valid, depth, scale_m).astype(np.float64) / scale_m)
    if not np.all((codes >= 1) & (codes <= 65535)):
        raise InputError(
            f"{name}: depth of {np.min(depth[valid]):.6g} to {np.max(depth[valid]):.6g} m does not fit 16 bits at "
            f"{scale_m:g} m a step (1 to 65535 steps): choose another depth_scale_m, or mark those pixels invalid"
        )
    return np.where(valid, codes, 0).astype(np.uint16)


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 or uint16 of shape (h, w) or RGB (h, w, 3) losslessly."""
    blue_first = image[..., ::-1] if image.ndim == 3 else image
    whole, data = cv2.imencode(".png", np.ascontiguousarray(blue_first))
    if not whole:
        raise OSError(f"{path}: OpenCV could not encode {image.dtype} {image.shape} as PNG")
    path.write_bytes(data.tobytes())


def _read_as(path: Path, dtype: type[np.generic], ndim: int, rule: str, way_out: str) -> np.ndarray:
    image = _decode(path, _whole_bytes(path), cv2.IMREAD_UNCHANGED)
    if image.dtype != dtype or image.ndim != ndim or (ndim == 3 and image.shape[2] != 3):
        channels = 1 if image.ndim == 2 else image.shape[2]
        bits = 8 * image.dtype.itemsize
        raise InputError(f"{path}: {bits}-bit with {channels} channel(s); {rule}: {way_out}")
    return image


def _decode(path: Path, data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # more pixels than OpenCV agrees to hold, for one
        raise InputError(f"{path}: cannot be decoded ({error.err}): write the file again") from error
    if image is None:
        raise InputError(f"{path}: cannot be decoded; images are whole PNG or JPEG: write the file again")
    return image


def _whole_bytes(path: Path) -> bytes:
    """The bytes of a PNG or JPEG whose end is there; OpenCV itself fills what is missing with grey and says nothing."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check that it is there and may be read"
        ) from error
    if data.startswith(_PNG_SIGNATURE):
        fault = _png_fault(data)
    elif data.startswith(_JPEG_SIGNATURE):
        fault = _jpeg_fault(data)
    else:
        fault = "empty file" if not data else "neither PNG nor JPEG by its first bytes"
    if fault:
        raise InputError(f"{path}: {fault}; an image is a whole PNG or JPEG: write or copy the file again")
    return data


def _png_fault(data: bytes) -> str | None:
    view, at = memoryview(data), len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(view[at : at + 4], "big")
        if end > len(data):
            break
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return f"damaged PNG (checksum of its {kind.decode('latin-1')} part)"
        if kind == b"IEND":
            return None
        at = end
    return "truncated PNG"


def _jpeg_fault(data: bytes) -> str | None:
    at = 2
    # Parts before the picture may hold a thumbnail with an end marker of its own: step over them by their lengths.
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        is_scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if is_scan:
            return None if data.find(b"\xff\xd9", at) >= 0 else "truncated JPEG"
    return "truncated JPEG"
