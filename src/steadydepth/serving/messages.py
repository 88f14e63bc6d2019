"""The messages of a stream, on both sides of it: a header in JSON, and bytes after it. Needs no torch.

A binary message is the length of its header (4 bytes, little-endian), the header (a JSON object in UTF-8), and a
payload: an image or its pixels from the terminal, depth from the server.
"""

import json
import math
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError, import_extra

PROTOCOL = "steadydepth.v1"
FORMATS = ("float16", "png16", "zstd", "float32")
WINDOW = 2  # frames of a terminal that are not answered yet, at the most: one in the network, one on its way
MOST_HEADER_BYTES = 4096
MOST_ID = 2**53 - 1  # what every JSON reader keeps exactly


def pack(header: dict[str, Any], payload: bytes | memoryview = b"") -> bytes:
    """One binary message."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return b"".join((len(text).to_bytes(4, "little"), text, payload))


def unpack(message: bytes) -> tuple[dict[str, Any], memoryview]:
    """Header and payload of a binary message.

    Raises:
        InputError: it is none.
    """
    length = int.from_bytes(message[:4], "little")
    if len(message) < 4 or not 2 <= length <= min(MOST_HEADER_BYTES, len(message) - 4):
        raise InputError(f"a message begins with the length of its header, 2 to {MOST_HEADER_BYTES}, in 4 bytes")
    header = None
    with suppress(ValueError, RecursionError):
        header = json.loads(message[4 : 4 + length].decode())
    if not isinstance(header, dict):
        raise InputError("the header of a message is a JSON object in UTF-8")
    return header, memoryview(message)[4 + length :]


def encode_zstd(depth: NDArray[np.float32]) -> bytes:
    """float32 without loss: the first bytes of all values, then the second ones, and so on, as one zstd frame."""
    import zstandard

    planes = np.ascontiguousarray(depth, "<f4").view(np.uint8).reshape(-1, 4).T
    return zstandard.ZstdCompressor(level=1).compress(planes.tobytes())


def decode_depth(header: dict[str, Any], payload: memoryview) -> NDArray[np.float32]:
    """Depth (h, w) of an answer, in the units of its `claims`; NaN where there is no value.

    Raises:
        InputError: header and payload do not fit, or the package for the format is missing.
    """
    height, width, kind = int(header["height"]), int(header["width"]), header["format"]
    if kind == "png16":
        codes = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_UNCHANGED)
        if codes is None or codes.dtype != np.uint16 or codes.shape != (height, width):
            raise InputError("the answer is no 16-bit PNG of the size in its header: is this a steadydepth server?")
        values = codes * np.float64(header["scale"]) + header["offset"]
        return np.where(codes > 0, values, np.nan).astype(np.float32)
    if kind == "zstd":
        plain = _unzstd(payload, 4 * height * width)
        return np.frombuffer(plain, np.uint8).reshape(4, -1).T.copy().view("<f4").reshape(height, width)
    dtype = {"float16": "<f2", "float32": "<f4"}.get(kind)
    if dtype is None or len(payload) != height * width * np.dtype(dtype).itemsize:
        raise InputError(f"the answer is no {kind} of the size in its header: is this a steadydepth server?")
    return np.frombuffer(payload, dtype).reshape(height, width).astype(np.float32) * np.float32(header["scale"])


def _unzstd(payload: memoryview, n_bytes: int) -> bytes:
    zstandard = import_extra("zstandard", "serve", "zstd needs zstandard", ", or take float16")
    try:
        plain = zstandard.ZstdDecompressor().decompress(payload, max_output_size=n_bytes)
    except zstandard.ZstdError as error:
        raise InputError(f"the answer is no zstd of the size in its header ({error})") from error
    if len(plain) != n_bytes:
        raise InputError("the answer is no zstd of the size in its header: is this a steadydepth server?")
    return plain


def float16_scale(largest: float) -> float:
    """The power of two by which values are divided so that they fit float16; 1 for those that do."""
    return 1.0 if largest <= 65504 else 2.0 ** math.ceil(math.log2(largest / 65504))
