"""Decoded frames as players show them, and what is wrong with how they are shown."""

from typing import Any

import cv2
import numpy as np
from av.sidedata.sidedata import Type as SideData
from jaxtyping import UInt8

_HDR = {16: "PQ, as of HDR10 and Dolby Vision", 18: "HLG"}  # transfer functions of ITU-T H.273
# Ratios of width to height that a pixel may have.
_WIDEST_PIXEL = 8.0


def frame_faults(frame: Any, stream: Any, base: str | None) -> list[str]:
    """What is wrong with how a decoded frame is shown, each with what to do.

    Args:
        frame: of PyAV.
        stream: that it came from.
        base: what `base_layer` says of the file.
    """
    faults = []
    transfer = int(frame.color_trc or stream.codec_context.color_trc or 0)
    light = _HDR.get(transfer) or (f"{base}, as Dolby Vision has it" if base in ("PQ", "HLG") else None)
    if base == "own":
        faults.append(
            "Dolby Vision of profile 5, whose colours are none but its own: shown green and violet: convert it to "
            "BT.709 first (ffmpeg -vf libplacebo=colorspace=bt709:color_primaries=bt709:color_trc=bt709)"
        )
    elif light:
        faults.append(
            f"high dynamic range ({light}), shown without tone mapping, so darker and paler than it is meant: "
            "convert it to BT.709 first (ffmpeg -vf zscale,tonemap)"
        )
    if frame.interlaced_frame:
        faults.append("interlaced: moving edges are combs: deinterlace it first (ffmpeg -vf bwdif)")
    if frame.is_corrupt:
        faults.append("damaged: parts of some frames are made up by the decoder: encode or copy it again")
    return faults


def as_shown(frame: Any, stream: Any) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of a decoded frame as players show it: with square pixels, mirrored and turned by its display matrix.

    Args:
        frame: of PyAV.
        stream: that it came from.
    """
    image = frame.to_ndarray(format="rgb24")
    wide = float(stream.sample_aspect_ratio or 1)
    if wide != 1 and 1 / _WIDEST_PIXEL <= wide <= _WIDEST_PIXEL:
        width = max(1, round(image.shape[1] * wide))
        how = cv2.INTER_AREA if wide < 1 else cv2.INTER_LINEAR
        image = cv2.resize(image, (width, image.shape[0]), interpolation=how)
    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
    return np.ascontiguousarray(image if matrix is None else _displayed(image, bytes(matrix)))


def _displayed(image: np.ndarray, matrix: bytes) -> np.ndarray:
    """The image through a display matrix: nine 32-bit numbers a b u c d v x y w, (x, y) shown at (ax + cy, bx + dy).

    Of any matrix, the nearest of the eight that mirror and turn by quarters.
    """
    if len(matrix) < 36:
        return image
    a, b, _, c, d = np.frombuffer(matrix, "i4", 5).tolist()
    if abs(b) + abs(c) > abs(a) + abs(d):
        image, (a, d) = image.swapaxes(0, 1), (c, b)
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
