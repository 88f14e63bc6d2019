"""Pinhole camera: image to points.

OpenCV axes (x right, y down, z forward), depth is planar z in metres, pixel centres lie at integer coordinates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steadydepth.ops.warp import pixel_grid


def rays(height: int, width: int, K: Float[Tensor, "3 3"]) -> Float[Tensor, "h w 3"]:
    """inv(K) (x, y, 1) of every pixel: the points at depth 1.

    Args:
        height: rows of the image.
        width: columns of the image.
        K: pixels, pixel centres at integer coordinates; the result has its type and device.
    """
    grid = pixel_grid(height, width, K)
    return torch.cat((grid, torch.ones_like(grid[..., :1])), dim=-1) @ torch.linalg.inv(K).T


def unproject(depth: Float[Tensor, "*any h w"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "*any h w 3"]:
    """The point of every pixel, in metres: depth * inv(K) (x, y, 1)."""
    height, width = depth.shape[-2:]
    return depth[..., None] * rays(height, width, K)
