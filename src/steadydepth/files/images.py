"""Images on disk, read strictly: what is truncated, damaged or of another kind is an error, never a grey patch."""

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8, UInt16

from steadydepth.errors import InputError
from steadydepth.files import exr, image_formats, packed_images
from steadydepth.files.damage import refuse_pipe
from steadydepth.files.image_formats import size_fault, turn

FRAME_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".heif", ".exr")
# Images as well, of kinds that are not read.
OTHER_IMAGES = (
    *(".jp2", ".j2k", ".jxl", ".ppm", ".pnm", ".pgm", ".pfm", ".hdr", ".tga"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".raw"),
)
# What to do where an image is turned by EXIF and its labels may be as it is stored or as it is shown.
TURNED = (
    "where they are as the image is stored, take the tag away (exiftool -Orientation= FILE); where they are as it is "
    "shown, turn the image itself (mogrify -auto-orient FILE)"
)

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_JPEG_SIGNATURE = b"\xff\xd8\xff"
# Markers of the part that says the size; DHT, JPG and DAC lie between them.
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# KITTI's flow encoding: u = (R - 32768) / 64 pixels.
_FLOW_ZERO, _FLOW_STEPS = 32768, 64.0


class _Kind(NamedTuple):
    """What is stored in an image, and what to say of another."""

    dtype: type[np.generic]
    ndim: int
    rule: str


_COLOUR = _Kind(np.uint8, 3, "frames are 8-bit RGB: write it as uint8 (h, w, 3)")
_DEPTH = _Kind(np.uint16, 2, "depth is a 16-bit PNG of one channel: write it as uint16 (h, w)")
_LABELS = _Kind(
    np.uint8, 2, "objects and valid are 8-bit PNG of one channel: write it as uint8 (h, w), without palette"
)
_FLOW = _Kind(
    np.uint16, 3, "flow is a 16-bit PNG of three channels R, G, B = u, v, valid (KITTI): write it as uint16 (h, w, 3)"
)


@runtime_checkable
class ImageFile(Protocol):
    """A path, or what is read like one; its text names it in errors."""

    def read_bytes(self) -> bytes:
        """All of it."""


@dataclass(frozen=True)
class HeldImage:
    """An image file that lies inside another file, or that somebody sent."""

    where: str  # named in errors
    data: bytes

    def __str__(self) -> str:
        return self.where

    def read_bytes(self) -> bytes:
        """All of it."""
        return self.data


def read_colour(path: ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """RGB of an 8-bit image as it is shown, turned as its EXIF orientation says; grey repeated, alpha dropped.

    The linear light of OpenEXR becomes sRGB. InputError when unreadable, truncated or of more bits.
    """
    return turn(*read_stored_colour(path))


def read_stored_colour(path: ImageFile) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """RGB of an 8-bit image as it is stored, and its EXIF orientation, 1 to 8: `turn` makes it as it is shown.

    Raises:
        InputError: the file is missing, damaged, no image, or has 16 bits.
    """
    data = _bytes_of(path)
    if (kind := image_formats.kind_of(data)) is not None:
        try:
            if kind == "OpenEXR":
                return exr.decode_light(data), 1
            return image_formats.decode(data, kind, name=str(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except ValueError as error:
            raise InputError(f"{path}: cannot be read as {kind} ({error}): write or copy the file again") from error
    _check_complete(path, data)
    if data.startswith(_PNG_SIGNATURE) and data[24] == 16:
        raise InputError(f"{path}: a 16-bit image; frames are 8-bit RGB: convert it to 8 bits")
    if data.startswith(_PNG_SIGNATURE) and (number := image_formats.animation_of(data)) > 1:
        image_formats.say_first_of(str(path), number)
    stored = _decode(path, data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, _COLOUR)
    return stored, image_formats.orientation(data)


def read_labelled_colour(path: ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """`read_colour` of an image with labels beside it.

    Raises:
        InputError: EXIF turns the image, and not its labels.
    """
    image, orientation = read_stored_colour(path)
    if orientation != 1:
        raise InputError(
            f"{path}: its EXIF orientation is {orientation}, and labels lie beside it, which have none: {TURNED}"
        )
    return image


def shown_together(
    path: ImageFile, depth: Float32[np.ndarray, "h w"]
) -> tuple[UInt8[np.ndarray, "i j 3"], Float32[np.ndarray, "i j"]]:
    """The image `path` and depth stored with it, both as the image is shown.

    Where EXIF turns the image by a quarter the sizes say which way the depth is stored.

    Raises:
        InputError: the image is square, and nothing says which way its depth is stored.
    """
    image, orientation = read_stored_colour(path)
    if orientation == 1:
        return image, depth
    upright = turn(image, orientation)
    if image.shape[:2] == upright.shape[:2]:
        raise InputError(f"{path}: its EXIF orientation is {orientation}, and its depth has none: {TURNED}")
    return upright, turn(depth, orientation) if depth.shape == image.shape[:2] else depth


def read_depth_codes(path: ImageFile) -> UInt16[np.ndarray, "h w"]:
    """The 16-bit values of a depth PNG; InputError when it is unreadable, truncated or of another kind."""
    return _read_as(path, _DEPTH)


def read_labels(path: ImageFile) -> UInt8[np.ndarray, "h w"]:
    """The 8-bit values of an objects or valid PNG; InputError when it is unreadable, truncated or of another kind."""
    return _read_as(path, _LABELS)


def read_flow(path: ImageFile) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Flow in pixels (x, y), 0 where invalid, and where it is valid; from KITTI's 16-bit PNG."""
    codes = _read_as(path, _FLOW)
    valid = codes[..., 2] != 0
    flow = (codes[..., :2].astype(np.float32) - _FLOW_ZERO) / np.float32(_FLOW_STEPS)
    return np.where(valid[..., None], flow, np.float32(0)), valid


def read_pnm(path: Path) -> UInt8[np.ndarray, "h w 3"] | UInt16[np.ndarray, "h w"]:
    """RGB of a binary .ppm of 8 bits, or the values of a binary .pgm of 16 bits.

    Raises:
        InputError: any other file.
    """
    data = _bytes_of(path)
    # A header of the Netpbm formats is four words; a comment begins with #.
    words = re.match(rb"(P[56])(?:\s|#[^\n]*\n)+(\d+)\s+(\d+)\s+(\d+)\s", data)
    kinds: dict[tuple[bytes, bytes], tuple[str, int]] = {(b"P6", b"255"): ("u1", 3), (b"P5", b"65535"): (">u2", 1)}
    if words is None or (words[1], words[4]) not in kinds:
        raise InputError(f"{path}: neither an 8-bit binary PPM nor a 16-bit binary PGM: copy the file again")
    dtype, n_channels = kinds[words[1], words[4]]
    height, width = int(words[3]), int(words[2])
    n_bytes = height * width * n_channels * np.dtype(dtype).itemsize
    if fault := size_fault(height, width) or (len(data) - words.end() < n_bytes and "truncated"):
        raise InputError(f"{path}: {fault}: copy the file again")
    pixels = np.frombuffer(data, dtype, height * width * n_channels, words.end())
    shape = (height, width, 3) if n_channels == 3 else (height, width)
    return pixels.reshape(shape).astype(np.uint8 if n_channels == 3 else np.uint16)


def encode_flow(
    flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"], *, name: str
) -> UInt16[np.ndarray, "h w 3"]:
    """KITTI's codes in the order R, G, B = u, v, valid, rounded to 1/64 px; invalid pixels are 0, 0, 0.

    Args:
        flow: pixels (x, y); anything where not valid.
        valid: where it is known.
        name: of the frame, for the error.

    Raises:
        InputError: a valid flow is not finite or reaches beyond about 512 px.
    """
    codes = np.rint(np.where(valid[..., None], flow, 0).astype(np.float64) * _FLOW_STEPS) + _FLOW_ZERO
    if not np.all((codes >= 0) & (codes <= 65535)):
        raise InputError(f"{name}: flow beyond -512 to 511.98 px does not fit KITTI's 16 bits: mark it invalid")
    return np.where(valid[..., None], np.dstack((codes, np.ones(valid.shape))), 0).astype(np.uint16)


def encode_depth(
    depth: Float32[np.ndarray, "h w"], valid: Bool[np.ndarray, "h w"], scale_m: float, *, name: str
) -> UInt16[np.ndarray, "h w"]:
    """Depth in metres as multiples of `scale_m`, rounded to nearest; 0 where not `valid`.

    Args:
        depth: metres; anything where not valid.
        valid: where it was measured.
        scale_m: metres of one step.
        name: of the frame, for the error.

    Raises:
        InputError: a valid depth is not finite, or its code is not in 1 to 65535.
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
    path.write_bytes(encode_png(image))


def encode_png(image: np.ndarray) -> bytes:
    """The bytes that `write_png` writes."""
    blue_first = image[..., ::-1] if image.ndim == 3 else image
    is_encoded, data = cv2.imencode(".png", np.ascontiguousarray(blue_first))
    if not is_encoded:
        raise OSError(f"OpenCV could not encode {image.dtype} {image.shape} as PNG")
    return data.tobytes()


def _read_as(path: ImageFile, kind: _Kind) -> np.ndarray:
    data = _bytes_of(path)
    _check_complete(path, data)
    return _decode(path, data, cv2.IMREAD_UNCHANGED, kind)


def _decode(path: ImageFile, data: bytes, flags: int, kind: _Kind) -> np.ndarray:
    """The image as it is stored, colours as RGB; `flags` are OpenCV's."""
    is_packed = packed_images.is_packed(data)
    try:
        image = packed_images.decode_image(data) if is_packed else cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except ValueError as error:
        raise InputError(f"{path}: {error}; write the file again") from error
    except cv2.error as error:  # more pixels than OpenCV agrees to hold, for one
        raise InputError(f"{path}: cannot be decoded ({error.err}): write the file again") from error
    if image is None:
        raise InputError(f"{path}: cannot be decoded; write the file again")
    if image.dtype != kind.dtype or image.ndim != kind.ndim or (kind.ndim == 3 and image.shape[2] != 3):
        channels = 1 if image.ndim == 2 else image.shape[2]
        raise InputError(f"{path}: {8 * image.dtype.itemsize}-bit with {channels} channel(s); {kind.rule}")
    return image if is_packed or kind.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _check_complete(path: ImageFile, data: bytes) -> None:
    """InputError when an image is cut short; OpenCV itself fills what is missing with grey and says nothing."""
    if data.startswith(_PNG_SIGNATURE):
        fault = _png_fault(data)
    elif data.startswith(_JPEG_SIGNATURE):
        fault = _jpeg_fault(data)
    elif packed_images.is_packed(data):
        fault = None  # found when it is unpacked
    else:
        fault = "empty file" if not data else "no image of a kind that is read, by its first bytes"
    if fault:
        kinds = ", ".join(suffix[1:] for suffix in FRAME_SUFFIXES)
        raise InputError(f"{path}: {fault}; an image is a complete file ({kinds}): write or copy the file again")


def _bytes_of(path: ImageFile) -> bytes:
    try:
        refuse_pipe(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); check that it is there and may be read"
        ) from error


def _png_fault(data: bytes) -> str | None:
    view = memoryview(data)
    if fault := size_fault(int.from_bytes(view[20:24], "big"), int.from_bytes(view[16:20], "big")):
        return fault
    for name, start, stop in image_formats.png_parts(data):
        if zlib.crc32(view[start - 4 : stop]) != int.from_bytes(view[stop : stop + 4], "big"):
            return f"damaged PNG (checksum of its {name.decode('latin-1')} part)"
        if name == b"IEND":
            return None
    return "truncated PNG"


def _jpeg_fault(data: bytes) -> str | None:
    for marker, start, stop in image_formats.jpeg_parts(data):
        sides = (int.from_bytes(data[at : at + 2], "big") for at in (start + 1, start + 3))
        if marker in _JPEG_FRAMES and (fault := size_fault(*sides)):
            return fault
        if marker == 0xDA and data.find(b"\xff\xd9", stop) >= 0:
            return None
    return "truncated JPEG"


def check_size(path: ImageFile, image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The image itself, when it has the size of its sequence.

    Args:
        path: of the image, for the error.
        image: (h, w, ...).
        height: rows that it must have.
        width: columns that it must have.

    Raises:
        InputError: it has another size.
    """
    if image.shape[:2] != (height, width):
        raise InputError(size_rule(path, image.shape[:2], (height, width)))
    return image


def size_rule(path: ImageFile, size: tuple[int, ...], usual: tuple[int, int]) -> str:
    """Why an image may not have another size than its sequence, and what to do.

    Args:
        path: of the image.
        size: its rows and columns.
        usual: those of the sequence.
    """
    return (
        f"{path}: {size[0]} x {size[1]} in a sequence of {usual[0]} x {usual[1]}; the size never changes inside a "
        "sequence: resize it, or start a new sequence here"
    )
