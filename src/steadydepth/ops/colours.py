"""Depth and its errors to colours, one range for each video, or the colours themselves would flicker.

Depth: near is warm, far is cold. Errors: black is right, pale yellow is very wrong.
"""

from collections.abc import Iterable
from functools import lru_cache

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from steadydepth.errors import InputError, import_extra
from steadydepth.video_types import Claims

# The first and last 2 % of a video's pixels are left to the ends of the colours: one speck does not set the range.
PERCENTILES = (2.0, 98.0)
# Around the median, in mean distances from it: of normal noise this is two standard deviations.
_SPREADS = 2.5
_SAMPLES = 1 << 20
# Live: a second or two until the colours have followed, at 25 frames a second, from every fourth row and column.
_FOLLOW, _STRIDE = 0.02, 4
Depth = Float[np.ndarray, "*t h w"]  # in the units of the claims
Mask = Bool[np.ndarray, "*t h w"]
Colours = UInt8[np.ndarray, "*t h w 3"]  # RGB


def is_measured(depth: Depth, claims: Claims = "metric") -> Mask:
    """True where a prediction has a value: finite, and above 0 where it claims to be a depth of known zero."""
    return np.isfinite(depth) & (depth > 0) if claims in ("metric", "scale") else np.isfinite(depth)


def depth_range(
    depths: Iterable[Depth],
    *,
    claims: Claims = "metric",
    percentiles: tuple[float, float] | None = PERCENTILES,
    is_linear: bool = False,
) -> tuple[float, float]:
    """The values to show as near and as far in a video.

    Frames are taken one by one and at most about a million values are kept, evenly spread. Invalid values do not count.

    Args:
        depths: in the units of `claims`.
        claims: what the numbers mean.
        percentiles: of all values together, the low and the high one to show; None is the median and 2.5 times the mean
            distance from it to both sides, on the scale of the colours, within the values that there are.
        is_linear: whether that scale is the depth itself, where it is inverse depth otherwise.

    Returns: near and far, which are never equal; (1, 2), or (2, 1) for disparity, if nothing is valid.
    """
    values = _spread_out(depths, claims)
    low, high = (1.0, 2.0) if not len(values) else _ends(values, percentiles, _is_inverse(claims, is_linear))
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        slack = 0.01 * max(abs(low), abs(high)) or 1e-6
        low, high = low - slack, high + slack
    return (high, low) if claims == "disparity" else (low, high)


def _spread_out(depths: Iterable[Depth], claims: Claims) -> Float32[np.ndarray, "n"]:
    """About a million of the measured values of a video, evenly spread over it."""
    kept, n_kept, n_visible, step = [np.zeros(0, np.float32)], 0, 0, 1
    for depth in depths:
        values = depth[is_measured(depth, claims)].astype(np.float32)
        kept.append(values[-n_visible % step :: step].copy())  # a view would keep the complete frame
        n_visible += len(values)
        n_kept += len(kept[-1])
        while n_kept > _SAMPLES:
            kept, step = [np.concatenate(kept)[::2]], 2 * step
            n_kept = len(kept[0])
    return np.concatenate(kept)


def _ends(
    values: Float32[np.ndarray, "n"], percentiles: tuple[float, float] | None, is_inverse: bool
) -> tuple[float, float]:
    if percentiles is not None:
        low, high = np.percentile(values, percentiles).tolist()
        return low, high
    shown = np.reciprocal(values.astype(np.float64)) if is_inverse else values.astype(np.float64)
    middle = np.median(shown)
    spread = _SPREADS * np.abs(shown - middle).mean()
    ends = np.clip([middle - spread, middle + spread], shown.min(), shown.max())
    low, high = sorted((1 / ends if is_inverse else ends).tolist())
    return low, high


def _is_inverse(claims: Claims, is_linear: bool) -> bool:
    """Whether what is shown is one over the value."""
    return claims in ("metric", "scale") and not is_linear


def follow_range(
    before: tuple[float, float] | None, depth: Float[np.ndarray, "h w"], *, claims: Claims = "metric"
) -> tuple[float, float]:
    """The values to show as near and far in a frame of live video, whose end is not known: `depth_range`'s, slowly.

    Each frame moves the range of the frame before by a fiftieth towards its own; one without values leaves it.

    Args:
        before: near and far of the frame before; None at the beginning and at a cut.
        depth: in the units of `claims`.
        claims: what the numbers mean.

    Returns: near and far.
    """
    sparse = depth[::_STRIDE, ::_STRIDE]
    if before is not None and not is_measured(sparse, claims).any():
        return before
    near, far = depth_range([sparse], claims=claims)
    if before is None:
        return near, far
    return before[0] + _FOLLOW * (near - before[0]), before[1] + _FOLLOW * (far - before[1])


def nearness(
    depth: Depth, near: float, far: float, *, claims: Claims = "metric", is_linear: bool = False
) -> Float32[np.ndarray, "*t h w"]:
    """1 at `near` and nearer, 0 at `far` and beyond, NaN where there is no value.

    Args:
        depth: in the units of `claims`.
        near: what is shown as nearest, in the same units; of disparity the larger of the two.
        far: what is shown as farthest.
        claims: what the numbers mean.
        is_linear: the scale is the depth itself; otherwise it is inverse depth. Disparity and affine depth are shown as
            they are in any case.

    Raises:
        ValueError: `near` and `far` are the same or out of order.
    """
    is_depth = claims in ("metric", "scale")
    if not (0 < near < far if is_depth else near < far if claims == "affine" else far < near):
        raise ValueError(f"near {near:g} and far {far:g} are no range of {claims} values: take those of depth_range")
    measured = is_measured(depth, claims)
    safe = np.where(measured, depth, near).astype(np.float32)
    if _is_inverse(claims, is_linear):
        safe, near, far = np.reciprocal(safe), 1 / near, 1 / far
    share = np.clip((safe - np.float32(far)) * np.float32(1 / (near - far)), 0, 1)
    share[~measured] = np.nan
    return share


def colour_depth(
    depth: Depth,
    near: float,
    far: float,
    valid: Mask | None = None,
    *,
    claims: Claims = "metric",
    colours: str = "turbo",
    is_linear: bool = False,
) -> Colours:
    """Depth in the colours of a map; pixels without a value are black.

    Args:
        depth: in the units of `claims`.
        near: what is shown as nearest, in the same units.
        far: what is shown as farthest.
        valid: where depth is shown; None is wherever it is measured.
        claims: what the numbers mean.
        colours: a name that `colour_map` takes.
        is_linear: as of `nearness`.

    Returns: RGB.
    """
    share = nearness(depth, near, far, claims=claims, is_linear=is_linear)
    shown = np.isfinite(share) if valid is None else np.isfinite(share) & valid
    codes = np.rint(255 * np.where(shown, share, 0)).astype(np.uint8)
    # A third of the time of colour_map(colours)[codes], for every pixel of every video.
    painted = cv2.applyColorMap(codes.reshape(1, -1), colour_map(colours)[:, None]).reshape(*depth.shape, 3)
    painted[~shown] = 0
    return painted


@lru_cache
def colour_map(name: str) -> UInt8[np.ndarray, "256 3"]:
    """RGB of a colour map from far to near.

    Args:
        name: "grey" (near is white), or a name of matplotlib, as "turbo" or "Spectral_r"; those that OpenCV has as well
            need no matplotlib.

    Raises:
        InputError: there is no such map, or matplotlib, which has it, is not installed.
    """
    steps = np.arange(256, dtype=np.uint8)
    if name in ("grey", "gray"):
        return np.repeat(steps[:, None], 3, axis=1)
    if name in _OF_OPENCV:
        return cv2.applyColorMap(steps[:, None], getattr(cv2, f"COLORMAP_{name.upper()}"))[:, 0, ::-1].copy()
    others = ", ".join(_OF_OPENCV)
    way_out = f", or take grey, {others}"
    maps = import_extra("matplotlib", "colours", f"colours {name!r}: needs matplotlib", way_out).colormaps
    if name not in maps:
        raise InputError(f"colours {name!r}: unknown; choose grey or a colour map of matplotlib: {others}, Spectral_r")
    return np.rint(255 * np.asarray(maps[name](steps))[:, :3]).astype(np.uint8)


def error_top(errors: Iterable[Depth], valids: Iterable[Mask]) -> float:
    """The error to show as the worst: the 98th percentile of all valid ones together, and never 0."""
    values = [error[valid] for error, valid in zip(errors, valids, strict=True)]
    known = np.concatenate(values) if values else np.zeros(0)
    return max(float(np.percentile(known, PERCENTILES[1])), 1e-6) if len(known) else 1.0


def colour_error(error: Depth, top: float, valid: Mask) -> Colours:
    """RGB of the magma colours, black at 0 to pale yellow at `top` and beyond; mid grey where not `valid`.

    Args:
        error: 0 or more, in any unit.
        top: what is shown brightest, in the same unit.
        valid: where there is an error.
    """
    share = np.clip(np.where(valid, error, 0) / top, 0, 1)
    return np.where(valid[..., None], _MAGMA[np.rint(255 * share).astype(np.uint8)], np.uint8(128))


def colour_change(change: Depth, top: float, valid: Mask) -> Colours:
    """RGB from blue at -`top` and below over black at 0 to orange at `top` and above; mid grey where not `valid`.

    Args:
        change: of either sign, in any unit.
        top: what is shown brightest, in the same unit.
        valid: where there is a change.
    """
    share = np.clip(np.where(valid, change, 0) / top, -1, 1)[..., None]
    colours = np.rint(np.where(share < 0, -share * _LESS, share * _MORE)).astype(np.uint8)
    return np.where(valid[..., None], colours, np.uint8(128))


# Those that are the same in both; OpenCV's jet, hot and their like are others than matplotlib's of the same names.
_OF_OPENCV = ("turbo", "viridis", "magma", "inferno", "plasma", "cividis")
# Distinct for those who do not tell red from green.
_LESS, _MORE = np.array([80, 160, 255]), np.array([255, 140, 30])
_MAGMA = colour_map("magma")
