"""Step 2, image acquisition: each depth image beside the one before it, or beside one further back."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.warp import all_neighbours, as_grid, follow, sample, snap_to_known, warp
from steadydepth.types import Depth, DepthPairs, Valid

Motion = Float[Tensor, "b p h w 2"] | None
Visible = Bool[Tensor, "b p h w"] | None


@dataclass(frozen=True)
class Correspondence:
    """Where each pixel of a frame was in the one `offset` before it."""

    offset: int
    grid: Float[Tensor, "n h w 2"] | None  # where each pixel was, as `ops.warp.warp` wants it; None for the same pixel
    valid: Bool[Tensor, "b q h w"]  # True where there is something at both ends


def pair_with_previous(
    depth: Depth, valid: Valid, motion: Motion = None, visible: Visible = None, *, frame_offsets: Sequence[int] = (1,)
) -> DepthPairs:
    """Frame i beside frame i - 1 of the same clip: at the same pixel, or warped along `motion`.

    A pair is valid where both pixels are and, with `motion`, where all that the sample reads was valid and the previous
    frame saw the point (`visible`). Where not all pixels around the point were valid the nearest is taken, if that one
    was: what is predicted and what is true are then compared at the same two pixels. Depth at invalid pixels may be
    anything. One frame gives no pairs (p = 0).

    `frame_offsets` pairs frame i with frame i - offset for each of them, one after another along p: longer offsets
    hold slow drift. Motion over several frames is chained, and a point must be visible all along. An offset that the
    clip is too short for gives no pairs.
    """
    return pair_along(depth, valid, correspondences_back(valid, motion, visible, frame_offsets))


def correspondences_back(
    valid: Valid, motion: Motion, visible: Visible, frame_offsets: Sequence[int]
) -> tuple[Correspondence, ...]:
    """Correspondences of a clip over each of `frame_offsets`, found once for all that is paired along them."""
    return tuple(_correspondence(valid, *chain(motion, visible, offset), offset) for offset in frame_offsets)


def _correspondence(valid: Valid, motion: Motion, visible: Visible, offset: int) -> Correspondence:
    current, previous = valid[:, offset:], valid[:, : max(valid.shape[1] - offset, 0)]
    grid = None
    if motion is not None:
        at, known = snap_to_known(previous.flatten(0, 1), follow(motion.flatten(0, 1)))
        previous = known.unflatten(0, current.shape[:2])
        grid = as_grid(at, *valid.shape[-2:])
    both = current & previous
    return Correspondence(offset, grid, both if visible is None else both & visible)


def pair_along(depth: Depth, valid: Valid, correspondences: Sequence[Correspondence]) -> DepthPairs:
    """As `pair_with_previous`, along ways that were found for the same `valid`."""
    safe = torch.where(valid, depth, 1)  # before any logarithm, or NaN reaches the gradient
    return DepthPairs(
        _join([safe[:, correspondence.offset :] for correspondence in correspondences]),
        _join([_ends(safe, correspondence) for correspondence in correspondences]),
        _join([correspondence.valid for correspondence in correspondences]),
        harmless=True,
    )


def _join(pairs: list[Tensor]) -> Tensor:
    return pairs[0] if len(pairs) == 1 else torch.cat(pairs, dim=1)


def _ends(depth: Depth, correspondence: Correspondence) -> Float[Tensor, "b q h w"]:
    """What stands at the other end of each pixel's way."""
    previous = depth[:, : max(depth.shape[1] - correspondence.offset, 0)]
    if correspondence.grid is None:
        return previous
    return warp(previous.flatten(0, 1), correspondence.grid).view_as(previous)


def chain(
    motion: Motion, visible: Visible, offset: int
) -> tuple[Float[Tensor, "b q h w 2"] | None, Bool[Tensor, "b q h w"] | None]:
    """Motion from each frame to the one `offset` before, out of motion from each frame to the one before.

    q = p + 1 - offset. Visible where every frame between saw the point; no entries with fewer than `offset` pairs.
    """
    if motion is None:
        return None, visible
    b, p = motion.shape[:2]
    kept = max(p + 1 - offset, 0)
    total = motion[:, offset - 1 :]
    consistent = (
        torch.ones(total.shape[:-1], dtype=torch.bool, device=motion.device)
        if visible is None
        else visible[:, offset - 1 :]
    )
    if kept == 0:
        return total, consistent
    for back in range(1, offset):
        earlier = slice(offset - 1 - back, p - back)
        at = follow(total.flatten(0, 1))
        step = motion[:, earlier].nan_to_num(0, 0, 0).flatten(0, 1).movedim(-1, 1)
        more = sample(step, at).movedim(1, -1).unflatten(0, (b, kept))
        if visible is not None:
            read = all_neighbours(visible[:, earlier].flatten(0, 1), at)
            consistent = consistent & read.unflatten(0, (b, kept))
        total = total + more
    return total, consistent


def unchanged(pairs: DepthPairs) -> DepthPairs:
    """What is true of `pairs` where no label says otherwise: a point keeps its depth from one frame to the next."""
    ones = torch.ones_like(pairs.current)
    return DepthPairs(ones, ones, pairs.valid, harmless=True)
