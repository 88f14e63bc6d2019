"""Pinhole camera: image to points.

OpenCV axes (x right, y down, z forward), depth is planar z in metres, pixel centres lie at integer coordinates.
"""

import numpy as np
from jaxtyping import Float


def unproject(depth: Float[np.ndarray, "h w"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "h w 3"]:
    """The point of every pixel, in metres and in the type of the depth: depth * inv(K) (x, y, 1)."""
    y, x = np.indices(depth.shape, depth.dtype)
    return depth[..., None] * (np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(K).T.astype(depth.dtype))
