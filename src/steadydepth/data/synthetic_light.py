"""Light that the surfaces of the synthetic world send to the camera: texture, ambient light and a lamp."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64

from steadydepth.data.synthetic_rays import Grid, Hits, points
from steadydepth.data.synthetic_scene import TEXELS, TEXELS_PER_METRE, Scene, Solid

SUPERSAMPLING = 2  # colour rays a pixel side: edges and textures are averaged as a sensor would
LEVELS = 5  # blurred copies of a texture at most, each half as sharp as the one before


@dataclass(frozen=True)
class Surface:
    """What a frame's light follows from, at each pixel: reflectance, and the light of a lamp of power 1 there."""

    albedo: Float32[np.ndarray, "3 n"]
    cosine: Float64[np.ndarray, "n"]  # of the angle between the normal and the lamp, at least 0
    falloff: Float64[np.ndarray, "n"]  # with the distance of the lamp; the light is divided by it


def blur_textures(scene: Scene) -> list[Float32[np.ndarray, "level texel texel 3"]]:
    """Of each solid the texture and its blurred copies, as many as the farthest corner of the room asks for."""
    farthest = 2 * np.linalg.norm(scene.solids[0].half)
    n_levels = 1 + int(_level(np.array([farthest]), scene.K[0, 0])[0])
    return [blur_levels(solid.texture, n_levels) for solid in scene.solids]


def blur_levels(texture: Float32[np.ndarray, "texel texel 3"], n_levels: int) -> np.ndarray:
    """A texture that wraps around and its blurred copies, in all `n_levels`."""
    levels = [texture]
    for level in range(1, n_levels):
        margin = 2 ** (level + 1)
        padded = np.pad(texture, ((margin, margin), (margin, margin), (0, 0)), mode="wrap")
        blurred = cv2.GaussianBlur(padded, (0, 0), 0.5 * 2**level)
        levels.append(blurred[margin:-margin, margin:-margin])
    return np.stack(levels)


def find_surface(
    scene: Scene,
    t: int,
    grid: Grid,
    hits: Hits,
    solids: list[int],
    textures: list[Float32[np.ndarray, "level texel texel 3"]],
    onto: Surface | None = None,
) -> Surface:
    """The surface at each hit of frame `t` on `solids`; elsewhere that of `onto`."""
    n = hits.depth.size
    surface = (
        Surface(np.empty((3, n), np.float32), np.empty(n), np.empty(n))
        if onto is None
        else Surface(onto.albedo.copy(), onto.cosine.copy(), onto.falloff.copy())
    )
    for i in solids:
        solid, lamp = scene.solids[i], _lamp_in(scene.solids[i], t, scene)
        eye = (solid.world_to_local[t] @ scene.cam_to_world[t])[:3, 3:]
        for pixels, local in points(scene, t, grid, hits, i):
            to_lamp = lamp - local
            squared = to_lamp[0] * to_lamp[0] + to_lamp[1] * to_lamp[1] + to_lamp[2] * to_lamp[2]
            if solid.triangles is None:
                across, along, facing = _lay_out(solid, local, to_lamp)
            else:
                seen = solid.triangles[hits.triangle.ravel()[pixels]]
                across, along, facing = _lay_out_mesh(seen, local, to_lamp, eye)
            level = _level(hits.depth.ravel()[pixels], scene.K[0, 0])
            for plane, values in zip(surface.albedo, _look_up(textures[i], across, along, level), strict=True):
                plane[pixels] = values
            surface.cosine[pixels] = np.clip(facing / np.sqrt(squared), 0, 1)
            surface.falloff[pixels] = 0.5 + 0.15 * squared
    return surface


def shade(scene: Scene, t: int, surface: Surface, grid: Grid) -> Float32[np.ndarray, "h w 3"]:
    """Light that each pixel receives in frame `t`: ambient, and a lamp that falls off with distance."""
    light = (scene.ambient + scene.lamp_power[t] * surface.cosine / surface.falloff).astype(np.float32)
    return cv2.merge([(albedo * light).reshape(len(grid.y), len(grid.x)) for albedo in surface.albedo])


def _lamp_in(solid: Solid, t: int, scene: Scene) -> Float64[np.ndarray, "3 1"]:
    """The lamp brought into the solid's axes, rather than every point into the world's.

    What is stretched is lit as if it were not: that is light, and no label.
    """
    rotation, position = solid.local_to_world[t][:3, :3], solid.local_to_world[t][:3, 3:]
    return rotation.T @ (scene.lamp[:, None] - position)


def _lay_out(solid: Solid, local: np.ndarray, to_lamp: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texel coordinates (n,) across and along the surface at points (3, n) of the solid, and normal times `to_lamp`.

    Along a face the two axes of the face; on a ball the angles times the radius.
    """
    if solid.shape == "ball":
        normal = local / solid.half[0]
        across = np.arctan2(normal[0], normal[2]) * solid.half[0] * TEXELS_PER_METRE
        along = np.arccos(np.clip(normal[1], -1, 1)) * solid.half[0] * TEXELS_PER_METRE
        return across, along, (to_lamp * normal).sum(axis=0)
    x, y, z = np.abs(local / solid.half[:, None])
    is_side = (x >= y) & (x >= z)
    is_floor = ~is_side & (y >= z)
    across, along, faced, lamp = local[0].copy(), local[1].copy(), local[2].copy(), to_lamp[2].copy()
    for axis, is_face in enumerate((is_side, is_floor)):
        np.copyto(across if axis == 0 else along, local[2], where=is_face)
        np.copyto(faced, local[axis], where=is_face)
        np.copyto(lamp, to_lamp[axis], where=is_face)
    # Faces start at different places of the texture, so that the edges of a box can be seen.
    start = np.where(is_side, 0.0, np.where(is_floor, 37.0, 74.0))
    facing = lamp * np.sign(faced)
    return (
        across * TEXELS_PER_METRE + start,
        along * TEXELS_PER_METRE + start,
        -facing if solid.shape == "room" else facing,
    )


def _lay_out_mesh(
    triangles: Float64[np.ndarray, "n 3 3"], local: np.ndarray, to_lamp: np.ndarray, eye: Float64[np.ndarray, "3 1"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `_lay_out`, of points each on its triangle; the normal is on the side of the `eye`.

    The texture lies along the two axes that the triangle faces least.
    """
    normal = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]).T
    normal *= np.sign((normal * (eye - local)).sum(axis=0)) / np.maximum(np.linalg.norm(normal, axis=0), 1e-300)
    faced = np.abs(normal).argmax(axis=0)
    across, along = np.where(faced == 0, local[2], local[0]), np.where(faced == 1, local[2], local[1])
    return across * TEXELS_PER_METRE, along * TEXELS_PER_METRE, (normal * to_lamp).sum(axis=0)


def _level(depth: np.ndarray, focal_px: float) -> np.ndarray:
    """The blur level of the texture that fits each depth.

    One texel of level l covers 2 ** l texels; a colour ray covers depth / focal metres, less what supersampling adds.
    """
    footprint = depth / (focal_px * SUPERSAMPLING) * TEXELS_PER_METRE
    # The exponent of a float is its base-2 logarithm, rounded up, and needs no logarithm.
    return np.clip(np.frexp(footprint)[1], 0, LEVELS - 1).astype(np.int64)


def _look_up(
    texture: Float32[np.ndarray, "level texel texel 3"], across: np.ndarray, along: np.ndarray, level: np.ndarray
) -> Float32[np.ndarray, "3 n"]:
    """Bilinear texture values; the texture wraps around."""
    low_x, low_y = np.floor(across), np.floor(along)
    right, down = (across - low_x).astype(np.float32), (along - low_y).astype(np.float32)
    left, up = 1 - right, 1 - down
    # A remainder, as TEXELS is a power of two.
    x0, y0 = low_x.astype(np.int64) & (TEXELS - 1), low_y.astype(np.int64) & (TEXELS - 1)
    x1, y1 = (x0 + 1) & (TEXELS - 1), (y0 + 1) & (TEXELS - 1)
    row0, row1 = (level * TEXELS + y0) * TEXELS, (level * TEXELS + y1) * TEXELS
    corners = [3 * (row + x) for row in (row0, row1) for x in (x0, x1)]
    values = np.empty((3, len(level)), np.float32)
    for channel, value in enumerate(values):
        # Clipping clips nothing, and spares the check of each index.
        a, b, c, d = (texture.ravel()[channel:].take(corner, mode="clip") for corner in corners)
        value[:] = (a * left + b * right) * up + (c * left + d * right) * down
    return values
