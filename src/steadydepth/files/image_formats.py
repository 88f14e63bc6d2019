"""Images that are neither PNG, JPEG nor OpenEXR, read strictly by Pillow; and which way up any of them is."""

import io
import struct
import warnings
from typing import Any

import numpy as np
from jaxtyping import UInt8

from steadydepth.errors import InputError

# What files of these kinds begin with; those of AVIF and HEIC say it from their fifth byte on.
_WEBP, _BMP, _TIFF = b"RIFF", b"BM", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_EXR = b"v/1\x01"
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# A header of a few bytes can promise more than there is memory for: 16384 x 8192 is asked before anything is decoded.
_MOST_PIXELS = 2**27
_ORIENTATION = 0x0112  # the tag of EXIF
# What Pillow raises for bytes that are damaged or none of its own.
_UNREADABLE = (
    *(OSError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError),
    *(RuntimeError, MemoryError, struct.error),
)


def kind_of(data: bytes) -> str | None:
    """WebP, BMP, TIFF, AVIF, HEIC or OpenEXR by the first bytes of a file; None for any other."""
    if data.startswith(_WEBP) and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(_BMP):
        return "BMP"
    if data.startswith(_TIFF):
        return "TIFF"
    if data.startswith(_EXR):
        return "OpenEXR"
    if data[4:8] == b"ftyp":
        brands = data[8:12] + data[16:64]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in _HEIF_BRANDS):
            return "HEIC"
    return None


def size_fault(height: int, width: int) -> str | None:
    """What is wrong with an image that claims to be so large, None when nothing is."""
    if min(height, width) > 0 and height * width <= _MOST_PIXELS:
        return None
    return f"says that it is {width} x {height} pixels, of which there are 1 to {_MOST_PIXELS}"


def decode(data: bytes, kind: str) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """RGB of the bytes of an image of a `kind` of `kind_of` but OpenEXR, as it is stored, and EXIF's orientation.

    That of AVIF may be a property of the file and not EXIF's; HEIC is turned by its decoder.
    ValueError saying what is wrong with it; InputError for a kind that needs a package which is not there.
    """
    from PIL import Image

    if kind == "HEIC":
        _register_heif()
    try:
        with warnings.catch_warnings():
            # Its own limit on pixels is a warning; ours comes next.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=["HEIF" if kind == "HEIC" else kind.upper()])
        if fault := size_fault(image.height, image.width):
            raise ValueError(fault)
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"holds {image.mode}, numbers of more than 8 bits; frames are 8-bit RGB: convert it to 8 bits"
            )
        orientation = _orientation_in(image)
        pixels = np.array(image.convert("RGB"))
        # TIFF is turned when Pillow loads it, and then says no more that it was to be.
        if orientation != _orientation_in(image):
            pixels = turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))
        return pixels, orientation
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise InputError(
            "HEIC images need the package pillow-heif: pip install 'steadydepth[heif]', or convert them to JPEG"
        ) from error
    register_heif_opener()


def orientation(data: bytes) -> int:
    """EXIF's number of how a PNG or JPEG is turned before it is shown, 1 to 8; 1, not at all, where nothing says it."""
    exif = _exif_of(data)
    if exif is None:
        return 1
    from PIL import Image

    found = Image.Exif()
    try:
        found.load(exif)
    except _UNREADABLE:  # damage there takes nothing from the image
        return 1
    return _valid_orientation(found)


def _orientation_in(image: Any) -> int:
    try:
        return _valid_orientation(image.getexif())
    except _UNREADABLE:
        return 1


def _valid_orientation(exif: Any) -> int:
    try:
        number = int(exif.get(_ORIENTATION, 1))
    except _UNREADABLE:
        return 1
    return number if 1 <= number <= 8 else 1


def _exif_of(data: bytes) -> bytes | None:
    """The EXIF part of a JPEG or PNG, which begins with the order of its bytes."""
    if data.startswith(b"\xff\xd8"):
        at = data.find(b"Exif\0\0", 0, 1 << 17)
        return data[at : at + (1 << 16)] if at >= 4 and data[at - 4 : at - 2] == b"\xff\xe1" else None
    at = 8
    # A part of a PNG: its length, name, body and checksum.
    while data.startswith(b"\x89PNG") and at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if name == b"eXIf":
            return data[at + 8 : at + 8 + length]
        at += length + 12
    return None


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """A stored image (h, w) or (h, w, c) as EXIF's number says that it is shown: mirrored, turned, or both."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(image[rows, columns])
