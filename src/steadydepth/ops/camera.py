"""Pinhole camera: image to points, a rigid move, points to image.

OpenCV axes (x right, y down, z forward), depth is planar z in metres, pixel centres lie at integer coordinates, poses
are camera-to-world.
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


def relative_pose(source_to_world: Float[Tensor, "4 4"], target_to_world: Float[Tensor, "4 4"]) -> Float[Tensor, "4 4"]:
    """The move that takes points of the source camera to the target camera: inv(target) @ source."""
    return torch.linalg.inv(target_to_world) @ source_to_world


def move(points: Float[Tensor, "*any 3"], transform: Float[Tensor, "4 4"]) -> Float[Tensor, "*any 3"]:
    """Rotate, then translate: R p + T."""
    return points @ transform[:3, :3].T + transform[:3, 3]


def project(points: Float[Tensor, "*any 3"], K: Float[Tensor, "3 3"]) -> Float[Tensor, "*any 2"]:
    """Pixel coordinates (x, y) of points; NaN for a point that is not in front of the camera (z <= 0)."""
    ahead = points[..., 2:] > 0
    visible = points @ K.T
    return torch.where(ahead, visible[..., :2] / torch.where(ahead, visible[..., 2:], 1), torch.nan)
