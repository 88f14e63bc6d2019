"""Depth and its errors to colours, one range for each video, or the colours themselves would flicker.

Depth: near is warm, far is cold. Errors: black is right, pale yellow is very wrong.
"""

from collections.abc import Iterable

import cv2
import numpy as np
from jaxtyping import Bool, Float, UInt8

from steadydepth.types import Claims

# The first and last 2 % of a video's pixels are left to the ends of the colours: one speck does not set the range.
_LOW, _HIGH = 2.0, 98.0
_SAMPLES = 1 << 20
# Live: a second or two until the colours have followed, at 25 frames a second, from every fourth row and column.
_FOLLOW, _STRIDE = 0.02, 4


def is_measured(depth: Float[np.ndarray, "*t h w"], claims: Claims = "metric") -> Bool[np.ndarray, "*t h w"]:
    """True where a prediction has a value: finite, and above 0 where it claims to be a depth of known zero."""
    return np.isfinite(depth) & (depth > 0) if claims in ("metric", "scale") else np.isfinite(depth)


def depth_range(
    depths: Iterable[Float[np.ndarray, "*t h w"]],
    valids: Iterable[Bool[np.ndarray, "*t h w"]] | None = None,
    *,
    claims: Claims = "metric",
) -> tuple[float, float]:
    """The values to show as near and as far in a video: its 2nd and 98th percentile, the other way for disparity.

    Frames are taken one by one and at most about a million values are kept, evenly spread. Invalid values do not count;
    (1, 2), or (2, 1) for disparity, if nothing is valid. The two are never equal.
    """
    kept, n_kept, n_visible, step = [np.zeros(0, np.float32)], 0, 0, 1
    masks = iter(valids) if valids is not None else None
    for depth in depths:
        valid = is_measured(depth, claims)
        values = depth[valid & next(masks) if masks is not None else valid].astype(np.float32)
        kept.append(values[-n_visible % step :: step].copy())  # a view would keep the complete frame
        n_visible += len(values)
        n_kept += len(kept[-1])
        while n_kept > _SAMPLES:
            kept, step = [np.concatenate(kept)[::2]], 2 * step
            n_kept = len(kept[0])
    values = np.concatenate(kept)
    low, high = np.percentile(values, [_LOW, _HIGH]).tolist() if len(values) else (1.0, 2.0)
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        low, high = low - 0.01 * abs(low) - 1e-6, high + 0.01 * abs(high) + 1e-6
    return (high, low) if claims == "disparity" else (low, high)


def follow_range(
    before: tuple[float, float] | None, depth: Float[np.ndarray, "h w"], *, claims: Claims = "metric"
) -> tuple[float, float]:
    """The values to show as near and far in a frame of live video, whose end is not known: `depth_range`'s, slowly.

    Each frame moves the range of the frame before by a fiftieth towards its own; one without values leaves it.
    """
    sparse = depth[::_STRIDE, ::_STRIDE]
    if before is not None and not is_measured(sparse, claims).any():
        return before
    near, far = depth_range([sparse], claims=claims)
    if before is None:
        return near, far
    return before[0] + _FOLLOW * (near - before[0]), before[1] + _FOLLOW * (far - before[1])


def colour_depth(
    depth: Float[np.ndarray, "*t h w"],
    near: float,
    far: float,
    valid: Bool[np.ndarray, "*t h w"] | None = None,
    *,
    claims: Claims = "metric",
) -> UInt8[np.ndarray, "*t h w 3"]:
    """RGB of the turbo colours, red at `near` to dark blue at `far` and beyond; pixels without a value are black.

    The colours are linear in inverse depth for metric depth and depth up to a factor, and in the value itself for
    disparity (`near` is the larger) and affine depth. ValueError when `near` and `far` are the same or out of order.
    """
    is_depth = claims in ("metric", "scale")
    if not (0 < near < far if is_depth else near < far if claims == "affine" else far < near):
        raise ValueError(f"near {near:g} and far {far:g} are no range of {claims} values: take those of depth_range")
    shown = is_measured(depth, claims) if valid is None else is_measured(depth, claims) & valid
    safe = np.where(shown, depth, near).astype(np.float32)
    if is_depth:
        safe, near, far = np.reciprocal(safe), 1 / near, 1 / far
    codes = np.rint(np.clip((safe - far) * (255 / (near - far)), 0, 255)).astype(np.uint8)
    # A third of the time of _TURBO[codes], for every pixel of every video.
    colours = cv2.applyColorMap(codes.reshape(1, -1), _TURBO[:, None]).reshape(*depth.shape, 3)
    colours[~shown] = 0
    return colours


def error_top(errors: Iterable[Float[np.ndarray, "*t h w"]], valids: Iterable[Bool[np.ndarray, "*t h w"]]) -> float:
    """The error to show as the worst: the 98th percentile of all valid ones together, and never 0."""
    values = [error[valid] for error, valid in zip(errors, valids, strict=True)]
    known = np.concatenate(values) if values else np.zeros(0)
    return max(float(np.percentile(known, _HIGH)), 1e-6) if len(known) else 1.0


def colour_error(
    error: Float[np.ndarray, "*t h w"], top: float, valid: Bool[np.ndarray, "*t h w"]
) -> UInt8[np.ndarray, "*t h w 3"]:
    """RGB of the magma colours, black at 0 to pale yellow at `top` and beyond; mid grey where not `valid`."""
    share = np.clip(np.where(valid, error, 0) / top, 0, 1)
    return np.where(valid[..., None], _MAGMA[np.rint(255 * share).astype(np.uint8)], np.uint8(128))


def colour_change(
    change: Float[np.ndarray, "*t h w"], top: float, valid: Bool[np.ndarray, "*t h w"]
) -> UInt8[np.ndarray, "*t h w 3"]:
    """RGB from blue at -`top` and below over black at 0 to orange at `top` and above; mid grey where not `valid`."""
    share = np.clip(np.where(valid, change, 0) / top, -1, 1)[..., None]
    colours = np.rint(np.where(share < 0, -share * _LESS, share * _MORE)).astype(np.uint8)
    return np.where(valid[..., None], colours, np.uint8(128))


def _colour_map(name: int) -> UInt8[np.ndarray, "256 3"]:
    return cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], name)[:, 0, ::-1].copy()


# Told apart by those who do not tell red from green.
_LESS, _MORE = np.array([80, 160, 255]), np.array([255, 140, 30])
_TURBO, _MAGMA = _colour_map(cv2.COLORMAP_TURBO), _colour_map(cv2.COLORMAP_MAGMA)
