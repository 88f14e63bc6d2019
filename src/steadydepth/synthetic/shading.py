"""Light that the surfaces of the synthetic world send to the camera: texture, ambient light and a lamp."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64

from steadydepth.synthetic.rays import Array, Grid, Hits, points, space
from steadydepth.synthetic.scene import TEXELS, TEXELS_PER_METRE, Scene, Solid

SUPERSAMPLING = 2  # colour rays a pixel side: edges and textures are averaged as a sensor would
LEVELS = 5  # blurred copies of a texture at most, each half as sharp as the one before


@dataclass(frozen=True)
class Surface:
    """What a frame's light follows from, at each pixel: reflectance, and the light of a lamp of power 1 there."""

    albedo: Float32[np.ndarray, "3 n"]
    cosine: Float64[np.ndarray, "n"]  # of the angle between the normal and the lamp, at least 0
    falloff: Float64[np.ndarray, "n"]  # with the distance of the lamp; the light is divided by it


def rays_through(pixels: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "m"]:
    """Where the rays of colour go through the rows or columns `pixels`."""
    within = (np.arange(SUPERSAMPLING) + 0.5) / SUPERSAMPLING - 0.5
    return (pixels[:, None] + within).ravel().astype(np.float32)


def blur_textures(scene: Scene) -> list[Float32[np.ndarray, "level texel texel 3"]]:
    """Of each solid the texture and its blurred copies, as many as the farthest corner of the room asks for."""
    farthest = 2 * np.linalg.norm(scene.solids[0].half)
    n_levels = 1 + int(level_of(np.array([farthest]), scene.K[0, 0])[0])
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
    """The surface at each hit of a frame on some solids.

    Args:
        scene: what stands where.
        t: number of the frame.
        grid: the rays.
        hits: what they meet first.
        solids: numbers of those that are asked for.
        textures: of each solid, blurred more from level to level.
        onto: the surface elsewhere.
    """
    n = hits.depth.size
    surface = Surface(np.empty((3, n), np.float32), np.empty(n), np.empty(n))
    if onto is not None:
        surface = Surface(onto.albedo.copy(), onto.cosine.copy(), onto.falloff.copy())
    for i in solids:
        solid, lamp = scene.solids[i], lamp_in(scene.solids[i], t, scene)
        eye = (solid.world_to_local[t] @ scene.cam_to_world[t])[:3, 3:]
        for pixels, local in points(scene, t, grid, hits, i):
            to_lamp = lamp - local
            if solid.triangles is not None:
                visible = solid.normals[:, hits.triangle.ravel()[pixels]]
                across, along, facing = lay_out_mesh(visible, local, to_lamp, eye)
            elif solid.shape == "ball":
                across, along, facing = lay_out_ball(solid.half[0], local, to_lamp)
            else:
                across, along, facing = lay_out_box(solid.half[:, None], local, to_lamp)
                facing = -facing if solid.shape == "room" else facing
            level = level_of(hits.depth.ravel()[pixels], scene.K[0, 0])
            for plane, values in zip(surface.albedo, look_up(textures[i], across, along, level), strict=True):
                plane[pixels] = values
            surface.cosine[pixels], surface.falloff[pixels] = lamp_light(facing, to_lamp)
    return surface


def lamp_light(facing: Array, to_lamp: Array) -> tuple[Array, Array]:
    """Cosine and falloff of a `Surface`, from the normal times `to_lamp` (3, ...), the path to the lamp in metres."""
    squared = to_lamp[0] * to_lamp[0] + to_lamp[1] * to_lamp[1] + to_lamp[2] * to_lamp[2]
    xp = space(squared)
    return xp.clip(facing / xp.sqrt(squared), 0, 1), 0.5 + 0.15 * squared


def shade(scene: Scene, t: int, surface: Surface, grid: Grid) -> Float32[np.ndarray, "h w 3"]:
    """Light that each pixel receives in frame `t`: ambient, and a lamp that falls off with distance.

    Args:
        scene: gives ambient light and lamp.
        t: number of the frame.
        surface: at the first hit of each ray.
        grid: the rays.

    Returns: linear light.
    """
    light = (scene.ambient + scene.lamp_power[t] * surface.cosine / surface.falloff).astype(np.float32)
    return cv2.merge([(albedo * light).reshape(len(grid.y), len(grid.x)) for albedo in surface.albedo])


def lamp_in(solid: Solid, t: int, scene: Scene) -> Float64[np.ndarray, "3 1"]:
    """The lamp in the axes of a solid, where its points are; one that is stretched is lit as if it were not.

    Args:
        solid: that is lit.
        t: number of the frame.
        scene: gives the lamp.
    """
    rotation, position = solid.local_to_world[t][:3, :3], solid.local_to_world[t][:3, 3:]
    return rotation.T @ (scene.lamp[:, None] - position)


def lay_out_ball(radius: Array, local: Array, to_lamp: Array) -> tuple[Array, Array, Array]:
    """Texel coordinates across and along a ball at points (3, ...) in its axes, and its normal times `to_lamp`.

    The angles times the radius.

    Args:
        radius: metres.
        local: points on it, metres.
        to_lamp: from each point, metres.
    """
    xp, normal = space(local), local / radius
    across = xp.arctan2(normal[0], normal[2]) * radius * TEXELS_PER_METRE
    along = xp.arccos(xp.clip(normal[1], -1, 1)) * radius * TEXELS_PER_METRE
    return across, along, (to_lamp * normal).sum(axis=0)


def lay_out_box(half: Array, local: Array, to_lamp: Array) -> tuple[Array, Array, Array]:
    """As `lay_out_ball`, of a box: along a face the two axes of the face.

    Args:
        half: extents, metres.
        local: points on it, metres.
        to_lamp: from each point, metres.
    """
    xp = space(local)
    x, y, z = abs(local / half)
    is_side = (x >= y) & (x >= z)
    is_floor = ~is_side & (y >= z)
    across, along = xp.where(is_side, local[2], local[0]), xp.where(is_floor, local[2], local[1])
    faced = xp.where(is_side, local[0], xp.where(is_floor, local[1], local[2]))
    lamp = xp.where(is_side, to_lamp[0], xp.where(is_floor, to_lamp[1], to_lamp[2]))
    # Faces start at different places of the texture, so that the edges of a box are visible.
    start = xp.where(is_side, 0.0, xp.where(is_floor, 37.0, 74.0))
    return across * TEXELS_PER_METRE + start, along * TEXELS_PER_METRE + start, lamp * xp.sign(faced)


def lay_out_mesh(normal: Array, local: Array, to_lamp: Array, eye: Array) -> tuple[Array, Array, Array]:
    """As `lay_out_ball`, of points on triangles; the texture lies along the two axes that the triangle faces least.

    Args:
        normal: of the triangle at each point, of any length and sign.
        local: points on them, metres.
        to_lamp: from each point, metres.
        eye: the camera, that the lit side faces.
    """
    xp = space(normal)
    length = xp.sqrt((normal * normal).sum(axis=0))
    normal = normal * (xp.sign((normal * (eye - local)).sum(axis=0)) / xp.clip(length, 1e-300, None))
    faced = abs(normal).argmax(axis=0)
    across, along = xp.where(faced == 0, local[2], local[0]), xp.where(faced == 1, local[2], local[1])
    return across * TEXELS_PER_METRE, along * TEXELS_PER_METRE, (normal * to_lamp).sum(axis=0)


def level_of(depth: Array, focal_px: float) -> Array:
    """The blur level of the texture that fits each depth.

    One texel of level l covers 2 ** l texels; a colour ray covers depth / focal metres, less what supersampling adds.
    """
    footprint = depth / (focal_px * SUPERSAMPLING) * TEXELS_PER_METRE
    # The exponent of a float is its base-2 logarithm, rounded up, and needs no logarithm.
    return space(depth).clip(space(depth).frexp(footprint)[1], 0, LEVELS - 1)


def look_up(textures: Array, across: Array, along: Array, level: Array) -> list[Array]:
    """Bilinear values of each colour in `textures` (level, texel, texel, 3), which wrap around.

    Args:
        textures: (level, texel, texel, 3), which wrap around.
        across: texel coordinates.
        along: texel coordinates.
        level: of each point; 0 is the sharpest.
    """
    xp = space(across)
    low_x, low_y = xp.floor(across), xp.floor(along)
    right, down = (xp.asarray(part, dtype=xp.float32) for part in (across - low_x, along - low_y))
    left, up = 1 - right, 1 - down
    # A remainder, as TEXELS is a power of two.
    x0, y0 = (xp.asarray(low, dtype=xp.int64) & (TEXELS - 1) for low in (low_x, low_y))
    x1, y1 = (x0 + 1) & (TEXELS - 1), (y0 + 1) & (TEXELS - 1)
    row0, row1 = (level * TEXELS + y0) * TEXELS, (level * TEXELS + y1) * TEXELS
    corners, colours = [3 * (row + x) for row in (row0, row1) for x in (x0, x1)], []
    for channel in range(3):
        a, b, c, d = (_take(textures.reshape(-1)[channel:], corner) for corner in corners)
        colours.append((a * left + b * right) * up + (c * left + d * right) * down)
    return colours


def _take(values: Array, places: Array) -> Array:
    # Clipping clips nothing, and spares NumPy the check of each place.
    return values.take(places, mode="clip") if isinstance(values, np.ndarray) else values[places]
