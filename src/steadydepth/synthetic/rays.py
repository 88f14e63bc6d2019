"""Rays through the pixels of the synthetic world: what each meets first, and where that point goes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, UInt8

from steadydepth.synthetic.meshes import meet_triangles
from steadydepth.synthetic.scene import Scene, Solid

PIECE = 16384  # rays at a time: what is computed of them stays in the cache
_ALL = np.array([[-np.inf, np.inf]] * 2)
_CORNERS = np.array(list(product((-1.0, 1.0), repeat=3))).T


# Formulas are written once for arrays of NumPy and tensors of torch, which are on any device.
Array = Any


def space(array: Array) -> Any:
    """The library of `array`: NumPy, or torch."""
    if isinstance(array, np.ndarray):
        return np
    import torch

    return torch


@dataclass(frozen=True)
class Grid:
    """Pixel positions, in the precision that their rays are cast in.

    The rays, in the camera's axes and in reading order, have unit planar depth: the ray length is the depth itself.
    """

    y: Float[np.ndarray, "h"]
    x: Float[np.ndarray, "w"]
    rays: Float[np.ndarray, "3 h w"]


@dataclass(frozen=True)
class Hits:
    """What each ray of a grid meets first: planar depth in metres, and the number of the solid in its scene.

    Of a mesh also the number of the triangle; elsewhere that says nothing.
    """

    depth: Float[np.ndarray, "h w"]
    solid: UInt8[np.ndarray, "h w"]
    triangle: Int32[np.ndarray, "h w"]


@dataclass(frozen=True)
class Labels:
    """Depth in metres, object numbers, and the flow in pixels with where it is known."""

    depth: Float32[np.ndarray, "t h w"]
    objects: UInt8[np.ndarray, "t h w"]
    flow: Float32[np.ndarray, "p h w 2"]
    flow_valid: Bool[np.ndarray, "p h w"]


def make_grid(scene: Scene, y: Float[np.ndarray, "h"], x: Float[np.ndarray, "w"]) -> Grid:
    """The grid of the rows `y` and columns `x`, in pixels.

    Args:
        scene: gives the camera.
        y: rows, pixels.
        x: columns, pixels.
    """
    kind = x.dtype
    rays = np.ones((3, len(y), len(x)), kind)
    rays[0] = (x - scene.K[0, 2].astype(kind)) / scene.K[0, 0].astype(kind)
    rays[1] = ((y - scene.K[1, 2].astype(kind)) / scene.K[1, 1].astype(kind))[:, None]
    return Grid(y, x, rays)


def cast(scene: Scene, t: int, grid: Grid, solids: list[int], onto: Hits | None = None) -> Hits:
    """The first hits of a frame on some solids.

    Args:
        scene: what stands where.
        t: number of the frame.
        grid: the rays.
        solids: numbers of those that can be hit.
        onto: what the rays met already; it stays where it is nearer.
    """
    kind, shape = grid.rays.dtype, grid.rays.shape[1:]
    depth = np.full(shape, np.inf, kind) if onto is None else onto.depth.copy()
    index = np.zeros(shape, np.uint8) if onto is None else onto.solid.copy()
    triangle = np.zeros(shape, np.int32) if onto is None else onto.triangle.copy()
    for i in solids:
        solid = scene.solids[i]
        view = solid.world_to_local[t] @ scene.cam_to_world[t]
        for window in _windows(solid, t, scene, grid):
            if solid.triangles is None:
                rays = view[:3, :3].astype(kind) @ grid.rays[:, *window].reshape(3, -1)
                length = _meet(solid, view[:3, 3].astype(kind), rays).reshape(depth[window].shape)
            else:
                visible = transform(np.linalg.inv(view), solid.triangles)
                length, met = meet_triangles(visible, scene.K, grid.y[window[0]], grid.x[window[1]])
                length = length.astype(kind)
            # Of two at one depth the first in the scene is visible, whichever was cast first.
            won = (length < depth[window]) | ((length == depth[window]) & (index[window] > i))
            np.copyto(depth[window], length, where=won)
            np.copyto(index[window], np.uint8(i), where=won)
            if solid.triangles is not None:
                np.copyto(triangle[window], met, where=won)
    return Hits(depth, index, triangle)


def transform(pose: Float[np.ndarray, "4 4"], points: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
    """The points after a rigid motion."""
    return points @ pose[:3, :3].T + pose[:3, 3]


def points(
    scene: Scene, t: int, grid: Grid, hits: Hits, i: int
) -> Iterator[tuple[Int64[np.ndarray, "n"] | slice, Float[np.ndarray, "3 n"]]]:
    """Where a solid is visible, piece by piece: pixels, counted in reading order, and their points in its axes.

    Of solid 0, the room, everywhere: what stands in it comes later, and writes over it.

    Args:
        scene: what stands where.
        t: number of the frame.
        grid: the rays.
        hits: what they meet first.
        i: number of the solid.
    """
    depth = hits.depth.ravel()
    view = (scene.solids[i].world_to_local[t] @ scene.cam_to_world[t]).astype(depth.dtype)
    everywhere = [slice(first, first + PIECE) for first in range(0, depth.size, PIECE)]
    for pixels in everywhere if i == 0 else _pieces(np.flatnonzero(hits.solid == i)):
        # Three rows one by one: NumPy picks columns of a matrix several times slower.
        local = view[:3, :3] @ np.stack([row[pixels] for row in grid.rays.reshape(3, -1)])
        local *= depth[pixels]
        local += view[:3, 3:]
        yield pixels, local


def _pieces(pixels: Int64[np.ndarray, "n"]) -> list[Int64[np.ndarray, "m"]]:
    return np.array_split(pixels, -(-len(pixels) // PIECE)) if len(pixels) else []


def land(
    scene: Scene,
    t: int,
    grid: Grid,
    hits: Hits,
    solids: list[int],
    onto: Float[np.ndarray, "3 h w"] | None,
    then: Scene,
) -> Float[np.ndarray, "3 h w"]:
    """Column and row, in pixels, and depth in metres at which the next frame has what this one sees of some solids.

    Args:
        scene: what stands where.
        t: number of the frame.
        grid: the rays.
        hits: what they meet first.
        solids: numbers of those that are asked for.
        onto: what is given elsewhere.
        then: the same scene, at the moments of frame t + 1.
    """
    landed = np.empty(grid.rays.shape) if onto is None else onto.copy()
    flat = landed.reshape(3, -1)
    for i in solids:
        view = then.world_to_cam[t + 1] @ then.solids[i].local_to_world[t + 1]
        for pixels, local in points(scene, t, grid, hits, i):
            flat[:, pixels] = project(view, scene.K, local)
    return landed


def project(view: Array, K: Array, local: Array) -> Array:
    """Column, row and depth (..., 3, n) of points (..., 3, n) that `view` brings into the axes of the camera `K`.

    Columns and rows mean nothing where the depth is not above 0.05 m.

    Args:
        view: rigid transforms into the axes of the camera.
        K: pixels, pixel centres at integer coordinates.
        local: points, metres.
    """
    there = view[..., :3, :3] @ local + view[..., :3, 3:]
    depth = there[..., 2:, :]
    xp = space(there)
    return xp.concatenate(((K @ there)[..., :2, :] / xp.where(depth > 0.05, depth, 1), depth), axis=-2)


def flow_to(landed: Array, y: Array, x: Array) -> tuple[Array, Array, Array]:
    """Flow across and down, in pixels, and where it is known; elsewhere it is 0.

    The file format holds flow up to 512 px; nothing in a clip that can be learnt from moves farther.

    Args:
        landed: (3, ..., h, w), columns, rows and depth where each pixel goes.
        y: rows that it comes from.
        x: columns that it comes from.
    """
    xp = space(landed)
    u, v = landed[0] - x, landed[1] - y[:, None]
    known = (landed[2] > 0.05) & (abs(u) < 500) & (abs(v) < 500)
    return xp.where(known, u, 0), xp.where(known, v, 0), known


def _meet(solid: Solid, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Ray length from `origin` (3,) along `rays` (3, n), both in the solid's axes, to its surface; inf where missed."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if solid.shape == "ball":
            a, b = (rays * rays).sum(axis=0), origin @ rays
            return meet_ball(a, b, origin @ origin - solid.half[0] ** 2)
        half = solid.half.astype(rays.dtype)[:, None]
        return meet_box(origin[:, None], rays, half, from_inside=solid.shape == "room")


def meet_ball(a: Array, b: Array, c: Array) -> Array:
    """Length at which the ray o + length r enters a ball around 0; inf where it misses it.

    Args:
        a: r r.
        b: o r.
        c: o o - radius squared.
    """
    length = (-b - space(a).sqrt(b * b - a * c)) / a
    return space(a).where(length > 1e-6, length, np.inf)


def meet_box(origin: Array, rays: Array, half: Array, *, from_inside: bool) -> Array:
    """Length at which rays enter a box around 0; from inside, leave it; inf where they miss it.

    Args:
        origin: of the rays; broadcasts against them.
        rays: (3, ...), directions.
        half: extents; broadcasts against the rays.
        from_inside: whether the origin is in the box.
    """
    xp = space(rays)
    # Along a plane, infinity less infinity would say nothing: such a ray meets it very far away.
    rays = xp.where(rays == 0, 1e-12, rays)
    middle, reach = -origin / rays, abs(half / rays)
    # Three planes a pair: from inside, the nearest exit counts; from outside, the farthest entry before it.
    far = xp.amin(middle + reach, axis=0)
    if from_inside:
        return far
    near = xp.amax(middle - reach, axis=0)
    return xp.where((near <= far) & (near > 1e-6), near, np.inf)


def _windows(solid: Solid, t: int, scene: Scene, grid: Grid) -> Iterator[tuple[slice, slice]]:
    """Rows and columns that show the solid, in pieces: most solids cover few, and only these are worth casting."""
    u, v = _bounds(solid, scene.world_to_cam[t] @ solid.local_to_world[t], scene.K)
    rows, columns = _between(grid.y, *v), _between(grid.x, *u)
    # BLAS rounds a ball's origin @ rays by the number of rays: in one piece, or clips would change in their last bits.
    n_rays = (rows.stop - rows.start) * (columns.stop - columns.start)
    n_pieces = 1 if solid.shape in ("ball", "mesh") else -(-n_rays // PIECE)
    edges = np.linspace(rows.start, rows.stop, n_pieces + 1).astype(int)
    for first, stop in pairwise(edges):
        yield slice(first, stop), columns


def _bounds(solid: Solid, view: Float[np.ndarray, "4 4"], K: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "2 2"]:
    """Least and greatest u and v of what shows the solid; those of nothing when it is behind the camera.

    Of a ball those of the ball around its bounding box, wider than need be: with fewer rays BLAS rounds otherwise.
    """
    stretch = float(np.linalg.norm(view[:3, :3], ord=2))
    radius, centre = float(np.linalg.norm(solid.half)) * stretch, view[:3, 3]
    if solid.shape == "room" or -radius < centre[2] <= 1.5 * radius:
        return _ALL
    if centre[2] <= -radius:
        return np.full((2, 2), -np.inf)
    u, v = (K @ centre)[:2] / centre[2]
    if solid.shape == "ball":
        near = centre[2] - radius
        reach = K[0, 0] * radius / near * (1 + np.hypot(centre[0], centre[1]) / centre[2])
        return np.array([[u - reach, u + reach], [v - reach, v + reach]])
    corners = view[:3, :3] @ (_CORNERS * solid.half[:, None]) + centre[:, None]
    visible = (K @ corners)[:2] / corners[2]
    # What 32 bits round is far less than a pixel.
    return np.stack((visible.min(axis=1) - 1, visible.max(axis=1) + 1), axis=1)


def _between(positions: Float[np.ndarray, "n"], low: float, high: float) -> slice:
    return slice(int(np.searchsorted(positions, low)), int(np.searchsorted(positions, high, side="right")))
