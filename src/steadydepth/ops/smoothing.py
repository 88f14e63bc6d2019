"""Causal filters of a depth video by name: what can be had without training. One home of their names and decays.

A filter is a step from one frame to the next: values of a frame in float64, flattened, NaN where there is none, and
what it remembers of the frames before; both are returned. What is NaN stays NaN and is never remembered.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64

from steadydepth.config import FilterName
from steadydepth.ops.sampling import Places, places_at, sample

Values = Float64[np.ndarray, "n"]
# What a filter remembers: one entry of frames (k, n); empty at the beginning of a video.
Memory = dict[str, Float64[np.ndarray, "_ n"]]
# Where each pixel was in the frame before, and where that can be trusted; asked for only by filters that need it.
Motion = Callable[[], tuple[Places, Bool[np.ndarray, "n"]]]
Step = Callable[[Values, Memory, Motion], tuple[Values, Memory]]

MEDIAN_WINDOW = 5


def blend(past: Values, now: Values, decay: float) -> Values:
    """One step of a moving average: decay * past + (1 - decay) * now; `now` where either is NaN.

    Args:
        past: the average so far.
        now: the new value.
        decay: share of the past, in [0, 1).
    """
    blended = decay * past + (1 - decay) * now
    return np.where(np.isfinite(blended), blended, now)


def ema(now: Values, memory: Memory, motion: Motion, *, decay: float) -> tuple[Values, Memory]:
    """Exponential moving average at each pixel: m_t = decay * m_(t-1) + (1 - decay) * x_t; m_0 = x_0.

    Whatever moves is smeared behind itself.

    Args:
        now: values of this frame.
        memory: what the step before returned; empty at the beginning.
        motion: not asked for.
        decay: in [0, 1); 0 changes nothing.

    Returns: the filtered frame, and the memory for the next.
    """
    smooth = blend(memory["past"][0], now, decay) if memory else now
    return smooth, {"past": smooth[None]}


def flow_ema(now: Values, memory: Memory, motion: Motion, *, decay: float) -> tuple[Values, Memory]:
    """Exponential moving average along the flow: m_t(p) = decay * m_(t-1)(p + B(p)) + (1 - decay) * x_t(p).

    B is the flow from this frame into the one before. Where it is not trusted the average starts anew: m_t = x_t.

    Args:
        now: values of this frame.
        memory: what the step before returned; empty at the beginning.
        motion: gives where each pixel was in the frame before, and where that is trusted; asked only when there is a
            memory.
        decay: in [0, 1); 0 changes nothing.

    Returns: the filtered frame, and the memory for the next.
    """
    if memory:
        places, trusted = motion()
        now = blend(np.where(trusted, sample(memory["past"], places)[0], np.nan), now, decay)
    return now, {"past": now[None]}


def causal_median(now: Values, memory: Memory, motion: Motion, *, window: int) -> tuple[Values, Memory]:
    """Median at each pixel of the last `window` frames, this one included; of fewer at the beginning.

    An even number of frames has the mean of the two middle values. NaN has no vote.

    Args:
        now: values of this frame.
        memory: what the step before returned; empty at the beginning.
        motion: not asked for.
        window: frames, this one included.

    Returns: the filtered frame, and the memory for the next.
    """
    recent = np.concatenate((memory["recent"], now[None])) if memory else now[None]
    return np.where(np.isfinite(now), middle(recent), np.nan), {"recent": recent[1 - window :]}


FILTERS: dict[FilterName, Step] = {
    "ema": partial(ema, decay=0.5),
    "ema_0.8": partial(ema, decay=0.8),
    "median": partial(causal_median, window=MEDIAN_WINDOW),
    "flow_ema": partial(flow_ema, decay=0.8),
}


def middle(recent: Sequence[Values] | Float64[np.ndarray, "k n"]) -> Values:
    """Median at each pixel of some frames; the mean of the two middle ones of an even number.

    NaN has no vote; 0 where nothing votes.
    """
    last = len(recent) - 1
    if not any(np.isnan(frame).any() for frame in recent):
        ordered = _sorted(recent)
        return (ordered[last // 2] + ordered[(last + 1) // 2]) / 2
    values = np.sort(np.stack(list(recent)), axis=0)  # NaN is sorted to the end
    n = np.isfinite(values).sum(axis=0)
    low, high = (np.take_along_axis(values, np.maximum(i, 0)[None], axis=0)[0] for i in ((n - 1) // 2, n // 2))
    return np.where(n > 0, low + high, 0) / 2


def _sorted(frames: Sequence[Values] | Float64[np.ndarray, "k n"]) -> list[np.ndarray]:
    """The frames sorted at each pixel by exchanges, which is several times faster than numpy.sort of few frames."""
    ordered = list(frames)
    for end in range(len(ordered) - 1, 0, -1):
        for i in range(end):
            ordered[i], ordered[i + 1] = np.minimum(*ordered[i : i + 2]), np.maximum(*ordered[i : i + 2])
    return ordered


def backward_places(backward: Float32[np.ndarray, "h w 2"]) -> Places:
    """Where each pixel was in the frame before, by the flow from this frame into it, in pixels (x, y)."""
    height, width = backward.shape[:2]
    motion = np.where(np.isfinite(backward), backward, 0).astype(np.float64)
    x = np.arange(width) + motion[..., 0]
    y = np.arange(height)[:, None] + motion[..., 1]
    return places_at(x.ravel(), y.ravel(), height, width)
