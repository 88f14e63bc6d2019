"""Causal filters of a depth video: what can be had without training. Each frame uses itself and those before it.

All work in log depth, so a filter of the depth and of its inverse are the same, and a value that is not a positive
finite number is handed on as it is and never remembered. Arrays (t, h, w) in and out, of the same type. Each filter is
a step from one frame of log depth to the next, NaN where there is none, so a long video needs no more memory.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from steadydepth.ops.sampling import Places, places_at, sample

MEDIAN_WINDOW = 5


def _usable(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _log(depth: np.ndarray) -> np.ndarray:
    """Natural logarithm in float64, NaN where there is no positive finite depth."""
    usable = _usable(depth)
    return np.where(usable, np.log(np.where(usable, depth, 1).astype(np.float64)), np.nan)


def _write(log_depth: Iterable[np.ndarray], depth: np.ndarray) -> np.ndarray:
    smooth = np.exp(np.stack(list(log_depth))).astype(depth.dtype)
    return np.where(_usable(depth), smooth, depth)


def blend(
    past: Float64[np.ndarray, "*any"], now: Float64[np.ndarray, "*any"], decay: float
) -> Float64[np.ndarray, "*any"]:
    """One step of a moving average of log depth: decay * past + (1 - decay) * now; `now` where either is NaN."""
    blended = decay * past + (1 - decay) * now
    return np.where(np.isfinite(blended), blended, now)


def middle(recent: Sequence[Float64[np.ndarray, "*any"]]) -> Float64[np.ndarray, "*any"]:
    """Median at each pixel of frames of log depth; the mean of the two middle ones of an even number.

    NaN has no vote; 0 where nothing votes.
    """
    last = len(recent) - 1
    if not any(np.isnan(frame).any() for frame in recent):
        ordered = _sorted(recent)
        return (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
    visible = np.sort(np.stack(recent), axis=0)  # NaN is sorted to the end
    n = np.isfinite(visible).sum(axis=0)
    low, high = (np.take_along_axis(visible, np.maximum(i, 0)[None], axis=0)[0] for i in ((n - 1) // 2, n // 2))
    return np.where(n > 0, low + high, 0) / 2


def _sorted(frames: Sequence[Float64[np.ndarray, "*any"]]) -> list[np.ndarray]:
    """The frames sorted at each pixel by exchanges, which is several times faster than numpy.sort of few frames."""
    ordered = list(frames)
    for end in range(len(ordered) - 1, 0, -1):
        for i in range(end):
            ordered[i], ordered[i + 1] = np.minimum(*ordered[i : i + 2]), np.maximum(*ordered[i : i + 2])
    return ordered


def backward_places(backward: Float32[np.ndarray, "h w 2"]) -> Places:
    """Where each pixel was in the frame before, by the flow from this frame into it."""
    height, width = backward.shape[:2]
    motion = np.where(np.isfinite(backward), backward, 0).astype(np.float64)
    x = np.arange(width) + motion[..., 0]
    y = np.arange(height)[:, None] + motion[..., 1]
    return places_at(x.ravel(), y.ravel(), height, width)


def blend_along(
    past: Float64[np.ndarray, "n"],
    now: Float64[np.ndarray, "n"],
    was_at: Places,
    trusted: Bool[np.ndarray, "n"],
    decay: float,
) -> Float64[np.ndarray, "n"]:
    """`blend` of flattened frames with what the frame before had where each pixel was; `now` where not trusted."""
    return blend(np.where(trusted, sample(past[None], was_at)[0], np.nan), now, decay)


def ema(depth: Float[np.ndarray, "t h w"], *, decay: float = 0.5) -> Float[np.ndarray, "t h w"]:
    """Exponential moving average at each pixel: m_t = decay * m_(t-1) + (1 - decay) * log d_t; m_0 = log d_0.

    `decay` in [0, 1): 0 changes nothing. Steady, and late: whatever moves is smeared behind itself.
    """
    smooth: list[np.ndarray] = []
    for frame in _log(depth):
        smooth.append(blend(smooth[-1], frame, decay) if smooth else frame)
    return _write(smooth, depth)


def causal_median(depth: Float[np.ndarray, "t h w"], *, window: int = MEDIAN_WINDOW) -> Float[np.ndarray, "t h w"]:
    """Median at each pixel of the last `window` frames, this one included; of fewer at the beginning.

    An even number of frames has the mean of the two middle log depths. Values that are not usable have no vote.
    """
    recent: deque[np.ndarray] = deque(maxlen=window)
    smooth = []
    for frame in _log(depth):
        recent.append(frame)
        smooth.append(middle(recent))
    return _write(smooth, depth)


def flow_ema(
    depth: Float[np.ndarray, "t h w"],
    backward: Float32[np.ndarray, "p h w 2"],
    trusted: Bool[np.ndarray, "p h w"],
    *,
    decay: float = 0.8,
) -> Float[np.ndarray, "t h w"]:
    """Exponential moving average along the flow: m_t(p) = decay * m_(t-1)(p + B(p)) + (1 - decay) * log d_t(p).

    `backward` B is on frame t into t - 1, in pixels. Where it is not trusted the average starts anew: m_t = log d_t.
    """
    smooth: list[np.ndarray] = []
    for t, frame in enumerate(_log(depth).reshape(len(depth), -1)):
        if smooth:
            was_at = backward_places(backward[t - 1])
            frame = blend_along(smooth[-1], frame, was_at, trusted[t - 1].ravel(), decay)
        smooth.append(frame)
    return _write([frame.reshape(depth.shape[1:]) for frame in smooth], depth)
