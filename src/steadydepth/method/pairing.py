"""Step 2, image acquisition: each depth image beside the one before it, or beside one further back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.warp import all_neighbours, as_grid, bring_here, follow, sample, snap_to_known
from steadydepth.types import Depth, DepthPairs, Valid

Motion = Float[Tensor, "b p h w 2"] | None
Seen = Bool[Tensor, "b p h w"] | None


@dataclass(frozen=True)
class Way:
    """The way from each frame back to the one `lag` before it."""

    lag: int
    grid: Float[Tensor, "n h w 2"] | None  # where each pixel was, as `bring_here` wants it; None for the same pixel
    valid: Bool[Tensor, "b q h w"]  # True where there is something at both ends


def pair_with_previous(
    depth: Depth, valid: Valid, motion: Motion = None, seen: Seen = None, *, lags: Sequence[int] = (1,)
) -> DepthPairs:
    """Frame i beside frame i - 1 of the same clip: at the same pixel, or brought here along `motion`.

    A pair is valid where both pixels are and, with `motion`, where all that the sample reads was valid and the previous
    frame had `seen` the point. Where not all pixels around the point were valid the nearest is taken, if that one was:
    what is predicted and what is true are then compared at the same two pixels. Depth at invalid pixels may be
    anything. One frame gives no pairs (p = 0).

    `lags` pairs frame i with frame i - lag for each of them, one after another along p: longer lags hold slow drift.
    Motion over several frames is chained, and a point must be seen all along. A lag that the clip is too short for
    gives no pairs.
    """
    return pair_along(depth, valid, ways_back(valid, motion, seen, lags))


def ways_back(valid: Valid, motion: Motion, seen: Seen, lags: Sequence[int]) -> tuple[Way, ...]:
    """The ways of a clip over each of `lags`, for all that is to be paired along them: motion, and where it leads."""
    return tuple(_way(valid, *chain(motion, seen, lag), lag) for lag in lags)


def _way(valid: Valid, motion: Motion, seen: Seen, lag: int) -> Way:
    current, previous = valid[:, lag:], valid[:, : max(valid.shape[1] - lag, 0)]
    grid = None
    if motion is not None:
        at, known = snap_to_known(previous.flatten(0, 1), follow(motion.flatten(0, 1)))
        previous = known.unflatten(0, current.shape[:2])
        grid = as_grid(at, *valid.shape[-2:])
    both = current & previous
    return Way(lag, grid, both if seen is None else both & seen)


def pair_along(depth: Depth, valid: Valid, ways: Sequence[Way]) -> DepthPairs:
    """As `pair_with_previous`, along ways that were found for the same `valid`."""
    safe = torch.where(valid, depth, 1)  # before any logarithm, or NaN reaches the gradient
    return DepthPairs(
        _join([safe[:, way.lag :] for way in ways]),
        _join([_ends(safe, way) for way in ways]),
        _join([way.valid for way in ways]),
        harmless=True,
    )


def _join(pairs: list[Tensor]) -> Tensor:
    return pairs[0] if len(pairs) == 1 else torch.cat(pairs, dim=1)


def _ends(depth: Depth, way: Way) -> Float[Tensor, "b q h w"]:
    """What stands at the other end of each pixel's way."""
    previous = depth[:, : max(depth.shape[1] - way.lag, 0)]
    if way.grid is None:
        return previous
    return bring_here(previous.flatten(0, 1), way.grid).view_as(previous)


def chain(
    motion: Motion, seen: Seen, lag: int
) -> tuple[Float[Tensor, "b q h w 2"] | None, Bool[Tensor, "b q h w"] | None]:
    """Motion from each frame to the one `lag` before, out of motion from each frame to the one before.

    q = p + 1 - lag. Seen where every frame on the way saw the point; no entries when there are fewer than `lag` pairs.
    """
    if motion is None:
        return None, seen
    b, p = motion.shape[:2]
    kept = max(p + 1 - lag, 0)
    total = motion[:, lag - 1 :]
    visible = (
        torch.ones(total.shape[:-1], dtype=torch.bool, device=motion.device) if seen is None else seen[:, lag - 1 :]
    )
    if kept == 0:
        return total, visible
    for back in range(1, lag):
        earlier = slice(lag - 1 - back, p - back)
        at = follow(total.flatten(0, 1))
        step = motion[:, earlier].nan_to_num(0, 0, 0).flatten(0, 1).movedim(-1, 1)
        more = sample(step, at).movedim(1, -1).unflatten(0, (b, kept))
        if seen is not None:
            read = all_neighbours(seen[:, earlier].flatten(0, 1), at)
            visible = visible & read.unflatten(0, (b, kept))
        total = total + more
    return total, visible


def unchanged(pairs: DepthPairs) -> DepthPairs:
    """What is true of `pairs` where no label says otherwise: a point keeps its depth from one frame to the next."""
    ones = torch.ones_like(pairs.current)
    return DepthPairs(ones, ones, pairs.valid, harmless=True)
