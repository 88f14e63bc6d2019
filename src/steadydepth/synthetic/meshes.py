"""Triangle meshes from files, as things of the synthetic world: how they stand, and which rays meet them."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int32, Int64

from steadydepth.errors import import_extra
from steadydepth.types import InputError

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl")
MOST_PAIRS = 1 << 21  # of a triangle and a ray, tested at a time
Triangles = Float64[np.ndarray, "face 3 3"]  # their corners
Numbers = Int64[np.ndarray, "n"]


def read_mesh(path: Path) -> Triangles:
    """The corners of each triangle, y up as in glTF.

    Raises:
        InputError: the file is damaged or has no triangle, or trimesh is not installed.
    """
    trimesh = import_extra("trimesh", "meshes", "meshes need trimesh")
    try:
        mesh = trimesh.load_mesh(path)
        triangles = np.array(mesh.triangles, np.float64)
    except Exception as error:  # its readers raise whatever they stumble over
        raise InputError(f"{path}: not a readable mesh ({error}): copy the file again or take it away") from error
    if not len(triangles) or not np.isfinite(triangles).all():
        raise InputError(f"{path}: a mesh has triangles with finite corners: copy the file again or take it away")
    return triangles


def stand(triangles: Triangles, half: Float64[np.ndarray, "3"]) -> Triangles:
    """The mesh, y down, as large as fits a box of half extents `half` in metres, in the middle of its ground."""
    turned = triangles * [1, -1, -1]
    low, high = turned.min(axis=(0, 1)), turned.max(axis=(0, 1))
    scale = (2 * half / np.maximum(high - low, 1e-9 * (high - low).max() + 1e-300)).min()
    middle = (low + high) / 2
    return (turned - [middle[0], high[1], middle[2]]) * scale + [0, half[1], 0]


def meet_triangles(
    triangles: Triangles, K: Float64[np.ndarray, "3 3"], y: Float[np.ndarray, "h"], x: Float[np.ndarray, "w"]
) -> tuple[Float64[np.ndarray, "h w"], Int32[np.ndarray, "h w"]]:
    """Planar depth of the nearest triangle on the ray of each row and column, and its number; inf, -1 where none is.

    Args:
        triangles: corners in the camera's axes, metres; visible from both sides.
        K: pixels, pixel centres at integer coordinates.
        y: rows of the rays, pixels.
        x: columns of the rays, pixels.
    """
    # A ray is inside when it passes its three edges on one side. Neighbours have the same number for the edge they
    # share, but for its sign: no ray slips between them.
    edges = np.cross(triangles, np.roll(triangles, -1, axis=1))
    volume = (triangles[:, 0] * edges[:, 1]).sum(axis=1)
    across, down = (x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1]
    depth, nearest = np.full(len(y) * len(x), np.inf), np.full(len(y) * len(x), -1, np.int32)
    columns, rows = (_reach(triangles, axis, tangents) for axis, tangents in enumerate((across, down)))
    n_pairs = (columns[1] - columns[0]) * (rows[1] - rows[0])
    for faces in _groups(n_pairs):
        face, row, column = _pairs(faces, rows, columns)
        sides = (edges[face, :, 0].T * across[column] + edges[face, :, 1].T * down[row]) + edges[face, :, 2].T
        total = sides.sum(axis=0)
        inside = ((sides >= 0).all(axis=0) | (sides <= 0).all(axis=0)) & (total != 0)
        length = volume[face] / np.where(inside, total, 1)
        met = inside & (length > 1e-6)
        pixel, length, face = (row * len(x) + column)[met], length[met], face[met]
        # The nearest last, and of two at one depth the first in the mesh: the last one written stays.
        order = np.lexsort((-face, -length))
        pixel, length, face = pixel[order], length[order], face[order]
        closer = length < depth[pixel]
        depth[pixel[closer]], nearest[pixel[closer]] = length[closer], face[closer]
    shape = (len(y), len(x))
    return depth.reshape(shape), nearest.reshape(shape)


def _reach(triangles: Triangles, axis: int, tangents: Float[np.ndarray, "n"]) -> Int64[np.ndarray, "2 face"]:
    """First and one past the last of the rising `tangents` between which each triangle lies along `axis`.

    All of them when it reaches behind the camera, none when all of it is behind.
    """
    is_behind = triangles[..., 2] <= 1e-6
    slopes = triangles[..., axis] / np.where(is_behind, 1, triangles[..., 2])
    partly, wholly = is_behind.any(axis=1), is_behind.all(axis=1)
    # What 64 bits round is far less than that.
    low = np.where(partly, -np.inf, slopes.min(axis=1) - 1e-9)
    high = np.where(wholly, -np.inf, np.where(partly, np.inf, slopes.max(axis=1) + 1e-9))
    return np.stack((np.searchsorted(tangents, low), np.searchsorted(tangents, high, side="right")))


def _groups(n_pairs: Int64[np.ndarray, "face"]) -> list[Int64[np.ndarray, "some"]]:
    """The triangles that may be visible, few enough at a time."""
    visible = np.flatnonzero(n_pairs > 0)
    if not len(visible):
        return []
    return np.split(visible, np.flatnonzero(np.diff(np.cumsum(n_pairs[visible]) // MOST_PAIRS)) + 1)


def _pairs(
    faces: Int64[np.ndarray, "some"], rows: Int64[np.ndarray, "2 face"], columns: Int64[np.ndarray, "2 face"]
) -> tuple[Numbers, Numbers, Numbers]:
    """Of each pair of a triangle and a pixel within its reach, one triangle after another: triangle, row and column."""
    width = columns[1] - columns[0]
    n = (width * (rows[1] - rows[0]))[faces]
    face = np.repeat(faces, n)
    step = np.arange(len(face)) - np.repeat(np.cumsum(n) - n, n)
    row, column = np.divmod(step, width[face])
    return face, row + rows[0][face], column + columns[0][face]
