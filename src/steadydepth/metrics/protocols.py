"""What each benchmark counts: depth range, crop and cleaning as data; and what each metric is measured in."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64

from steadydepth.types import InputError


class Metric(NamedTuple):
    """Unit, which direction is better, and the count that must reach MIN_SAMPLES for a clip to enter the mean."""

    unit: str
    better: Literal["lower", "higher", "nearer 1", "-"]
    counted_by: str | None = None


# A clip with fewer samples of a set says nothing reliable about it; its own value is still given.
MIN_SAMPLES = 100

_ACCURACY = {
    "abs_rel": Metric("fraction", "lower"),
    "sq_rel": Metric("m", "lower"),
    "rmse": Metric("m", "lower"),
    "rmse_log": Metric("ln", "lower"),
    "log10": Metric("log10", "lower"),
    "silog": Metric("100 ln", "lower"),
    "delta1": Metric("fraction", "higher"),
    "delta2": Metric("fraction", "higher"),
    "delta3": Metric("fraction", "higher"),
}
METRICS: dict[str, Metric] = {
    **_ACCURACY,
    **{f"{name}_static": metric._replace(counted_by="n_static") for name, metric in _ACCURACY.items()},
    **{f"{name}_moving": metric._replace(counted_by="n_moving") for name, metric in _ACCURACY.items()},
    "edge_gain": Metric("1", "nearer 1"),
    "boundary_f1": Metric("fraction", "higher"),
    "edges_kept": Metric("1", "nearer 1"),
    "tae": Metric("%", "lower"),
    "tae_static": Metric("%", "lower", "n_static"),
    "opw": Metric("m", "lower"),
    "rtc_1.01": Metric("fraction", "higher"),
    "rtc_1.25": Metric("fraction", "higher"),
    "tcc": Metric("SSIM", "higher"),
    "tsd": Metric("%", "lower", "n_fixed"),
    "tsd_p95": Metric("%", "lower", "n_fixed"),
    "flicker": Metric("%/frame", "lower", "n_fixed"),
    "drift": Metric("%/clip", "lower", "n_fixed"),
    "sre": Metric("%", "lower", "n_rigid"),
    "vel": Metric("%/frame", "lower", "n_tracked"),
    "gain": Metric("1", "nearer 1", "n_tracked"),
    "acc": Metric("%/frame^2", "lower", "n_tracked_twice"),
    "rough": Metric("%/frame^2", "lower", "n_tracked_twice"),
    "ltg_static": Metric("%/frame", "lower", "n_unchanged"),
    "ltg_moving": Metric("%/frame", "lower", "n_changed"),
    "lta_moving": Metric("%/frame^2", "lower", "n_changed_twice"),
    "flicker_flow": Metric("%/frame", "lower", "n_followed"),
    "rough_flow": Metric("%/frame^2", "lower", "n_followed_twice"),
    "log_depth_correlation": Metric("correlation", "higher"),
    "opw_nvds": Metric("1", "lower"),
    "scale": Metric("-", "-"),
    "shift": Metric("-", "-"),
    "negative_scale": Metric("fraction", "-"),
    "n_frames": Metric("frames", "-"),
    "n_skipped": Metric("frames", "-"),
    "n_nonfinite": Metric("pixels", "-"),
    "n_static": Metric("pixels", "-"),
    "n_moving": Metric("pixels", "-"),
}
ACCURACY = tuple(_ACCURACY)
# What blur lowers.
EDGES = ("edge_gain", "boundary_f1", "edges_kept")
# What compares frames with each other, and so can be asked of a part of a clip as well.
TEMPORAL = (
    "tae", "tae_static", "opw", "rtc_1.01", "rtc_1.25", "tcc", "tsd", "tsd_p95", "flicker", "drift", "sre", "vel",
    "gain", "acc", "rough", "ltg_static", "ltg_moving", "lta_moving", "flicker_flow", "rough_flow", "opw_nvds",
)  # fmt: skip


@dataclass(frozen=True)
class Crop:
    """Half-open index ranges; as fractions they are multiplied by the size and truncated, as pixels taken as they are.

    Negative pixels count from the end. `size` is the only image size the pixels are meant for.
    """

    rows: tuple[float, float] | tuple[int, int]
    columns: tuple[float, float] | tuple[int, int]
    unit: Literal["fraction", "pixels"]
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Protocol:
    """A label counts where dmin < g < dmax, both strict, inside the crop; predictions never change what counts."""

    name: str
    dmin: float
    dmax: float
    crop: str | None = None  # a name of CROPS: what of a frame is counted
    cut: str | None = None  # a name of CROPS: frames and labels are cut to it first, and the network sees that alone
    stride: int = 1  # every how-manyth frame there is
    max_frames: int | None = None  # of those; the rest of a clip is left away before anything is fitted
    align: str | None = None  # what `auto` means here, whatever the model claims
    clips_disparity: bool = False  # disparity is raised to 1e-3 before it is fitted, whatever its unit and offset
    pastes_kb: bool = False  # predictions of 352 x 1216 stand in the lower middle of a larger label


CROPS = {
    # Garg et al. 2016 and Eigen et al. 2014 as in monodepth2 and BTS.
    "garg": Crop((0.40810811, 0.99189189), (0.03594771, 0.96405229), "fraction"),
    "eigen_kitti": Crop((0.3324324, 0.91351351), (0.0359477, 0.96405229), "fraction"),
    "eigen_nyu": Crop((45, 471), (41, 601), "pixels", size=(480, 640)),
    # The black border of ScanNet's undistorted colour frames, as in Video-Depth-Anything.
    "scannet": Crop((8, -8), (11, -11), "pixels"),
    "vda_kitti": Crop((0, 374), (0, 1242), "pixels"),
}
# The input crop of BTS for KITTI: the last rows, the middle columns.
KB_SIZE = (352, 1216)

# Ranges: ZoeDepth (KITTI, NYU) and Video-Depth-Anything benchmark/eval/eval.py (Sintel, Bonn, ScanNet).
_PLAIN = (
    Protocol("plain", 1e-3, 80.0),
    Protocol("kitti", 1e-3, 80.0, crop="garg", pastes_kb=True),
    Protocol("kitti_eigen", 1e-3, 80.0, crop="eigen_kitti", pastes_kb=True),
    Protocol("nyu", 1e-3, 10.0, crop="eigen_nyu"),
    Protocol("sintel", 1e-3, 70.0),
    Protocol("bonn", 1e-3, 10.0),
    Protocol("scannet", 1e-3, 10.0, crop="scannet"),
)
# Video-Depth-Anything benchmark/eval/eval.py, short videos: one fit of inverse depth over the first frames of a clip.
_VDA = (
    Protocol("vda_kitti", 1e-3, 80.0, cut="vda_kitti", max_frames=110),
    Protocol("vda_sintel", 1e-3, 70.0, max_frames=100),
    Protocol("vda_bonn", 1e-3, 10.0, max_frames=110),
    Protocol("vda_scannet", 1e-3, 10.0, cut="scannet", stride=3, max_frames=90),
    Protocol("vda_nyu", 1e-3, 10.0, cut="eigen_nyu", max_frames=500),
)
PROTOCOLS = {
    one.name: one for one in (*_PLAIN, *(replace(one, align="disparity", clips_disparity=True) for one in _VDA))
}


def choose_protocol(name: str, *, max_depth: float | None = None) -> Protocol:
    """The protocol of that name.

    Args:
        name: a key of PROTOCOLS.
        max_depth: metres, in place of the protocol's own.

    Raises:
        InputError: the name is unknown, or the range would be empty.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol {name!r}: unknown; choose one of {', '.join(PROTOCOLS)}")
    chosen = PROTOCOLS[name]
    if max_depth is None:
        return chosen
    if not chosen.dmin < max_depth < float("inf"):
        raise InputError(
            f"max_depth {max_depth}: must be finite and more than {chosen.dmin} m: give metres, such as 80"
        )
    return replace(chosen, dmax=float(max_depth))


def crop_slices(crop: str | None, height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a crop.

    Args:
        crop: a key of CROPS, or None for all.
        height: rows of the image.
        width: columns of the image.

    Raises:
        InputError: the crop is made for another size, or leaves nothing of this one.
    """
    if crop is None:
        return slice(0, height), slice(0, width)
    ranges = CROPS[crop]
    if ranges.size is not None and ranges.size != (height, width):
        raise InputError(
            f"crop {crop} is for {ranges.size[0]} x {ranges.size[1]}, not {height} x {width}: "
            "resize nothing, use the protocol `plain`, or labels of that size"
        )
    factor = (height, width) if ranges.unit == "fraction" else (1, 1)
    pairs = zip((ranges.rows, ranges.columns), factor, (height, width), strict=True)
    rows, columns = (slice(*slice(int(a * f), int(b * f)).indices(size)[:2]) for (a, b), f, size in pairs)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise InputError(f"crop {crop} leaves nothing of {height} x {width}: use the protocol `plain`")
    return rows, columns


def crop_mask(crop: str | None, height: int, width: int) -> Bool[np.ndarray, "h w"]:
    """True inside the crop of that name.

    Args:
        crop: a key of CROPS, or None for all.
        height: rows of the image.
        width: columns of the image.

    Raises:
        InputError: as for `crop_slices`.
    """
    mask = np.zeros((height, width), bool)
    mask[crop_slices(crop, height, width)] = True
    return mask


def kb_part(protocol: Protocol, size: tuple[int, int], height: int, width: int) -> tuple[slice, slice] | None:
    """Rows and columns of an image that a prediction for BTS's crop of KITTI is of; None for any other prediction.

    Args:
        protocol: says whether such predictions are known by their size.
        size: height and width of the prediction.
        height: rows of the image.
        width: columns of the image.
    """
    if not protocol.pastes_kb or size != KB_SIZE or height < KB_SIZE[0] or width < KB_SIZE[1]:
        return None
    left = int((width - KB_SIZE[1]) / 2)
    return slice(height - KB_SIZE[0], height), slice(left, left + KB_SIZE[1])


def valid_labels(
    depth: Float[np.ndarray, "*t h w"], valid: Bool[np.ndarray, "*t h w"], protocol: Protocol
) -> Bool[np.ndarray, "*t h w"]:
    """Where the label counts: measured, finite, dmin < g < dmax (strict), inside the crop.

    Args:
        depth: of the label, metres.
        valid: where it was measured.
        protocol: range and crop.
    """
    in_range = np.isfinite(depth) & (depth > protocol.dmin) & (depth < protocol.dmax)
    return valid & in_range & crop_mask(protocol.crop, *depth.shape[-2:])


def clean(depth: Float[np.ndarray, "*any"], protocol: Protocol) -> Float64[np.ndarray, "*any"]:
    """Predicted depth as it is scored: clipped to [dmin, dmax], NaN to dmin: a hole is very wrong (BTS, ZoeDepth)."""
    return np.nan_to_num(np.clip(depth.astype(np.float64), protocol.dmin, protocol.dmax), nan=protocol.dmin)
