"""Predictions on disk: one npz a sequence, or a folder of 16-bit or OpenEXR images; written complete or not at all."""

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from jaxtyping import Float, Float32, UInt16

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import check_name, new_file, new_folder
from steadydepth.files.damage import UNREADABLE, short
from steadydepth.files.exr import write_exr
from steadydepth.files.images import write_png
from steadydepth.files.listing import visible
from steadydepth.files.prefetch import for_each_in_threads
from steadydepth.video_types import Claims, DepthFrames

NO_FILTER: Mapping[str, Any] = {"filter": "none"}


def write_predictions(folder: Path, name: str, depth: Float[np.ndarray, "t h w"], claims: Claims) -> Path:
    """Write FOLDER/<name>.npz with `depth` as float32 and the text `claims`.

    Args:
        folder: made where it is missing.
        name: of the sequence; an older file of that name is replaced.
        depth: in the units of `claims`, NaN or infinite where there is none.
        claims: what the numbers mean.

    Returns: the path of the file.
    """
    return write_prediction_frames(folder, name, open_array(depth, claims))


def open_array(depth: Float[np.ndarray, "t h w"], claims: Claims) -> DepthFrames:
    """Depth that is in memory already."""
    n_frames, height, width = depth.shape
    return DepthFrames(claims, n_frames, height, width, lambda: (frame.astype(np.float32) for frame in depth))


def write_prediction_frames(
    folder: Path, name: str, depths: DepthFrames, *, noted: Mapping[str, Any] = NO_FILTER
) -> Path:
    """`write_predictions` of a video of any length; one frame is held at a time.

    Args:
        folder: made where it is missing.
        name: of the sequence; an older file of that name is replaced.
        depths: what was predicted.
        noted: what made it, texts and numbers by name.

    Returns: the path of the file.
    """
    target = folder / f"{check_name(name, folder)}.npz"
    claims = np.array(known_claims(depths.claims, target))
    shape = (depths.n_frames, depths.height, depths.width)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    with new_file(target) as part, zipfile.ZipFile(part, "w") as archive:
        with archive.open("depth.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            for depth in depths.read():
                member.write(depth.astype("<f4", copy=False).tobytes())
        for key, value in {"claims": claims, **noted}.items():
            with archive.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, np.array(value))
    return target


def read_noted(path: Path) -> dict[str, Any]:
    """What is noted in a prediction beside its depth: its claims, and what made it.

    Args:
        path: an npz, the folder of images, or an mkv with its json.

    Returns: texts and numbers by name; nothing where none are noted, or where the file cannot be read.
    """
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {key: arrays[key].item() for key in arrays if key != "depth"}
        notes = path / "meta.json" if path.is_dir() else path.with_suffix(".json")
        found = json.loads(notes.read_text(encoding="utf-8"))
    except UNREADABLE:
        return {}
    return found if isinstance(found, dict) else {}


def image_scale(smallest: float, largest: float, claims: Claims) -> tuple[float, float]:
    """Step and offset of 16-bit images: a millimetre for metres while it fits.

    Otherwise the largest value gets the largest code; step 1 when it is not above 0. Of claims with an offset of their
    own, whose 0 is a value as any other, the smallest gets the code 1: the code 0 is no value.

    Args:
        smallest: of all values that are to be written.
        largest: of the same.
        claims: what the numbers mean.
    """
    if claims in ("affine", "disparity") or smallest < 0:
        step = max(largest - smallest, 1e-6 * abs(largest), 1e-30) / 65534
        return step, smallest - step
    if not largest > 0:
        return 1.0, 0.0
    return (0.001 if claims == "metric" and largest <= 65.535 else largest / 65535), 0.0


def write_prediction_images(
    folder: Path,
    name: str,
    depths: Iterable[Float[np.ndarray, "h w"]],
    claims: Claims,
    *,
    depth_scale_m: float,
    depth_offset: float = 0.0,
    fps: float,
    noted: Mapping[str, Any] = NO_FILTER,
    names: Sequence[str] | None = None,
) -> Path:
    """Write FOLDER/<name>/depth/%04d.png, 16 bits, and meta.json with the scale.

    A value is code * depth_scale_m + depth_offset, rounded to the nearest step, but never one above the offset to 0,
    which stands for no value. A few frames are held at a time.

    Args:
        folder: made where it is missing.
        name: of the sequence.
        depths: in the units of `claims`, frame by frame.
        claims: what the numbers mean.
        depth_scale_m: one step; metres where the claims are metric.
        depth_offset: for affine depth and disparity; noted in meta.json where it is not 0.
        fps: noted in meta.json.
        noted: what made it, texts and numbers by name.
        names: of the files, in place of numbers; read_predictions wants numbers.

    Returns: FOLDER/<name>.

    Raises:
        InputError: a value is below the offset or above 65535 steps, or the folder exists.
    """
    target = folder / check_name(name, folder)

    def write(path: Path, depth: np.ndarray) -> None:
        write_png(path, image_codes(depth - depth_offset, depth_scale_m, f"{target}, frame {path.stem}"))

    meta: dict[str, Any] = {"fps": fps, "depth_scale_m": depth_scale_m, "claims": known_claims(claims, target)}
    meta |= {**noted} | ({"depth_offset": depth_offset} if depth_offset else {})
    return _write_frames(target, ".png", depths, write, meta, names)


def write_prediction_exr(
    folder: Path,
    name: str,
    depths: Iterable[Float[np.ndarray, "h w"]],
    claims: Claims,
    *,
    fps: float,
    noted: Mapping[str, Any] = NO_FILTER,
    is_half: bool = False,
    names: Sequence[str] | None = None,
) -> Path:
    """Write FOLDER/<name>/depth/%04d.exr and meta.json; a few frames are held at a time.

    Args:
        folder: made where it is missing.
        name: of the sequence.
        depths: in the units of `claims`, frame by frame.
        claims: what the numbers mean.
        fps: noted in meta.json.
        noted: what made it, texts and numbers by name.
        is_half: floats of 16 bits in place of 32.
        names: of the files, in place of numbers; read_predictions wants numbers.

    Returns: FOLDER/<name>.

    Raises:
        InputError: the folder exists or the package OpenEXR is missing.
    """
    target = folder / check_name(name, folder)
    meta = {"fps": fps, "claims": known_claims(claims, target), **noted}
    return _write_frames(target, ".exr", depths, partial(write_exr, is_half=is_half), meta, names)


def _write_frames(
    target: Path,
    suffix: str,
    depths: Iterable[np.ndarray],
    write: Callable[[Path, np.ndarray], None],
    meta: dict[str, Any],
    names: Sequence[str] | None,
) -> Path:
    stems = iter(names) if names is not None else (f"{number:04d}" for number in count())
    with new_folder(target) as part:
        (part / "depth").mkdir()
        named = ((part / "depth" / f"{next(stems)}{suffix}", depth) for depth in depths)
        for_each_in_threads(lambda pair: write(*pair), named)
        (part / "meta.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
    return target


def image_codes(depth: Float[np.ndarray, "h w"], scale: float, name: str) -> UInt16[np.ndarray, "h w"]:
    """Values as multiples of `scale`, rounded, one above 0 never to 0, which stands for no value.

    Args:
        depth: 0 or more; not finite where there is none.
        scale: one step, in the same unit.
        name: of the frame, for the error.

    Raises:
        InputError: a value does not fit 16 bits.
    """
    codes = np.rint(np.where(np.isfinite(depth), depth, 0).astype(np.float64) / scale)
    if codes.min() < 0 or codes.max() > 65535:
        low, high = codes.min() * scale, codes.max() * scale
        raise InputError(f"{name}: {low:g} to {high:g} does not fit 16 bits at {scale:g} a step: write npz instead")
    return np.where(np.isfinite(depth) & (depth > 0), np.maximum(codes, 1), codes).astype(np.uint16)


def find_predictions(folder: Path) -> list[str]:
    """Names of the sequences that `folder` holds predictions of, sorted.

    Raises:
        InputError: the folder is missing or has none.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; predictions are a folder with one npz a sequence: check the path "
            "(from Python a model is what load returns)"
        )
    names = {path.stem for path in visible(folder) if path.suffix == ".npz"}
    names |= {path.name for path in visible(folder) if (path / "depth").is_dir()}
    if not names:
        raise InputError(f"{folder} holds no predictions; they are <sequence>.npz or <sequence>/depth/0000.png (.exr)")
    return sorted(names)


def code_reader(meta: dict[str, Any], *, is_exr: bool) -> Callable[[np.ndarray], Float32[np.ndarray, "h w"]]:
    """What turns an image of a prediction folder into values by its meta.json.

    The floats of OpenEXR are the values themselves. The code 0 of images is no value, NaN.

    Raises:
        KeyError: the scale is missing.
        ValueError: the scale or the offset is none.
    """
    if is_exr:
        return lambda values: values.astype(np.float32, copy=False)
    scale, offset = float(meta["depth_scale_m"]), float(meta.get("depth_offset", 0.0))
    if not (0 < scale < np.inf and np.isfinite(offset)):
        raise ValueError(f"a step of {scale:g} from {offset:g}; a step is above 0, and both are finite")
    return lambda codes: np.where(codes > 0, codes * np.float64(scale) + offset, np.nan).astype(np.float32)


def encode_range(
    depth: Float[np.ndarray, "h w"], low: float, high: float, *, is_log: bool
) -> UInt16[np.ndarray, "h w"]:
    """Codes 1 to 65535 in equal steps or equal factors; 0 where no value is in the range.

    Args:
        depth: in any unit.
        low: the value of the code 1; above 0 for equal factors.
        high: the value of the code 65535.
        is_log: equal factors, otherwise equal steps.
    """
    inside = (depth >= low) & (depth <= high)
    # In place, and in the type of the depth: of large temporaries the memory costs six times what the sums do.
    codes = np.where(inside, depth, depth.dtype.type(low))
    if is_log:
        codes /= low  # before the logarithm, which then has as many digits as the depth
        np.log(codes, out=codes)
        codes *= 65534 / np.log(high / low)
    else:
        codes -= low
        codes *= 65534 / (high - low)
    np.rint(codes, out=codes)
    codes += 1
    codes *= inside
    return codes.astype(np.uint16)


def known_claims(claims: Any, where: Path) -> Claims:
    """The claims that are written at `where`.

    Raises:
        InputError: it is none of the words.
    """
    if not isinstance(claims, str) or claims not in get_args(Claims):
        raise InputError(f"{where}: claims {short(repr(claims))}; it is one of {', '.join(get_args(Claims))}")
    return cast(Claims, claims)
