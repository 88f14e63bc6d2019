"""What stands where in many scenes at once, drawn at random: in rooms, on tables, in clutter and in streets."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

KINDS = ("room", "table", "clutter", "street")
_COUNTER_LIKE = (0, 1, 0, 0, 1, 0)  # front, worktop and wall cupboards, along two walls
_CASE_LIKE = (1, 1, 1, 1, 1)  # back, sides, top and lip; the first thing is the table
_OUT_OF_SIGHT_M = 100


@dataclass(frozen=True)
class Pool:
    """What scenes are drawn from: how large each model is, and which kinds of scene it belongs to."""

    size_m: Float[Tensor, "model 3"]  # width, height and depth of each model
    is_part: Bool[Tensor, "model"]  # simple bodies that take any size
    is_outdoor: Bool[Tensor, "model"]  # vehicles, trees, people: they stand in streets
    n_textures: int


class Draw:
    """Random tensors whose first axis is the scene, from one generator on the CPU: the same on every device.

    Args:
        seed: at least 0.
        n_scenes: how many scenes; each method takes the further axes as `shape`.
    """

    def __init__(self, seed: int, n_scenes: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.n = n_scenes

    def uniform(self, low: int | float | Tensor, high: int | float | Tensor, *shape: int) -> Tensor:
        """Numbers that are equally likely.

        Args:
            low: the smallest.
            high: the largest.
            shape: further axes.
        """
        share = torch.rand(self.n, *shape, generator=self.generator)
        return low + share * (high - low)

    def normal(self, *shape: int) -> Tensor:
        """Numbers of mean 0 and standard deviation 1."""
        return torch.randn(self.n, *shape, generator=self.generator)

    def happens(self, chance: float | Tensor, *shape: int) -> Tensor:
        """True in that share of all."""
        return torch.rand(self.n, *shape, generator=self.generator) < chance

    def whole(self, stop: int, *shape: int) -> Tensor:
        """Whole numbers from 0 on, below `stop`."""
        return torch.randint(stop, (self.n, *shape), generator=self.generator)

    def pick(self, weights: Tensor, *shape: int) -> Tensor:
        """Numbers of columns, drawn in proportion to their weights (s, k)."""
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


def heading(yaw: Float[Tensor, "*n"]) -> Float[Tensor, "*n 3"]:
    """The level direction at that angle about the vertical, radians."""
    return torch.stack((yaw.sin(), torch.zeros_like(yaw), yaw.cos()), -1)


def rigid(turn: Float[Tensor, "*n 3 3"], position: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 4 4"]:
    """Poses from rotations, which may scale as well, and positions."""
    pose = torch.zeros(*turn.shape[:-2], 4, 4)
    pose[..., :3, :3], pose[..., :3, 3], pose[..., 3, 3] = turn, position, 1
    return pose


@dataclass(frozen=True)
class Placed:
    """Things where they stand."""

    model: Int64[Tensor, "s n"]  # number of the model of each
    turn: Float[Tensor, "s n 3 3"]  # rotation from its axes to the world's
    scale: Float[Tensor, "s n 3"]  # of its width, height and depth
    position: Float[Tensor, "s n 3"]  # of the middle of its underside, metres; y points down
    like: Int64[Tensor, "s n"]  # number of the thing whose colour and texture it has
    is_built_in: Bool[Tensor, "s n"]  # part of a counter or a case, which never moves


@dataclass(frozen=True)
class View:
    """What the camera of each scene looks at."""

    kind: Int64[Tensor, "s"]  # place in `KINDS`
    half_m: Float[Tensor, "s 3"]  # of the room, as in `Scenes`
    eye: Float[Tensor, "s 3"]  # where the camera is, metres
    yaw: Float[Tensor, "s"]  # of the camera, radians
    table: Float[Tensor, "s 3"]  # middle of the table top, where there is a table

    def is_kind(self, name: str) -> Bool[Tensor, "s"]:
        """Which scenes are of a kind of `KINDS`."""
        return self.kind == KINDS.index(name)

    @property
    def ahead(self) -> Float[Tensor, "s 3"]:
        """Where the camera looks, level."""
        return heading(self.yaw)

    @property
    def to_table(self) -> Float[Tensor, "s"]:
        """From the camera to the middle of the table top, metres."""
        return (self.table - self.eye).norm(dim=-1)


def place_things(draw: Draw, pool: Pool, view: View, n: int) -> Placed:
    """Things of real size in rooms and streets; of the size that the view asks for on tables and in clutter.

    Args:
        draw: of the scenes.
        pool: the models.
        view: what the cameras look at.
        n: how many things a scene has.
    """
    model, scale = _pick_models(draw, pool, view, n)
    extent = pool.size_m[model] * scale
    spot, turn = _pick_spots(draw, view, extent)
    lift, tilt = _pick_lifts(draw, view, extent)
    spot[..., 1] = -lift
    tilt[view.is_kind("table"), 0] = 0  # the table itself
    like = torch.arange(n).expand(draw.n, -1)
    place = Placed(model, rotation(turn, tilt[..., 0], tilt[..., 1]), scale, spot, like, torch.zeros_like(like) > 0)
    place = _set_table(draw, pool, view, place)
    place = _add_counters(draw, pool, view, place, view.is_kind("room") & draw.happens(0.4))
    return _add_cases(draw, pool, view, place, view.is_kind("table") & draw.happens(0.4))


def _pick_models(draw: Draw, pool: Pool, view: View, n: int) -> tuple[Tensor, Tensor]:
    """Models and their scale."""
    room, table, clutter, street = (view.is_kind(name)[:, None] for name in KINDS)
    indoors = torch.where(pool.is_outdoor, 0.3, 1.0) * torch.where(pool.is_part, 12.0, 1.0)
    outdoors = torch.where(pool.is_outdoor, 6.0, 0.5) * torch.where(pool.is_part, 40.0, 1.0)
    model = draw.pick(torch.where(street, outdoors, indoors), n)
    size, part = pool.size_m[model], pool.is_part[model]
    # Simple bodies take any size: boards, boxes, poles, balls; buildings in streets.
    stretch = torch.exp(0.7 * draw.normal(n, 3) - 0.9)
    stretch = torch.where(street[..., None], stretch * draw.uniform(1, 8, n, 1), stretch)
    scale = torch.where(part[..., None], stretch, draw.uniform(0.85, 1.15, n, 1).expand(-1, -1, 3))
    # Of a table's things the longest side counts; in clutter, and of some in rooms, all is of any size.
    small = draw.uniform(0.04, 0.4, n) * view.to_table[:, None]
    any_size = torch.exp(0.8 * draw.normal(n) - 0.7)
    is_resized = table | clutter | draw.happens(0.15, n)
    wanted = torch.where(table, small, torch.where(clutter, any_size, 1.0))
    wanted = torch.where(is_resized & room, any_size.clamp(max=2), wanted)
    longest = size.amax(dim=-1) * scale.amax(dim=-1)
    scale = scale * torch.where(is_resized, wanted / longest.clamp(min=1e-3), 1)[..., None]
    # What is larger than the room is made smaller.
    fits = (1.6 * view.half_m[:, None] / (size * scale).clamp(min=1e-3)).amin(dim=-1).clamp(max=1)
    return model, scale * fits[..., None]


def _pick_spots(draw: Draw, view: View, extent: Float[Tensor, "s n 3"]) -> tuple[Tensor, Tensor]:
    """Spots on the floor, near ones as often as far ones, and angles about the vertical; many stand against a wall."""
    n, half = extent.shape[1], view.half_m[:, None]
    reach = torch.where(view.is_kind("street"), 40.0, 9.0)[:, None]
    distance = torch.exp(draw.uniform(0.0, 1.0, n) * torch.log(reach / 0.7)) * 0.7
    angle = view.yaw[:, None] + draw.uniform(-0.75, 0.75, n)
    spot = view.eye[:, None] + distance[..., None] * heading(angle)
    limit = (half - 0.5 * extent.amax(dim=-1, keepdim=True)).clamp(min=0.1)
    spot = torch.maximum(torch.minimum(spot, limit), -limit)
    turn = draw.uniform(-math.pi, math.pi, n)
    # Against the nearest wall, its front to the room, as furniture mostly stands.
    at_wall = draw.happens(0.45, n) & view.is_kind("room")[:, None]
    along = (half - spot.abs())[..., [0, 2]].argmin(dim=-1) * 2
    wall = torch.nn.functional.one_hot(along, 3).bool()
    against = (half - 0.5 * extent[..., 2:] - 0.01) * spot.sign()
    spot = torch.where(at_wall[..., None] & wall, against, spot)
    # A model's front looks to -z: from a wall at +z it looks into the room as it is.
    quarter = torch.where(along == 2, torch.where(spot[..., 2] > 0, 0.0, math.pi), -spot[..., 0].sign() * -math.pi / 2)
    return spot, torch.where(at_wall, quarter, turn)


def _pick_lifts(draw: Draw, view: View, extent: Float[Tensor, "s n 3"]) -> tuple[Tensor, Tensor]:
    """Height above the floor, as something hangs or stands on something else, and tilt, which clutter has."""
    n, height = extent.shape[1], 2 * view.half_m[:, 1:2]
    clutter = view.is_kind("clutter")[:, None]
    lift = draw.uniform(0.3, 2.0, n) * draw.happens(torch.where(view.is_kind("room"), 0.3, 0.05)[:, None], n)
    lift = torch.where(clutter, draw.uniform(0, 1, n) * height, lift)
    lift = torch.minimum(lift, (height - extent[..., 1]).clamp(min=0))
    return lift, draw.uniform(-math.pi, math.pi, n, 2) * (clutter | draw.happens(0.05, n))[..., None]


def _set_table(draw: Draw, pool: Pool, view: View, place: Placed) -> Placed:
    """Most things of a table stand on it, around its middle; the first thing is the table.

    What the camera would be in, or what would hide all else, goes out of sight.
    """
    n, spot, table = place.model.shape[1], place.position, view.is_kind("table")[:, None]
    longest = (pool.size_m[place.model] * place.scale).amax(dim=-1)
    spread = view.to_table[:, None, None] * draw.normal(n, 3) * torch.tensor([0.45, 0.0, 0.45])
    on_table = table & draw.happens(0.8, n)
    spot = torch.where(on_table[..., None], view.table[:, None] + spread, spot)
    hides = on_table & ((spot - view.eye[:, None]).norm(dim=-1) < 0.6 * longest + 0.1)
    spot = torch.where(hides[..., None], spot + _OUT_OF_SIGHT_M, spot)
    spot[..., 1] = torch.where(on_table, view.table[:, None, 1], spot[..., 1])
    apart = (spot - view.eye[:, None])[..., [0, 2]].norm(dim=-1) - 0.5 * longest
    first = table & (torch.arange(n) == 0)
    spot[..., [0, 2]] += _OUT_OF_SIGHT_M * ((apart < 0.25) & ~on_table)[..., None]

    board = torch.stack((draw.uniform(0.5, 2), torch.full((draw.n,), 0.04), draw.uniform(0.4, 1.2)), -1)
    below = view.table + torch.tensor([0, 0.04, 0])
    box = int(pool.is_part.nonzero()[0])
    return replace(
        place,
        model=torch.where(first, box, place.model),
        scale=torch.where(first[..., None], board[:, None] / pool.size_m[box], place.scale),
        position=torch.where(first[..., None], below[:, None], spot),
    )


def _add_counters(draw: Draw, pool: Pool, view: View, place: Placed, is_there: Bool[Tensor, "s"]) -> Placed:
    """Cupboards along the wall ahead and the one beside it, from their corner on, as in kitchens and offices.

    They take the place of the first things; small ones of the others stand on the worktops.
    """
    n = place.model.shape[1]
    flat = view.ahead[:, [0, 2]]
    first = flat.abs().argmax(dim=-1)
    walls = torch.stack((first, 1 - first), -1)  # axis of the wall: x or z
    to_wall = torch.where(flat >= 0, 1.0, -1.0)
    across = torch.nn.functional.one_hot(walls, 2).float()  # to the wall, and 1 - across along it
    room = view.half_m[:, None, [0, 2]]
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
    # On a worktop: somewhere along it, as deep as its middle.
    which = draw.whole(2, n)[..., None].expand(-1, -1, 3)
    wide, middle = (part.gather(1, which) for part in rows[1])
    spot = middle + 0.45 * wide * draw.uniform(-1, 1, n, 3) * torch.tensor([1.0, 0.0, 1.0])
    spot[..., 1] = -height - 0.04
    small = (pool.size_m[place.model] * place.scale).amax(dim=-1) < 0.7
    stands = is_there[:, None] & small & draw.happens(0.7, n)
    place = replace(place, position=torch.where(stands[..., None], spot, place.position))
    return _build_in(pool, place, is_there, _COUNTER_LIKE, extent, position, shown.flatten(1))


def _add_cases(draw: Draw, pool: Pool, view: View, place: Placed, is_there: Bool[Tensor, "s"]) -> Placed:
    """A case on the table around what stands there, open to the camera: a box, a shelf, a drawer without a top."""
    reach = view.to_table[:, None]
    width, depth, height = (reach * draw.uniform(*span, 1) for span in ((0.4, 1.2), (0.3, 0.8), (0.25, 0.9)))
    thick, lip = reach * draw.uniform(0.008, 0.03, 1), height * draw.uniform(0.1, 0.4, 1)
    nothing = torch.zeros_like(width)

    def boards(*of_each: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.stack([torch.cat(one, dim=-1) for one in of_each], dim=1)

    extent = boards(
        (width, height, thick), (thick, height, depth), (thick, height, depth), (width, thick, depth),
        (width, lip, thick),
    )  # fmt: skip
    # In axes of the case: its floor at y = 0, the camera at -z.
    middle = boards(
        (nothing, nothing, 0.5 * depth), (-0.5 * width, nothing, nothing), (0.5 * width, nothing, nothing),
        (nothing, -height, nothing), (nothing, nothing, -0.5 * depth),
    )  # fmt: skip
    turn = rotation(view.yaw + 0.35 * draw.normal(), torch.zeros(draw.n), torch.zeros(draw.n))
    shown = is_there[:, None].repeat(1, 5)
    shown[:, 3:] &= draw.happens(torch.tensor([0.5, 0.4]), 2)
    position = view.table[:, None] + middle @ turn.mT
    turn = turn[:, None].expand(-1, 5, -1, -1)
    return _build_in(pool, place, is_there, _CASE_LIKE, extent, position, shown, turn=turn, first=1)


def _build_in(
    pool: Pool,
    place: Placed,
    is_there: Bool[Tensor, "s"],
    like: tuple[int, ...],
    extent: Float[Tensor, "s k 3"],
    position: Float[Tensor, "s k 3"],
    shown: Bool[Tensor, "s k"],
    *,
    turn: Float[Tensor, "s k 3 3"] | None = None,
    first: int = 0,
) -> Placed:
    """Boxes in the place of k things from `first` on; those that are not shown are out of sight."""
    k, box = len(like), int(pool.is_part.nonzero()[0])
    slots = slice(first, first + k)
    position = torch.where(shown[..., None], position, position + _OUT_OF_SIGHT_M)
    parts = {
        "model": torch.full_like(place.model[:, slots], box),
        "turn": torch.eye(3).expand(len(extent), k, 3, 3) if turn is None else turn,
        "scale": extent / pool.size_m[box],
        "position": position,
        "like": torch.tensor(like).expand(len(extent), -1),
        "is_built_in": torch.ones_like(place.is_built_in[:, slots]),
    }

    def with_parts(name: str, part: Tensor) -> Tensor:
        before = getattr(place, name)
        there = is_there.view(-1, *[1] * (before.dim() - 1))
        after = before.clone()
        after[:, slots] = torch.where(there, part, before[:, slots])
        return after

    return replace(place, **{name: with_parts(name, part) for name, part in parts.items()})
