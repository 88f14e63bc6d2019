"""Step 2, image acquisition: each depth image beside the one before it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.ops.warp import all_neighbours, bring_here, pixel_grid
from steadydepth.types import Depth, DepthPairs, Valid


def pair_with_previous(
    depth: Depth,
    valid: Valid,
    motion: Float[Tensor, "b p h w 2"] | None = None,
    seen: Bool[Tensor, "b p h w"] | None = None,
) -> DepthPairs:
    """Frame i beside frame i - 1 of the same clip: at the same pixel, or brought here along `motion`.

    A pair is valid where both pixels are and, with `motion`, where all that the sample reads was valid and the previous
    frame had `seen` the point. Depth at invalid pixels may be anything. One frame gives no pairs (p = 0).
    """
    safe = torch.where(valid, depth, 1)  # before any logarithm, or NaN reaches the gradient
    current, previous = safe[:, 1:], safe[:, :-1]
    both = valid[:, 1:]
    if motion is None:
        both = both & valid[:, :-1]
    else:
        b, p, h, w = current.shape
        flat = motion.flatten(0, 1)
        previous = bring_here(previous.flatten(0, 1), flat).unflatten(0, (b, p))
        read = all_neighbours(valid[:, :-1].flatten(0, 1), pixel_grid(h, w, flat) + flat)
        both = both & read.unflatten(0, (b, p))
    return DepthPairs(current, previous, both if seen is None else both & seen)


def unchanged(pairs: DepthPairs) -> DepthPairs:
    """What is true of `pairs` where no label says otherwise: a point keeps its depth from one frame to the next."""
    ones = torch.ones_like(pairs.current)
    return DepthPairs(ones, ones, pairs.valid)
