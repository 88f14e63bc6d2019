"""The synthetic world on an accelerator: many frames at once, by the formulas of its rays and its light."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from steadydepth.ops.devices import find_device, has_float64
from steadydepth.synthetic.meshes import meet_triangles
from steadydepth.synthetic.rays import Grid, Labels, flow_to, make_grid, meet_ball, meet_box, project, transform
from steadydepth.synthetic.rolling_shutter import Readout, Strip
from steadydepth.synthetic.scene import Scene, Solid
from steadydepth.synthetic.shading import (
    SUPERSAMPLING,
    lamp_in,
    lamp_light,
    lay_out_ball,
    lay_out_box,
    lay_out_mesh,
    level_of,
    look_up,
    rays_through,
)
from steadydepth.types import InputError

Numbers = Int64[np.ndarray, "t"]  # of frames
_RAYS = 1 << 21  # at a time: each takes about half a kilobyte


@dataclass(frozen=True)
class _Hits:
    """As `Hits`, of several frames; pixels in reading order, and where the points are in the axes of their solids."""

    depth: Float[Tensor, "t n"]
    solid: Int64[Tensor, "t n"]
    triangle: Int64[Tensor, "t n"]
    local: Float[Tensor, "3 t n"]


def check_device(name: str) -> torch.device:
    """The device of that name.

    Args:
        name: torch's, as cuda or cpu.

    Raises:
        InputError: it is not there, or cannot compute with 64 bits, as labels are.
    """
    device = find_device(name)
    if not has_float64(device):
        raise InputError(f"device {name}: has no float64, which labels need: give one that has, such as cuda, or none")
    return device


def label_on(device: torch.device, strip: Strip, width: int, *, readout: Readout | None) -> Labels:
    """The exact labels of each frame, from one ray through the middle of each pixel of the strip.

    Args:
        device: that computes.
        strip: some rows of a scene.
        width: columns of the image.
        readout: when each row is read; None is all rows at once.
    """
    scene, n_rows = strip.scene, len(strip.rows)
    grid = make_grid(scene, strip.rows.astype(np.float64), np.arange(width, dtype=np.float64))
    y, x = (torch.from_numpy(positions).to(device) for positions in (grid.y, grid.x))
    ids = torch.tensor([solid.object_id for solid in scene.solids], dtype=torch.uint8, device=device)
    last = len(scene.cam_to_world) - 1
    parts: list[tuple[Tensor, ...]] = []
    for frames in _groups(scene, grid):
        hits = _cast(scene, frames, grid, device)
        leaving = frames[frames < last]

        def land(then: Scene, hits: _Hits = hits, leaving: np.ndarray = leaving) -> Float64[Tensor, "3 p h w"]:
            return _land(scene, leaving, hits, then).unflatten(2, (n_rows, width))

        if readout is None:
            landed = land(scene)
        else:
            landed = torch.from_numpy(readout.settle(lambda then: land(then).cpu().numpy())).to(device)
        u, v, known = flow_to(landed, y, x)
        visible = (hits.depth.float(), ids[hits.solid])
        parts.append((*(one.unflatten(1, (n_rows, width)) for one in visible), torch.stack((u, v), -1).float(), known))
    return Labels(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def render_on(
    device: torch.device, strip: Strip, width: int, textures: list[Float32[np.ndarray, "level texel texel 3"]]
) -> Iterator[Float32[np.ndarray, "h w 3"]]:
    """Linear light of the strip in each frame, averaged over the rays of each pixel.

    Args:
        device: that computes.
        strip: some rows of a scene.
        width: columns of the image.
        textures: of each solid, blurred more from level to level.
    """
    scene, n_rows = strip.scene, len(strip.rows)
    grid = make_grid(scene, rays_through(strip.rows), rays_through(np.arange(width)))
    atlas = torch.from_numpy(np.concatenate(textures)).to(device)
    for frames in _groups(scene, grid):
        light = _shade(scene, frames, _cast(scene, frames, grid, device), atlas, len(textures[0]))
        blocks = light.unflatten(2, (n_rows, SUPERSAMPLING, width, SUPERSAMPLING))
        yield from blocks.mean(dim=(3, 5)).permute(1, 2, 3, 0).cpu().numpy()


def _groups(scene: Scene, grid: Grid) -> list[Numbers]:
    """The frames of a clip, few enough at a time."""
    n_frames = len(scene.cam_to_world)
    return np.array_split(np.arange(n_frames), -(-n_frames * grid.rays[0].size // _RAYS))


def _views(scene: Scene, frames: Numbers, solid: Solid) -> Float64[np.ndarray, "t 4 4"]:
    """From the camera's axes to the solid's."""
    return solid.world_to_local[frames] @ scene.cam_to_world[frames]


def _cast(scene: Scene, frames: Numbers, grid: Grid, device: torch.device) -> _Hits:
    """The first hits of `frames`, in the precision of the grid."""
    rays = torch.from_numpy(grid.rays.reshape(3, -1)).to(device)
    shape = (len(frames), rays.shape[1])
    depth = torch.full(shape, torch.inf, dtype=rays.dtype, device=device)
    number, triangle = (torch.zeros(shape, dtype=torch.int64, device=device) for _ in range(2))
    views = [torch.from_numpy(_views(scene, frames, solid)).to(rays) for solid in scene.solids]
    for i, (solid, view) in enumerate(zip(scene.solids, views, strict=True)):
        if solid.triangles is None:
            length = _meet(solid, view[:, :3, 3].T[..., None], (view[:, :3, :3] @ rays).movedim(1, 0))
        else:
            length, met = (one.to(device) for one in _meet_mesh(scene, frames, solid, solid.triangles, grid))
            length = length.to(depth.dtype)
            triangle = torch.where(length < depth, met, triangle)
        number = torch.where(length < depth, i, number)
        depth = torch.minimum(length, depth)
    local = torch.zeros((3, *shape), dtype=rays.dtype, device=device)
    for i, view in enumerate(views):
        there = (view[:, :3, :3] @ (rays * depth[:, None]) + view[:, :3, 3:]).movedim(1, 0)
        local = torch.where(number == i, there, local)
    return _Hits(depth, number, triangle, local)


def _meet(solid: Solid, origin: Float[Tensor, "3 t 1"], rays: Float[Tensor, "3 t n"]) -> Float[Tensor, "t n"]:
    if solid.shape == "ball":
        outside = (origin * origin).sum(dim=0) - solid.half[0] ** 2
        return meet_ball((rays * rays).sum(dim=0), (origin * rays).sum(dim=0), outside)
    half = torch.from_numpy(solid.half).to(rays)[:, None, None]
    return meet_box(origin, rays, half, from_inside=solid.shape == "room")


def _meet_mesh(
    scene: Scene, frames: Numbers, solid: Solid, triangles: Float64[np.ndarray, "face 3 3"], grid: Grid
) -> tuple[Float64[Tensor, "t n"], Int64[Tensor, "t n"]]:
    """Depth and number of the triangles that are met; on the CPU, where few pixels of each are tried."""
    visible = [transform(np.linalg.inv(view), triangles) for view in _views(scene, frames, solid)]
    met = [meet_triangles(one, scene.K, grid.y, grid.x) for one in visible]
    length, face = (torch.from_numpy(np.stack(part)).flatten(1) for part in zip(*met, strict=True))
    return length, face.long()


def _land(scene: Scene, frames: Int64[np.ndarray, "p"], hits: _Hits, then: Scene) -> Float64[Tensor, "3 p n"]:
    """Column and row, in pixels, and depth at which the next frame of `then` has what `frames` of `scene` see."""
    n, device = len(frames), hits.depth.device
    local, number = hits.local[:, :n].movedim(0, 1), hits.solid[:n]
    K = torch.from_numpy(scene.K).to(device)
    landed = torch.zeros_like(hits.local[:, :n])
    for i, solid in enumerate(then.solids):
        view = torch.from_numpy(then.world_to_cam[frames + 1] @ solid.local_to_world[frames + 1]).to(device)
        landed = torch.where(number == i, project(view, K, local).movedim(1, 0), landed)
    return landed


def _shade(
    scene: Scene, frames: Numbers, hits: _Hits, atlas: Float32[Tensor, "levels texel texel 3"], n_levels: int
) -> Float32[Tensor, "3 t n"]:
    """Light that each ray brings, as `find_surface` and `shade` of one frame and one solid after another have it."""
    device, local, solids = hits.depth.device, hits.local, scene.solids

    def of_pixels(values: np.ndarray) -> Tensor:
        """What a table (solid, ...) says of the solid that each ray meets, the axes of the table first."""
        return torch.from_numpy(values).to(device)[hits.solid].movedim((0, 1), (-2, -1))

    lamps = np.stack([[lamp_in(solid, int(t), scene)[:, 0] for t in frames] for solid in solids])
    which = torch.arange(len(frames), device=device)[:, None]
    to_lamp = torch.from_numpy(lamps).to(device)[hits.solid, which].movedim(-1, 0) - local
    half = of_pixels(np.stack([solid.half for solid in solids]).astype(np.float64))
    box = lay_out_box(half, local, to_lamp)
    ball = lay_out_ball(half[0], local, to_lamp)
    is_ball = of_pixels(np.array([solid.shape == "ball" for solid in solids]))
    across, along, facing = (torch.where(is_ball, one, other) for one, other in zip(ball, box, strict=True))
    facing = torch.where(of_pixels(np.array([solid.shape == "room" for solid in solids])), -facing, facing)
    for i, solid in enumerate(solids):
        if solid.triangles is None:
            continue
        normals = torch.from_numpy(solid.normals).to(device)
        # What another mesh numbered means nothing here, and is not looked at afterwards.
        visible = normals[:, hits.triangle.clamp(max=len(solid.triangles) - 1)]
        eye = torch.from_numpy(_views(scene, frames, solid)[:, :3, 3].T[..., None].copy()).to(device)
        found = zip(lay_out_mesh(visible, local, to_lamp, eye), (across, along, facing), strict=True)
        across, along, facing = (torch.where(hits.solid == i, one, other) for one, other in found)
    level = hits.solid * n_levels + level_of(hits.depth, float(scene.K[0, 0]))
    albedo = torch.stack(look_up(atlas, across, along, level))
    cosine, falloff = lamp_light(facing, to_lamp)
    power = torch.from_numpy(scene.lamp_power[frames]).to(device)[:, None]
    return albedo * (scene.ambient + power * cosine / falloff).float()
