"""Causal filters of a depth video: what can be had without training. Each frame uses itself and those before it.

All work in log depth, so a filter of the depth and of its inverse are the same, and a value that is not a positive
finite number is handed on as it is and never remembered. Arrays (t, h, w) in and out, of the same type.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32

from steadydepth.ops.warp import bring_here


def _usable(depth: np.ndarray) -> np.ndarray:
    return np.isfinite(depth) & (depth > 0)


def _log(depth: np.ndarray) -> np.ndarray:
    """Natural logarithm in float64, NaN where there is no positive finite depth."""
    usable = _usable(depth)
    return np.where(usable, np.log(np.where(usable, depth, 1).astype(np.float64)), np.nan)


def _blend(past: np.ndarray, now: np.ndarray, decay: float) -> np.ndarray:
    blended = decay * past + (1 - decay) * now
    return np.where(np.isfinite(blended), blended, now)


def _write(log_depth: list[np.ndarray], depth: np.ndarray) -> np.ndarray:
    smooth = np.exp(np.stack(log_depth)).astype(depth.dtype)
    return np.where(_usable(depth), smooth, depth)


def ema(depth: Float[np.ndarray, "t h w"], *, decay: float = 0.5) -> Float[np.ndarray, "t h w"]:
    """Exponential moving average at each pixel: m_t = decay * m_(t-1) + (1 - decay) * log d_t; m_0 = log d_0.

    `decay` in [0, 1): 0 changes nothing. Steady, and late: whatever moves is smeared behind itself.
    """
    now = _log(depth)
    smooth = [now[0]]
    for frame in now[1:]:
        smooth.append(_blend(smooth[-1], frame, decay))
    return _write(smooth, depth)


def causal_median(depth: Float[np.ndarray, "t h w"], *, window: int = 5) -> Float[np.ndarray, "t h w"]:
    """Median at each pixel of the last `window` frames, this one included; of fewer at the beginning.

    An even number of frames has the mean of the two middle log depths. Values that are not usable have no vote.
    """
    now = np.where(_usable(depth), _log(depth), np.inf)  # to the end of the order, and not counted
    smooth = []
    for t in range(len(depth)):
        seen = np.sort(now[max(0, t - window + 1) : t + 1], axis=0)
        n = np.isfinite(seen).sum(axis=0)
        low, high = (np.take_along_axis(seen, np.maximum(i, 0)[None], axis=0)[0] for i in ((n - 1) // 2, n // 2))
        smooth.append(np.where(n > 0, low + high, 0) / 2)
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
    now = _log(depth)
    smooth = [now[0]]
    for frame, motion, trust in zip(now[1:], backward, trusted, strict=True):
        before = torch.from_numpy(np.exp(smooth[-1]))[None]
        past = bring_here(before, torch.from_numpy(motion.astype(np.float64))[None])[0].log().numpy()
        smooth.append(_blend(np.where(trust, past, np.nan), frame, decay))
    return _write(smooth, depth)
