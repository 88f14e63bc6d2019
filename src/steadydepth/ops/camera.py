"""Pinhole camera: image to points.

OpenCV axes (x right, y down, z forward), depth is planar z in metres, pixel centres lie at integer coordinates.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from steadydepth.ops.warp import pixel_grid


def unproject(depth: Float[Tensor, "*any h w"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "*any h w 3"]:
    """The point of every pixel, in metres: depth * inv(K) (x, y, 1)."""
    height, width = depth.shape[-2:]
    grid = pixel_grid(height, width, K)
    return depth[..., None] * (torch.cat((grid, torch.ones_like(grid[..., :1])), dim=-1) @ torch.linalg.inv(K).T)
