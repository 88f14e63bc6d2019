"""Images that are neither PNG, JPEG nor OpenEXR, read strictly by Pillow; and which way up any of them is."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

from steadydepth.errors import import_extra
from steadydepth.files.damage import UNREADABLE

# What files of these kinds begin with; those of WebP, AVIF and HEIC say it further on.
_STARTS = {b"BM": "BMP", **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"), b"v/1\x01": "OpenEXR"}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# A header of a few bytes can promise more than there is memory for: 16384 x 8192 is asked before anything is decoded.
MOST_PIXELS = 2**27
# Tags of TIFF and EXIF.
_KIND_OF_PAGE, _BITS, _ORIENTATION = 254, 258, 274
LOG = logging.getLogger(__name__)


def kind_of(data: bytes) -> str | None:
    """WebP, BMP, TIFF, AVIF, HEIC or OpenEXR by the first bytes of a file; None for any other."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        brands = data[8:12] + data[16:64]
        if b"avif" in brands or b"avis" in brands:
            return "AVIF"
        if any(brand in brands for brand in _HEIF_BRANDS):
            return "HEIC"
    return next((kind for start, kind in _STARTS.items() if data.startswith(start)), None)


def size_fault(height: int, width: int) -> str | None:
    """What is wrong with an image that claims to be so large, None when nothing is."""
    if min(height, width) > 0 and height * width <= MOST_PIXELS:
        return None
    return f"says that it is {width} x {height} pixels, of which there are 1 to {MOST_PIXELS}"


def decode(data: bytes, kind: str, *, name: str) -> tuple[UInt8[np.ndarray, "h w 3"], int]:
    """RGB of the bytes of an image as it is stored, and EXIF's orientation.

    That of AVIF may be a property of the file and not EXIF's; HEIC is turned by its decoder. Of several images in one
    file it is the first, which is said.

    Args:
        data: of a file.
        kind: what `kind_of` calls it, but OpenEXR.
        name: of the file, for what is said.

    Raises:
        ValueError: saying what is wrong with it.
        InputError: the kind needs a package which is not there.
    """
    from PIL import UnidentifiedImageError

    if kind == "HEIC":
        why, otherwise = "HEIC images need the package pillow-heif", ", or convert them to JPEG"
        import_extra("pillow_heif", "heif", why, otherwise).register_heif_opener()
    try:
        image = open_image(data, "HEIF" if kind == "HEIC" else kind.upper())
        bits = max(getattr(image, "tag_v2", {}).get(_BITS) or (8,))
        if image.mode.startswith(("I", "F")) or bits > 8:
            raise ValueError(
                f"holds {image.mode}, numbers of more than 8 bits; frames are 8-bit RGB: convert it to 8 bits"
            )
        orientation = _orientation_by(image.getexif)
        pixels = np.array(image.convert("RGB"))
        # TIFF is turned when Pillow loads it, and then says no more that it was to be.
        if orientation != _orientation_by(image.getexif):
            pixels = turn(pixels, {6: 8, 8: 6}.get(orientation, orientation))
        if (number := _images_in(image)) > 1:
            say_first_of(name, number)
        return pixels, orientation
    except UnidentifiedImageError as error:
        raise ValueError("damaged, or with numbers of more than 8 bits; frames are 8-bit RGB") from error
    except UNREADABLE as error:
        raise ValueError(str(error) or type(error).__name__) from error


def open_image(data: bytes, kind: str) -> Any:
    """The image of Pillow in the bytes of a file, its pixels not yet decoded.

    Args:
        data: of a file.
        kind: a format of Pillow.

    Raises:
        ValueError: it claims more pixels than there is memory for; and what Pillow raises for damage.
    """
    from PIL import Image

    # Its own limits on pixels are a warning and an error of no common kind; ours comes next.
    with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
        try:
            image = Image.open(io.BytesIO(data), formats=[kind])
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
    if fault := size_fault(image.height, image.width):
        raise ValueError(fault)
    return image


def _images_in(image: Any) -> int:
    """How many images a file holds, those apart that are small copies of the first."""
    try:
        number = int(getattr(image, "n_frames", 1))
        if number > 1 and hasattr(image, "tag_v2"):
            image.seek(1)
            number = 1 if image.tag_v2.get(_KIND_OF_PAGE, 0) & 1 else number
    except UNREADABLE:  # damage behind the first takes nothing from it
        return 1
    return number


def animation_of(data: bytes) -> int:
    """How many images the bytes of a PNG hold: more than one in an animation."""
    control = data.find(b"acTL", 0, max(data.find(b"IDAT"), 0))
    return int.from_bytes(data[control + 4 : control + 8], "big") if control > 0 else 1


@lru_cache(maxsize=1024)
def say_first_of(name: str, number: int) -> None:
    """Say, once, that a file holds several images and the first is taken."""
    LOG.warning("%s: holds %d images, of which the first is taken: make a video of an animation", name, number)


def orientation(data: bytes) -> int:
    """EXIF's number of how a PNG or JPEG is turned before it is shown, 1 to 8; 1, not at all, where nothing says it."""
    exif = _exif_of(data)
    if exif is None:
        return 1
    from PIL import Image

    def read() -> Any:
        found = Image.Exif()
        found.load(exif)
        return found

    return _orientation_by(read)


def _orientation_by(read_exif: Callable[[], Any]) -> int:
    try:
        number = int(read_exif().get(_ORIENTATION, 1))
    except UNREADABLE:  # damage there takes nothing from the image
        return 1
    return number if 1 <= number <= 8 else 1


def _exif_of(data: bytes) -> bytes | None:
    """The EXIF part of a JPEG or PNG, which begins with the order of its bytes."""
    if data.startswith(b"\x89PNG"):
        return next((data[start:stop] for name, start, stop in png_parts(data) if name == b"eXIf"), None)
    parts = jpeg_parts(data) if data.startswith(b"\xff\xd8") else iter(())
    is_exif = ((start, stop) for marker, start, stop in parts if marker == 0xE1 and data.startswith(b"Exif\0\0", start))
    return next((data[start + 6 : stop] for start, stop in is_exif), None)


def png_parts(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The complete parts of a PNG: their names, and where their bodies begin and end, with the checksum behind."""
    at = 8
    while at + 12 <= len(data) and (stop := at + 8 + int.from_bytes(data[at : at + 4], "big")) + 4 <= len(data):
        yield data[at + 4 : at + 8], at + 8, stop
        at = stop + 4


def jpeg_parts(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The parts of a JPEG up to its first scan: their markers, and where their bodies begin and end.

    One may hold a thumbnail with an end marker of its own, so they are stepped over by their lengths.
    """
    at, marker = 2, 0
    while at + 4 <= len(data) and data[at] == 0xFF and marker != 0xDA:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        stop = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield marker, at + 4, stop
        at = stop


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """A stored image (h, w) or (h, w, c) as EXIF's number says that it is shown: mirrored, turned, or both."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    rows = slice(None, None, -1) if orientation in (3, 4, 7, 8) else slice(None)
    columns = slice(None, None, -1) if orientation in (2, 3, 6, 7) else slice(None)
    return np.ascontiguousarray(image[rows, columns])
