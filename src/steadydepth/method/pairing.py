"""Step 2, image acquisition: each depth image beside the one before it, or beside one further back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.warp import all_neighbours, bring_here, pixel_grid, sample
from steadydepth.types import Depth, DepthPairs, Valid

Motion = Float[Tensor, "b p h w 2"] | None
Seen = Bool[Tensor, "b p h w"] | None


@dataclass(frozen=True)
class Way:
    """The way from each frame back to the one `lag` before it."""

    lag: int
    motion: Float[Tensor, "b q h w 2"] | None
    seen: Bool[Tensor, "b q h w"] | None


def pair_with_previous(
    depth: Depth, valid: Valid, motion: Motion = None, seen: Seen = None, *, lags: Sequence[int] = (1,)
) -> DepthPairs:
    """Frame i beside frame i - 1 of the same clip: at the same pixel, or brought here along `motion`.

    A pair is valid where both pixels are and, with `motion`, where all that the sample reads was valid and the previous
    frame had `seen` the point. Depth at invalid pixels may be anything. One frame gives no pairs (p = 0).

    `lags` pairs frame i with frame i - lag for each of them, one after another along p: longer lags hold slow drift.
    Motion over several frames is chained, and a point must be seen all along. A lag that the clip is too short for
    gives no pairs.
    """
    return pair_along(depth, valid, ways_back(motion, seen, lags))


def ways_back(motion: Motion, seen: Seen, lags: Sequence[int]) -> tuple[Way, ...]:
    """The motion of a clip over each of `lags`, for whatever is to be paired along it."""
    return tuple(Way(lag, *chain(motion, seen, lag)) for lag in lags)


def pair_along(depth: Depth, valid: Valid, ways: Sequence[Way]) -> DepthPairs:
    """As `pair_with_previous`, along motion that `ways_back` has chained."""
    safe = torch.where(valid, depth, 1)  # before any logarithm, or NaN reaches the gradient
    parts = [_pair(safe, valid, way.motion, way.seen, way.lag) for way in ways]
    return DepthPairs(
        torch.cat([part.current for part in parts], dim=1),
        torch.cat([part.previous for part in parts], dim=1),
        torch.cat([part.valid for part in parts], dim=1),
    )


def _pair(depth: Depth, valid: Valid, motion: Motion, seen: Seen, lag: int) -> DepthPairs:
    kept = max(depth.shape[1] - lag, 0)
    current, previous = depth[:, lag:], depth[:, :kept]
    both = valid[:, lag:]
    if motion is None:
        both = both & valid[:, :kept]
    else:
        b, p, h, w = current.shape
        flat = motion.flatten(0, 1)
        previous = bring_here(previous.flatten(0, 1), flat).unflatten(0, (b, p))
        read = all_neighbours(valid[:, :kept].flatten(0, 1), pixel_grid(h, w, flat) + flat)
        both = both & read.unflatten(0, (b, p))
    return DepthPairs(current, previous, both if seen is None else both & seen)


def chain(
    motion: Motion, seen: Seen, lag: int
) -> tuple[Float[Tensor, "b q h w 2"] | None, Bool[Tensor, "b q h w"] | None]:
    """Motion from each frame to the one `lag` before, out of motion from each frame to the one before.

    q = p + 1 - lag. Seen where every frame on the way saw the point; no entries when there are fewer than `lag` pairs.
    """
    if motion is None:
        return None, seen
    b, p, h, w, _ = motion.shape
    kept = max(p + 1 - lag, 0)
    total = motion[:, lag - 1 :]
    visible = (
        torch.ones(total.shape[:-1], dtype=torch.bool, device=motion.device) if seen is None else seen[:, lag - 1 :]
    )
    if kept == 0:
        return total, visible
    for back in range(1, lag):
        earlier = slice(lag - 1 - back, p - back)
        at = pixel_grid(h, w, motion) + torch.where(torch.isfinite(total), total, 0)
        step = torch.where(torch.isfinite(motion[:, earlier]), motion[:, earlier], 0).flatten(0, 1).movedim(-1, 1)
        more = sample(step, at.flatten(0, 1)).movedim(1, -1).unflatten(0, (b, kept))
        if seen is not None:
            read = all_neighbours(seen[:, earlier].flatten(0, 1), at.flatten(0, 1))
            visible = visible & read.unflatten(0, (b, kept))
        total = total + more
    return total, visible


def unchanged(pairs: DepthPairs) -> DepthPairs:
    """What is true of `pairs` where no label says otherwise: a point keeps its depth from one frame to the next."""
    ones = torch.ones_like(pairs.current)
    return DepthPairs(ones, ones, pairs.valid)
