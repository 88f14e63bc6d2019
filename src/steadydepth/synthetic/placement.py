"""What stands where in many scenes at once, drawn at random: in rooms, on tables, in clutter and in streets."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

KINDS = ("room", "table", "clutter", "street")
BUILT_IN = 6  # things that a room with counters uses for them: front, worktop and wall cupboards along two walls


@dataclass(frozen=True)
class Pool:
    """What scenes are drawn from: how large each model is, and which kinds of scene it belongs to.

    Attributes:
        size_m: width, height and depth of each model.
        is_part: simple bodies that take any size.
        is_outdoor: vehicles, trees, people: they stand in streets.
    """

    size_m: Float[Tensor, "model 3"]
    is_part: Bool[Tensor, "model"]
    is_outdoor: Bool[Tensor, "model"]
    n_textures: int


class Draw:
    """Random tensors whose first axis is the scene, from one generator on the CPU: the same on every device."""

    def __init__(self, seed: int, n_scenes: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n = n_scenes

    def uniform(self, low: int | float | Tensor, high: int | float | Tensor, *shape: int) -> Tensor:
        share = torch.rand(self.n, *shape, generator=self.generator)
        return low + share * (high - low)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator)

    def happens(self, chance: float | Tensor, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator) < chance

    def whole(self, stop: int, *shape: int) -> Tensor:
        return torch.randint(stop, (self.n, *shape), generator=self.generator)

    def pick(self, weights: Tensor, *shape: int) -> Tensor:
        """Places of `weights` (s, k), drawn in proportion to them."""
        count = math.prod(shape) or 1
        return torch.multinomial(weights, count, replacement=True, generator=self.generator).view(self.n, *shape)


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Float[Tensor, "*n 3 3"]:
    """Roll about z, then pitch about x (positive looks down), then yaw about the vertical; y points down.

    Args:
        yaw: radians.
        pitch: radians.
        roll: radians.
    """
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = matrix((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    about_x = matrix((one, zero, zero), (zero, cp, sp), (zero, -sp, cp))
    about_z = matrix((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return about_y @ about_x @ about_z


def rigid(turn: Float[Tensor, "*n 3 3"], position: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 4 4"]:
    """Poses from rotations, which may scale as well, and positions."""
    pose = torch.zeros(*turn.shape[:-2], 4, 4)
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = turn, position, 1
    return pose


@dataclass(frozen=True)
class Placed:
    """Things where they stand.

    Attributes:
        model: number of the model of each.
        turn: rotation from its axes to the world's.
        scale: of its width, height and depth.
        position: of the middle of its underside, metres; y points down.
    """

    model: Int64[Tensor, "s n"]
    turn: Float[Tensor, "s n 3 3"]
    scale: Float[Tensor, "s n 3"]
    position: Float[Tensor, "s n 3"]


def place_things(
    draw: Draw,
    pool: Pool,
    n: int,
    kind: Tensor,
    half: Tensor,
    eye: Tensor,
    yaw: Tensor,
    centre: Tensor,
    table_top: Tensor,
) -> Placed:
    """Things of real size in rooms and streets; of the size that the view asks for on tables and in clutter.

    Args:
        draw: of the scenes.
        pool: the models.
        n: how many things a scene has.
        kind: place in `KINDS` of each scene.
        half: of the room, as in `Scenes`.
        eye: of the camera.
        yaw: of the camera, radians.
        centre: of the table top.
        table_top: its height, metres.
    """
    room, table, clutter, street = (kind == i for i in range(len(KINDS)))
    indoors = torch.where(pool.is_outdoor, 0.3, 1.0) * torch.where(pool.is_part, 12.0, 1.0)
    outdoors = torch.where(pool.is_outdoor, 6.0, 0.5) * torch.where(pool.is_part, 40.0, 1.0)
    model = draw.pick(torch.where(street[:, None], outdoors, indoors), n)
    size, part = pool.size_m[model], pool.is_part[model]
    longest = size.amax(dim=-1)

    # Simple bodies take any size: boards, boxes, poles, balls; buildings in streets.
    stretch = torch.exp(0.7 * draw.normal(n, 3) - 0.9)
    stretch = torch.where(street[:, None, None], stretch * draw.uniform(1, 8, n, 1), stretch)
    scale = torch.where(part[..., None], stretch, draw.uniform(0.85, 1.15, n, 1).expand(-1, -1, 3))
    # Of a table's things the longest side counts; in clutter all is of any size.
    small = draw.uniform(0.04, 0.4, n) * centre.sub(eye).norm(dim=-1)[:, None]
    any_size = torch.exp(0.8 * draw.normal(n) - 0.7)
    real = torch.ones_like(longest)
    wanted = torch.where(table[:, None], small, torch.where(clutter[:, None], any_size, real))
    is_resized = (table | clutter)[:, None] | draw.happens(0.15, n)
    wanted = torch.where(is_resized & room[:, None], any_size.clamp(max=2), wanted)
    factor = torch.where(is_resized, wanted / (longest * scale.amax(dim=-1)).clamp(min=1e-3), 1)
    extent = size * scale * factor[..., None]
    # What is larger than the room is made smaller.
    fits = (1.6 * half[:, None] / extent.clamp(min=1e-3)).amin(dim=-1).clamp(max=1)
    scale, extent = scale * (factor * fits)[..., None], extent * fits[..., None]

    reach = torch.where(street, 40.0, 9.0)[:, None]
    distance = torch.exp(draw.uniform(0.0, 1.0, n) * torch.log(reach / 0.7)) * 0.7
    angle = yaw[:, None] + draw.uniform(-0.75, 0.75, n)
    spot = eye[:, None] + distance[..., None] * torch.stack((angle.sin(), torch.zeros_like(angle), angle.cos()), -1)
    limit = (half[:, None] - 0.5 * extent.amax(dim=-1, keepdim=True)).clamp(min=0.1)
    spot = torch.maximum(torch.minimum(spot, limit), -limit)
    turn_y = draw.uniform(-math.pi, math.pi, n)
    # Against the nearest wall, its front to the room, as furniture mostly stands.
    at_wall = draw.happens(0.45, n) & room[:, None]
    along = (half[:, None] - spot.abs())[..., [0, 2]].argmin(dim=-1) * 2
    wall = torch.nn.functional.one_hot(along, 3).bool()
    against = (half[:, None] - 0.5 * extent[..., 2:] - 0.01) * spot.sign()
    spot = torch.where(at_wall[..., None] & wall, against, spot)
    # A model's front looks to -z: from a wall at +z it looks into the room as it is.
    quarter = torch.where(along == 2, torch.where(spot[..., 2] > 0, 0.0, math.pi), -spot[..., 0].sign() * -math.pi / 2)
    turn_y = torch.where(at_wall, quarter, turn_y)
    # Something hangs, or stands on something else.
    lift = draw.uniform(0.3, 2.0, n) * draw.happens(torch.where(room, 0.3, 0.05)[:, None], n)
    lift = torch.where(clutter[:, None], draw.uniform(0, 1, n) * 2 * half[:, 1:2], lift)
    lift = torch.minimum(lift, (2 * half[:, 1:2] - extent[..., 1]).clamp(min=0))
    tilt = draw.uniform(-math.pi, math.pi, n, 2) * (clutter[:, None] | draw.happens(0.05, n))[..., None]

    # Around the middle of the table, mostly on it; the first thing is the table, the second what stands behind it.
    spread = centre.sub(eye).norm(dim=-1)[:, None, None] * draw.normal(n, 3) * torch.tensor([0.45, 0.0, 0.45])
    on_table = table[:, None] & draw.happens(0.8, n)
    spot = torch.where(on_table[..., None], centre[:, None] + spread, spot)
    lift = torch.where(on_table, table_top[:, None], lift)
    near = on_table & ((spot - eye[:, None]).norm(dim=-1) < 0.6 * extent.amax(dim=-1) + 0.1)
    spot = torch.where(near[..., None], spot + 100, spot)  # out of sight: it would hide all else

    board = torch.stack((draw.uniform(0.5, 2), torch.full((draw.n,), 0.04), draw.uniform(0.4, 1.2)), -1)
    first = torch.zeros(draw.n, n, dtype=torch.bool)
    first[:, 0] = table
    box = int(pool.is_part.nonzero()[0])
    model = torch.where(first, box, model)
    scale = torch.where(first[..., None], board[:, None] / pool.size_m[box], scale)
    spot = torch.where(first[..., None], centre[:, None], spot)
    lift = torch.where(first, table_top[:, None] - 0.04, lift)
    tilt = torch.where(first[..., None], 0.0, tilt)
    # What the camera is in, or nearly, is not worth drawing.
    apart = (spot - eye[:, None])[..., [0, 2]].norm(dim=-1) - 0.5 * extent.amax(dim=-1)
    spot = torch.where(((apart < 0.25) & ~on_table & ~first)[..., None], spot + 100, spot)
    position = spot.clone()
    position[..., 1] = -lift
    return Placed(model, rotation(turn_y, tilt[..., 0], tilt[..., 1]), scale, position)


def add_counters(
    draw: Draw, pool: Pool, place: Placed, half: Tensor, ahead: Tensor, is_there: Bool[Tensor, "s"]
) -> Placed:
    """Cupboards along the wall ahead and the one beside it, from their corner on, as in kitchens and offices.

    They take the place of the first `BUILT_IN` things; small ones of the others stand on the worktops.

    Args:
        draw: of the scenes.
        pool: the models.
        place: the things without counters.
        half: of the room, as in `Scenes`.
        ahead: direction in which the camera looks, level.
        is_there: scenes that have counters.
    """
    n = place.model.shape[1]
    flat = ahead[:, [0, 2]]
    first = flat.abs().argmax(dim=-1)
    walls = torch.stack((first, 1 - first), -1)  # axis of the wall: x or z
    to_wall = torch.where(flat >= 0, 1.0, -1.0)
    across = torch.nn.functional.one_hot(walls, 2).float()  # to the wall, and 1 - across along it
    room = half[:, None, [0, 2]]
    share, depth, height = draw.uniform(0.4, 1, 2, 1), draw.uniform(0.4, 0.7, 1, 1), draw.uniform(0.65, 1.05, 1)
    gap, wall_height = draw.uniform(0.35, 0.6, 1), draw.uniform(0.4, 0.9, 1)

    def row(deep: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Extent and position of a box along each of the two walls."""
        wide = across * deep + (1 - across) * share * 2 * room
        middle = to_wall[:, None] * (room - 0.5 * wide - 0.003)
        tall, bottom = (high - low).expand(-1, 2), low.expand(-1, 2)
        return (
            torch.stack((wide[..., 0], tall, wide[..., 1]), -1),
            torch.stack((middle[..., 0], -bottom, middle[..., 1]), -1),
        )

    rows = [
        row(depth, torch.zeros_like(height), height),
        row(depth + 0.03, height, height + 0.04),
        row(0.6 * depth, height + gap, height + gap + wall_height),
    ]
    extent, position = (torch.stack(part, dim=2).flatten(1, 2) for part in zip(*rows, strict=True))
    shown = torch.stack((is_there, is_there & draw.happens(0.6)), -1)[..., None].repeat(1, 1, 3)
    shown[..., 2] &= draw.happens(0.5, 1)
    position = torch.where(shown.flatten(1)[..., None], position, position + 100)  # out of sight
    # On a worktop: somewhere along it, as deep as its middle.
    top = rows[1]
    which = draw.whole(2, n)[..., None].expand(-1, -1, 3)
    wide, middle = top[0].gather(1, which), top[1].gather(1, which)
    spot = middle + 0.45 * wide * draw.uniform(-1, 1, n, 3) * torch.tensor([1.0, 0.0, 1.0])
    spot[..., 1] = -height - 0.04
    small = (pool.size_m[place.model] * place.scale).amax(dim=-1) < 0.7
    stands = is_there[:, None] & small & draw.happens(0.7, n)
    built_in = is_there[:, None] & (torch.arange(n) < BUILT_IN)
    box = int(pool.is_part.nonzero()[0])

    def with_counter(values: Tensor, others: Tensor) -> Tensor:
        full = torch.cat((values, others[:, BUILT_IN:]), dim=1)
        return torch.where(built_in.view(*built_in.shape, *(1,) * (others.dim() - 2)), full, others)

    return Placed(
        with_counter(torch.full((draw.n, BUILT_IN), box), place.model),
        with_counter(torch.eye(3).expand(draw.n, BUILT_IN, 3, 3), place.turn),
        with_counter(extent / pool.size_m[box], place.scale),
        with_counter(position, torch.where(stands[..., None], spot, place.position)),
    )
