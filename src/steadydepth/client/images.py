"""What goes to a server and what comes back: images, encoded, and depth."""

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError
from steadydepth.ops.resize import check_image

Encoding = Literal["jpeg", "png", "rgb"]
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ServedDepth:
    """Depth of one image, of its size."""

    depth: NDArray[np.float32]  # (h, w) in the units of `claims`; NaN where there is no value
    claims: str  # metric (metres), scale, affine or disparity
    model: str  # name and version of the model that answered


@dataclass(frozen=True)
class StreamedDepth(ServedDepth):
    """Depth of one frame of a stream."""

    number: int  # of the frame in its source, from 0
    image: NDArray[np.uint8]  # the frame, RGB (h, w, 3)
    is_start: bool  # whether nothing before it was remembered: the first one, a cut, a new connection or model
    n_skipped: int  # frames that were left out since the answer before
    latency_s: float  # from sending to here
    flicker: float | None  # of the stream so far, per cent of depth a frame


def encode_image(image: NDArray[Any], encoding: Encoding) -> bytes:
    """An image as JPEG or PNG.

    Raises:
        InputError: it is no image, or has a size that the encoding has not.
    """
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    is_encoded, data = cv2.imencode(f".{encoding}", np.ascontiguousarray(check_image(image)[..., ::-1]), flags)
    if not is_encoded:
        raise InputError(f"an image of {image.shape} cannot be encoded as {encoding}")
    return data.tobytes()
