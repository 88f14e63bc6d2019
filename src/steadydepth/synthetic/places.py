"""Many scenes at once, drawn at random, as tensors: what stands where, cameras, motion, surfaces and light."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from steadydepth.synthetic.placement import KINDS, Draw, Placed, Pool, View, heading, place_things, rigid, rotation

# How often each is drawn. Diversity teaches more than realism does (WMGStereo, arXiv 2504.16930).
SHARES = (0.37, 0.25, 0.13, 0.25)
FPS = 15.0
N_THINGS = 40  # of a scene, at most
SKY_M = 100.0  # the depth of the sky: what has no end is as far as the world goes


@dataclass(frozen=True)
class Scenes:
    """Scenes of t frames each. World axes: y down, the ground at y = 0; metres."""

    focal_px: Float[Tensor, "s"]  # of the camera, in widths of the image
    cam_to_world: Float[Tensor, "s t 4 4"]  # OpenCV axes
    model: Int64[Tensor, "s n"]  # number of the model of each thing
    pose: Float[Tensor, "s t n 4 4"]  # from the model's axes to the world, scale and tilt in it
    tint: Float[Tensor, "s n 3"]  # multiplied with the colour of each thing
    contrast: Float[Tensor, "s n"]  # power of the texture of each thing; near 0 it is plain
    texture: Int64[Tensor, "s n"]  # number of the texture that stands in place of its own; -1 for its own
    is_moving: Bool[Tensor, "s n"]  # things that move
    half_m: Float[Tensor, "s 3"]  # of the box that is seen from inside: x and z from -half to half, y from -2 half to 0
    outer_m: Float[Tensor, "s 3"]  # the same of what is behind its openings
    wall_texture: Int64[Tensor, "s 2 6"]  # of the six sides (x, y, z; low, high) of the room, and of the outer box
    wall_tint: Float[Tensor, "s 2 6 3"]  # multiplied with it
    wall_contrast: Float[Tensor, "s 2 6"]  # power of it; near 0 it is plain
    tile_m: Float[Tensor, "s 2 6"]  # side of one repeat of the texture on each of them
    # Low and high corner of windows and doors on the walls z and x, metres; empty ones have no extent.
    openings: Float[Tensor, "s 4 o 2 2"]
    sun: Float[Tensor, "s 3"]  # direction to it
    light: Float[Tensor, "s t 2 3"]  # of the sun, and of the sky
    lamps: Float[Tensor, "s l 3"]  # where they are
    lamp_light: Float[Tensor, "s t l 3"]  # their colour and power
    is_open: Bool[Tensor, "s"]  # scenes without walls and ceiling: the ground goes on, and above it is the sky
    sky: Float[Tensor, "s 2 3"]  # its colour above and at the horizon, in units of the light that falls on the ground

    def to(self, device: torch.device) -> "Scenes":
        """The same scenes on `device`."""
        return Scenes(**{name: part.to(device, non_blocking=True) for name, part in vars(self).items()})


def draw_scenes(seed: int, pool: Pool, *, n_scenes: int, n_frames: int) -> Scenes:
    """Scenes that belong to `seed`: the same seed and sizes, the same scenes.

    Args:
        seed: at least 0.
        pool: what they are drawn from.
        n_scenes: number of scenes.
        n_frames: frames of each.
    """
    draw = Draw(seed, n_scenes)
    view, pitch = _draw_views(draw)
    half, street = view.half_m, view.is_kind("street")
    place = place_things(draw, pool, view, N_THINGS)
    cameras = _move_camera(draw, n_frames, view, pitch)
    chance = torch.where(place.is_built_in, 0.0, torch.where(street, 0.35, 0.2)[:, None])
    pose, is_moving = _move_things(draw, n_frames, place, chance=chance)
    own = draw.happens(torch.where(pool.is_part[place.model], 0.0, 0.85), N_THINGS)
    texture = torch.where(own, -1, draw.whole(pool.n_textures, N_THINGS).gather(1, place.like))
    tint = _draw_tint(draw, N_THINGS).gather(1, place.like[..., None].expand(-1, -1, 3))
    lamps = draw.uniform(-0.9, 0.9, 3, 3) * half[:, None]
    lamps[..., 1] = -half[:, None, 1] * draw.uniform(1.2, 1.9, 3)
    flicker = (0.06 * draw.normal(n_frames, 1)).exp()
    is_open = street & draw.happens(0.7)
    outer = torch.maximum(half + 2, draw.uniform(6, 40, 3))
    return Scenes(
        focal_px=0.5 / torch.tan(0.5 * torch.deg2rad(draw.uniform(40, 100))),
        cam_to_world=cameras,
        model=place.model,
        pose=pose,
        tint=torch.where(own[..., None], 0.5 + 0.5 * tint, tint),
        contrast=torch.where(own, 1.0, draw.uniform(0.05, 1.2, N_THINGS).gather(1, place.like)),
        texture=texture,
        is_moving=is_moving,
        half_m=half,
        outer_m=torch.where(is_open[:, None], SKY_M, outer),
        wall_texture=_draw_walls(draw, pool),
        wall_tint=_draw_tint(draw, 2, 6),
        wall_contrast=draw.uniform(0.0, 1.1, 2, 6),
        tile_m=draw.uniform(0.4, 3.5, 2, 6) * torch.where(street, 3, 1)[:, None, None],
        openings=_draw_openings(draw, half, ~street),
        sun=torch.nn.functional.normalize(
            torch.stack((draw.normal(), -draw.uniform(0.5, 2.5), draw.normal()), -1), dim=-1
        ),
        light=_draw_light(draw, street, flicker),
        lamps=lamps,
        lamp_light=draw.uniform(0.2, 1.6, 1, 3, 1) * draw.uniform(0.7, 1.0, 1, 3, 3) * flicker[:, :, None],
        is_open=is_open,
        sky=_draw_sky(draw),
    )


def _draw_views(draw: Draw) -> tuple[View, Float[Tensor, "s"]]:
    """Rooms and where the camera is in them, and its pitch in radians."""
    kind = draw.pick(torch.tensor(SHARES).expand(draw.n, -1))
    _, table, _, street = (kind == i for i in range(len(KINDS)))
    half = torch.stack((draw.uniform(1.3, 5), draw.uniform(1.1, 1.8), draw.uniform(1.3, 5)), -1)
    half = torch.where(street[:, None], draw.uniform(12, 60, 3) * torch.tensor([1, 0.5, 1]), half)
    height = torch.where(street, draw.uniform(0.5, 3), draw.uniform(0.3, 1) * 1.7)
    yaw = draw.uniform(-math.pi, math.pi)
    ahead = heading(yaw)
    # From a wall the camera sees the room; of streets it sees one side.
    back = draw.uniform(0.1, 0.95)[:, None] * (half - 0.3).clamp(min=0.2) * torch.where(street, 0.4, 1)[:, None]
    eye = -ahead * back
    eye[:, 1] = -height
    pitch = torch.where(street, 0.05, 0.2) + torch.where(street, 0.08, 0.22) * draw.normal()
    # A table in front of the camera, looked down at, from a third of a metre to two metres away.
    table_top = draw.uniform(0.3, 1.0)
    near = draw.uniform(0.35, 1.6)
    above = near * draw.uniform(0.15, 0.9)
    eye[:, 1] = torch.where(table, -(table_top + above), eye[:, 1])
    pitch = torch.where(table, torch.atan2(above, near) + 0.12 * draw.normal(), pitch).clamp(-0.7, 1.0)
    centre = eye + ahead * near[:, None]
    centre[:, 1] = -table_top
    half[:, 1] = torch.maximum(half[:, 1], 0.5 * (-eye[:, 1]) + 0.15)
    return View(kind, half, eye, yaw, centre), pitch


def _move_camera(draw: Draw, n_frames: int, view: View, pitch: Tensor) -> Float[Tensor, "s t 4 4"]:
    """Held still, by hand, or carried along: one speed a clip, and a tremor."""
    level_m = (view.table - view.eye)[:, [0, 2]].norm(dim=-1)
    near = torch.where(view.is_kind("table"), level_m, 2.0)
    time = (torch.arange(n_frames) - (n_frames - 1) / 2)[None, :, None] / FPS
    moves = draw.happens(0.6)[:, None, None]
    speed = 0.35 * near[:, None, None] * draw.normal(1, 3) * moves
    turning = torch.tensor([0.35, 0.15, 0.1]) * draw.normal(1, 3) * moves
    tremor = 0.004 * draw.normal(n_frames, 6) * moves
    position = view.eye[:, None] + time * speed + tremor[..., :3] * near[:, None, None]
    # Hands hold a camera level, more or less; some turn it.
    roll = torch.where(draw.happens(0.2), 0.35, 0.06) * draw.normal()
    angles = torch.stack((view.yaw, pitch, roll), -1)[:, None] + time * turning + tremor[..., 3:]
    return rigid(rotation(*angles.unbind(dim=-1)), position)


def _move_things(
    draw: Draw, n_frames: int, place: Placed, *, chance: Tensor
) -> tuple[Float[Tensor, "s t n 4 4"], Bool[Tensor, "s n"]]:
    n = place.model.shape[1]
    time = (torch.arange(n_frames) - (n_frames - 1) / 2)[None, :, None, None] / FPS
    is_moving = draw.happens(chance, n)
    moving = is_moving[:, None, :, None]
    speed = draw.normal(1, n, 3) * torch.tensor([0.8, 0.25, 0.8])
    position = place.position[:, None] + time * speed * moving
    spin = time[..., 0] * (0.8 * draw.normal(1, n) * moving[..., 0])
    turn = rotation(spin, torch.zeros_like(spin), torch.zeros_like(spin)) @ place.turn[:, None]
    return rigid(turn * place.scale[:, None, :, None, :], position), is_moving


def _draw_tint(draw: Draw, *shape: int) -> Float[Tensor, "s *n 3"]:
    """Mostly greys, browns and pale colours, as indoors; a few are strong."""
    strength = torch.where(draw.happens(0.25, *shape, 1), 0.5, 0.12)
    warm = 0.12 * draw.normal(*shape, 1) * torch.tensor([1.0, 0.0, -1.0])
    colour = (strength * draw.normal(*shape, 3) + warm).exp()
    return (draw.uniform(0.15, 0.95, *shape, 1) * colour).clamp(0.02, 1)


def _draw_walls(draw: Draw, pool: Pool) -> Int64[Tensor, "s 2 6"]:
    """Floor and ceiling of their own; the four walls alike in most rooms."""
    texture = draw.whole(pool.n_textures, 2, 6)
    alike = draw.happens(0.7, 2, 1)
    walls = [0, 1, 4, 5]
    texture[..., walls] = torch.where(alike, texture[..., :1], texture[..., walls])
    return texture


def _draw_openings(draw: Draw, half: Tensor, is_room: Tensor) -> Float[Tensor, "s 4 o 2 2"]:
    """Windows and doors, none to two on each of the walls (x low, x high, z low, z high): (low, high) of (along, y)."""
    along = half[:, [2, 2, 0, 0]][..., None]
    middle = draw.uniform(-0.8, 0.8, 4, 2) * along
    is_door = draw.happens(0.4, 4, 2)
    wide = torch.where(is_door, draw.uniform(0.35, 0.5, 4, 2), draw.uniform(0.3, 1.2, 4, 2))
    low_y = torch.where(is_door, 0.0, draw.uniform(0.6, 1.1, 4, 2))
    high_y = torch.where(is_door, 2.05, low_y + draw.uniform(0.5, 1.4, 4, 2))
    is_there = draw.happens(0.3, 4, 2) & is_room[:, None, None]
    wide = torch.where(is_there, wide, -1.0)
    low = torch.stack((middle - wide, -high_y), -1)
    high = torch.stack((middle + wide, -low_y), -1)
    return torch.stack((low, high), dim=-2)


def _draw_light(draw: Draw, street: Tensor, flicker: Tensor) -> Float[Tensor, "s t 2 3"]:
    sun = draw.uniform(0.0, 1.2) * (0.4 + 0.6 * draw.happens(0.7)) + 0.6 * street
    sky = draw.uniform(0.2, 0.7) + 0.15 * street
    power = torch.stack((sun, sky), -1)[:, None, :, None] * flicker[..., None]
    return power * (1 + 0.12 * draw.normal(1, 2, 3))


def _draw_sky(draw: Draw) -> Float[Tensor, "s 2 3"]:
    """Colour above and at the horizon: blue, grey or of the evening, rarely dark; paler at the horizon."""
    blue, evening = torch.tensor([0.25, 0.5, 1.0]), torch.tensor([1.0, 0.6, 0.35])
    kind = draw.uniform(0, 1, 1)
    above = torch.where(kind < 0.6, blue, torch.where(kind < 0.9, 1.0, evening)) + 0.08 * draw.normal(3)
    power = draw.uniform(0.4, 1.4, 1) * torch.where(draw.happens(0.1, 1), 0.05, 1.0)
    horizon = above + draw.uniform(0.3, 1, 1) * (above.amax(dim=-1, keepdim=True) - above)
    return torch.stack((above, draw.uniform(0.8, 1.4, 1) * horizon), dim=1).clamp(min=0) * power[:, None]
