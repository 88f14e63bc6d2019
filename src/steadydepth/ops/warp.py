"""Bring an image of the previous frame into the current view, along the motion of each pixel."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

_NOWHERE = (-2.0, -2.0, -2.0)  # in place of NaN and of both infinities: a pixel outside any image


def pixel_grid(height: int, width: int, like: Tensor) -> Float[Tensor, "h w 2"]:
    """Coordinates (x, y) of every pixel centre, in pixels, on the device and in the type of `like`.

    Args:
        height: rows of the image.
        width: columns of the image.
        like: gives device and type.
    """
    x, y = (torch.arange(size, dtype=like.dtype, device=like.device) for size in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def as_grid(at: Float[Tensor, "n i j 2"], height: int, width: int) -> Float[Tensor, "n i j 2"]:
    """Pixel coordinates (x, y), centres at integers, as `grid_sample` wants them for images of that size.

    Args:
        at: columns and rows (x, y) to read, pixels.
        height: rows of the image.
        width: columns of the image.
    """
    # With align_corners=False, -1 and 1 are the outer edges, at -0.5 and size - 0.5. In place: of large temporaries
    # the memory costs more time than the sums.
    size = torch.tensor([width, height], dtype=at.dtype, device=at.device)
    return (2 * at).add_(1).div_(size).sub_(1)


def sample(image: Float[Tensor, "n c h w"], at: Float[Tensor, "n i j 2"]) -> Float[Tensor, "n c i j"]:
    """Bilinear samples of `image` at pixel coordinates (x, y), centres at integers; the border is repeated outside."""
    return F.grid_sample(image, as_grid(at, *image.shape[-2:]), padding_mode="border", align_corners=False)


def follow(motion: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n h w 2"]:
    """Coordinates (x, y) of where each pixel was, `motion` pixels from here; outside the image where unknown."""
    height, width = motion.shape[1:3]
    return (pixel_grid(height, width, motion) + motion).nan_to_num_(*_NOWHERE)


def all_neighbours(mask: Bool[Tensor, "n h w"], at: Float[Tensor, "n i j 2"]) -> Bool[Tensor, "n i j"]:
    """True where every neighbour that a bilinear sample at `at` reads is inside the image and True in `mask`."""
    height, width = mask.shape[-2:]
    x, y = at.unbind(-1)
    column, row = x.clamp(0, width - 1), y.clamp(0, height - 1)
    inside = (column == x) & (row == y)  # nowhere, if not a number
    # What a sample reads from its upper left pixel on: that alone, with the one beside it, the one below, or all four.
    beside = mask & F.pad(mask[..., 1:], (0, 1))
    below, both_below = (one & F.pad(one[..., 1:, :], (0, 0, 0, 1)) for one in (mask, beside))
    table = torch.stack((mask, beside, below, both_below), dim=1).flatten(1)
    left, top = (one.nan_to_num_(0).floor() for one in (column, row))
    which = (row > top).int().mul_(2).add_(column > left)
    index = which.mul_(height).add_(top.int()).mul_(width).add_(left.int())
    return inside & table.gather(1, index.long().flatten(1)).view_as(inside)


def snap_to_known(
    mask: Bool[Tensor, "n h w"], at: Float[Tensor, "n i j 2"]
) -> tuple[Float[Tensor, "n i j 2"], Bool[Tensor, "n i j"]]:
    """Where to sample so that nothing is read that is not True in `mask`, and where that can be done.

    At `at` itself where all its neighbours are True, else at the nearest pixel where that one is: of sparse labels, as
    those of a lidar, hardly any place has four.
    """
    height, width = mask.shape[-2:]
    x, y = at.unbind(-1)
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # On a CPU asking costs far less than what it spares; an accelerator would be waited for.
    if mask.device.type == "cpu" and mask.all():
        return at, inside
    complete = all_neighbours(mask, at)
    nearest = torch.where(inside[..., None], at, 0).round()
    column, row = nearest.long().unbind(-1)
    index = row * width + column
    known = inside & mask.flatten(1).gather(1, index.flatten(1)).view_as(complete)
    return torch.where((known & ~complete)[..., None], nearest, at), complete | known


def chain(
    motion: Float[Tensor, "b p h w 2"] | None, visible: Bool[Tensor, "b p h w"] | None, offset: int
) -> tuple[Float[Tensor, "b q h w 2"] | None, Bool[Tensor, "b q h w"] | None]:
    """Motion from each frame to the one `offset` before it, from motion between neighbouring frames.

    q = p + 1 - offset. Visible where every frame between sees the point; no entries with fewer than `offset` pairs.
    One rule and three ways to read the motion between pixels: batches on the device of the step, here; in the loader
    OpenCV's, several times faster on one core but to 1/32 px (`data.clips.chain_motion`); in float64, hidden points
    left out by label depth, for metrics (`evaluation.footage.follow_flow`).

    Args:
        motion: (b, p, h, w, 2), pixels; None for the same pixel.
        visible: (b, p, h, w).
        offset: at least 1.

    Returns: motion (b, q, h, w, 2) and visibility (b, q, h, w).
    """
    if motion is None:
        return None, visible
    b, p = motion.shape[:2]
    kept = max(p + 1 - offset, 0)
    total = motion[:, offset - 1 :]
    consistent = total.new_ones(total.shape[:-1], dtype=torch.bool) if visible is None else visible[:, offset - 1 :]
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


def warp(previous: Float[Tensor, "n h w"], grid: Float[Tensor, "n h w 2"]) -> Float[Tensor, "n h w"]:
    """Sample the positive `previous` where each pixel was, in log depth: the geometric mean of the neighbours.

    Log-bilinear, as the temporal metrics are: a constant factor of depth stays one. `grid` is that of `as_grid`.
    """
    return F.grid_sample(previous.log()[:, None], grid, padding_mode="border", align_corners=False)[:, 0].exp()
