"""The plain shapes of the world: faces and texture coordinates of a box, a ball, a cylinder and a cone."""

import numpy as np
from jaxtyping import Float

_RING = np.linspace(0, np.pi, 13)
# Radius and height, from the top down, of what is turned about the vertical.
_PROFILES = (
    np.stack((0.5 * np.sin(_RING), 0.5 + 0.5 * np.cos(_RING)), -1),
    np.array([[0.0, 1.0], [0.5, 1.0], [0.5, 0.0], [0.0, 0.0]]),
    np.array([[0.0, 1.0], [0.5, 0.0], [0.0, 0.0]]),
)


def basic_bodies() -> list[tuple[Float[np.ndarray, "f 3 3"], Float[np.ndarray, "f 3 2"]]]:
    """A box, a ball, a cylinder and a cone of one metre that stand on y = 0, with texture coordinates."""
    return [_box(), *(_turned(profile, 24) for profile in _PROFILES)]


def _turned(profile: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, n + 1)
    radius, height = profile[:, :1], profile[:, 1:]
    points = np.stack(
        (radius * np.cos(angle), -np.broadcast_to(height, (len(profile), n + 1)), radius * np.sin(angle)), -1
    )
    length = np.concatenate(([0], np.cumsum(np.linalg.norm(np.diff(profile, axis=0), axis=1))))
    uv = np.stack(np.broadcast_arrays(angle / np.pi / 2 * 3, length[:, None]), -1)
    return _quads(points), _quads(uv)


def _quads(grid: np.ndarray) -> np.ndarray:
    """Two triangles for each cell of a grid (rows, columns, c)."""
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    return np.stack((np.stack((a, b, c), 2), np.stack((d, c, b), 2)), 2).reshape(-1, 3, grid.shape[-1])


def _box() -> tuple[np.ndarray, np.ndarray]:
    corners, uvs = [], []
    u, v = np.meshgrid(np.linspace(0, 1, 2), np.linspace(0, 1, 2))
    for axis in range(3):
        for end in (0.0, 1.0):
            point = np.empty((2, 2, 3))
            point[..., axis], point[..., (axis + 1) % 3], point[..., (axis + 2) % 3] = end, u, v
            corners.append(_quads(point - [0.5, 1.0, 0.5]))
            uvs.append(_quads(np.stack((u, v), -1)))
    return np.concatenate(corners), np.concatenate(uvs)
