"""Many scenes rendered at once on any device, with exact depth and motion: what a training step takes from there."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from steadydepth.synthetic.assets import TEXELS, Assets
from steadydepth.synthetic.bodies import basic_bodies
from steadydepth.synthetic.placement import Pool
from steadydepth.synthetic.places import SKY_M, Scenes
from steadydepth.synthetic.rasterizer import Faces, prepare, rasterize, weights_at
from steadydepth.synthetic.shadow import Shadow
from steadydepth.synthetic.textures import Textures, own_patterns

SUPERSAMPLING = 2  # colour rays a pixel side
_NEAREST_M = 0.03  # faces with a corner nearer than this are left out
_GROUND = 3  # of the sides of a box
_CORNER_SHADE, _CORNER_M = 0.6, 0.25  # how much of the light of the sky a wall close by takes, and how close that is
_SAME = 0.03  # relative difference of depth up to which two frames see the same point
OUTDOOR = ("Exterior", "Vehicles", "Characters")


@dataclass(frozen=True)
class Rendered:
    """Clips of b scenes: frames in linear light, and their labels."""

    light: Float[Tensor, "b t 3 h w"]  # RGB, linear, at least 0
    depth: Float[Tensor, "b t h w"]  # planar depth in metres
    motion: Float[Tensor, "b p h w 2"]  # where each pixel was in the frame before, pixels (x, y) from here
    visible: Bool[Tensor, "b p h w"]  # True where the frame before sees the same point
    # Where each pixel of all frames but the last is in the next frame, pixels (x, y) from here.
    flow: Float[Tensor, "b p h w 2"]
    flow_valid: Bool[Tensor, "b p h w"]  # True where that is in front of the next camera
    objects: Int64[Tensor, "b t h w"]  # 0 of the static world; otherwise the number of the thing that moves, from 1 on


class World:
    """Models and textures on a device, and what renders scenes of them.

    Args:
        device: of torch.
        assets: models with their own textures; None leaves boxes, balls, cylinders and cones.
        images: of `read_textures`, as further textures.
    """

    def __init__(
        self, device: torch.device, assets: Assets | None = None, images: UInt8[np.ndarray, "n 128 128 3"] | None = None
    ) -> None:
        self.device = device
        parts = basic_bodies()
        corners = [torch.from_numpy(one[0]) for one in parts]
        uv = [torch.from_numpy(one[1]) for one in parts]
        counts = [len(one) for one in corners]
        colour, texture, material = torch.ones(1, 3), torch.zeros(1, dtype=torch.int64), torch.zeros(sum(counts))
        size, outdoor = [one.amax(dim=(0, 1)) - one.amin(dim=(0, 1)) for one in corners], [False] * len(parts)
        free = own_patterns() if images is None else np.concatenate((own_patterns(), images))
        own = np.full((1, TEXELS, TEXELS, 3), 255, np.uint8)
        if assets is not None:
            corners.append(torch.from_numpy(assets.corners).float())
            uv.append(torch.from_numpy(assets.uv).float())
            counts += np.diff(assets.first_face).tolist()
            material = torch.cat((material, torch.from_numpy(assets.material.astype(np.int64)) + 1.0))
            colour = torch.cat((colour, torch.from_numpy(assets.colour)))
            texture = torch.cat((texture, torch.from_numpy(assets.texture)))
            size += list(torch.from_numpy(assets.size_m))
            outdoor += [one in OUTDOOR for one in assets.categories]
            own = assets.textures
        self.pool = Pool(
            size_m=torch.stack(size).float(),
            is_part=torch.arange(len(size)) < len(parts),
            is_outdoor=torch.tensor(outdoor),
            n_textures=len(free),
        )
        self.size_m = self.pool.size_m.to(device)
        self.corners = torch.cat(corners).float().to(device)
        self.uv = torch.cat(uv).float().to(device)
        self.material = material.long().to(device)
        self.colour, self.texture = colour.float().to(device), texture.to(device)
        self.first_face = torch.tensor([0, *np.cumsum(counts).tolist()], device=device)
        self.own = Textures(own, device)
        self.free = Textures(free, device)

    def render(self, scenes: Scenes, *, height: int, width: int) -> Rendered:
        """Frames and labels of `scenes`; more of them at once need more memory, about 40 MB a frame of 192 x 256.

        Args:
            scenes: what stands where, and how it moves.
            height: rows of the image.
            width: columns of the image.
        """
        return _View(self, scenes.to(self.device), height, width).render()


class _View:
    """One rendering: the faces of all things of all scenes, projected into all frames."""

    def __init__(self, world: World, scenes: Scenes, height: int, width: int) -> None:
        self.world, self.scenes = world, scenes
        self.out_size = (height, width)
        self.height, self.width = height * SUPERSAMPLING, width * SUPERSAMPLING
        self.n_scenes, self.n_frames, self.n_things = scenes.pose.shape[:3]
        device = world.device
        counts = torch.where(self._in_view(), world.first_face.diff()[scenes.model], 0).flatten()
        self.thing = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)  # of each face
        begin = counts.cumsum(0) - counts
        within = torch.arange(len(self.thing), device=device) - begin[self.thing]
        self.face = world.first_face[scenes.model.flatten()][self.thing] + within
        self.local = world.corners[self.face]
        self.scene = torch.div(self.thing, self.n_things, rounding_mode="floor")

    def _in_view(self) -> Bool[Tensor, "s n"]:
        """Things whose ball around the middle reaches into what the camera sees of some frame; others cost nothing."""
        scenes, size = self.scenes, self.world.size_m[self.scenes.model]
        radius = 0.5 * (size * scenes.pose[:, 0, :, :3, :3].norm(dim=-2)).norm(dim=-1)[:, None]
        middle = scenes.pose[..., :3, 1] * -0.5 * size[:, None, :, 1:2] + scenes.pose[..., :3, 3]
        in_camera = (middle - scenes.cam_to_world[:, :, None, :3, 3]) @ scenes.cam_to_world[..., :3, :3]
        x, y, z = in_camera.unbind(dim=-1)
        inside = z > -radius
        for across, pixels in ((x, self.width), (y, self.height)):
            tangent = (0.5 * pixels / self.focal)[:, None, None]
            inside &= (across.abs() - z * tangent) / (1 + tangent**2).sqrt() < radius
        return inside.any(dim=1)

    @cached_property
    def focal(self) -> Float[Tensor, "s"]:
        return self.scenes.focal_px * self.width

    def placed(self, frame: int) -> Float[Tensor, "f 3 3"]:
        """The corners of all faces in the world, at a frame."""
        pose = self.scenes.pose[:, frame].flatten(0, 1)[self.thing]
        return self.local @ pose[:, :3, :3].mT + pose[:, None, :3, 3]

    def render(self) -> Rendered:
        scenes, ss = self.scenes, SUPERSAMPLING
        n = self.n_scenes
        lights, depths, things, points = [], [], [], []
        shadow = Shadow(self.scenes, self.placed(0), self.scene)
        for t in range(self.n_frames):
            corners = self.placed(t)
            camera = scenes.cam_to_world[self.scene, t]
            in_camera = (corners - camera[:, None, :3, 3]) @ camera[:, :3, :3]
            z = in_camera[..., 2]
            safe = torch.where(z > _NEAREST_M, z, 1)
            columns = in_camera[..., 0] / safe * self.focal[self.scene, None] + (self.width - 1) / 2
            rows = in_camera[..., 1] / safe * self.focal[self.scene, None] + (self.height - 1) / 2
            projected, seen_z = torch.stack((columns, rows), -1), torch.where(z > _NEAREST_M, z, -1)
            faces = prepare(projected, safe)
            found, depth = rasterize(
                projected, seen_z, self.scene, n_images=n, height=self.height, width=self.width, faces=faces
            )
            shell = self._shell(t)
            is_thing = depth < shell.depth
            depth = torch.where(is_thing, depth, shell.depth)
            ray = self._rays()
            point = (ray * depth[..., None]) @ scenes.cam_to_world[:, t, None, :3, :3].mT
            point = point + scenes.cam_to_world[:, t, None, None, :3, 3]
            albedo, normal = shell.albedo, shell.normal
            pixels = is_thing.flatten().nonzero()[:, 0]
            number = found.flatten()[pixels]
            look = self._look(t, faces, corners, number, pixels, depth.flatten()[pixels])
            albedo = albedo.flatten(0, 2).index_copy(0, pixels, look[0]).view_as(albedo)
            normal = normal.flatten(0, 2).index_copy(0, pixels, look[1]).view_as(normal)
            # The sky is given in units of the light that the ground gets.
            of_ground = scenes.light[:, t].sum(dim=1)[:, None, None]
            light = torch.where((shell.is_sky & ~is_thing)[..., None], of_ground, self._on(t, point, normal, shadow))
            lights.append(F.avg_pool2d((albedo * light).movedim(-1, 1), SUPERSAMPLING))
            coarse = (slice(None), slice(None, None, ss), slice(None, None, ss))
            depths.append(depth[coarse])
            thing = torch.full_like(found, -1).flatten().index_copy(0, pixels, self.thing[number]).view_as(found)
            things.append(thing[coarse])
            points.append(point[coarse])
        depth = torch.stack(depths, dim=1)
        steps = range(1, self.n_frames)
        motion, z, inside = self._motions([(points[t], things[t], t, t - 1) for t in steps])
        flow, ahead, _ = self._motions([(points[t - 1], things[t - 1], t - 1, t) for t in steps])
        found = _at_nearest(depth[:, :-1], motion)
        moving = torch.cat((scenes.is_moving.new_zeros(1), scenes.is_moving.flatten()))
        thing = torch.stack(things, dim=1)
        return Rendered(
            light=torch.stack(lights, dim=1),
            depth=depth,
            motion=motion,
            visible=inside & ((found - z).abs() < _SAME * z),
            flow=flow,
            flow_valid=ahead > _NEAREST_M,
            objects=torch.where(moving[thing + 1], thing % self.n_things + 1, 0),
        )

    def _rays(self) -> Float[Tensor, "s h w 3"]:
        """Unit planar depth: a length along them is a depth."""
        device = self.world.device
        x = torch.arange(self.width, device=device) - (self.width - 1) / 2
        y = torch.arange(self.height, device=device) - (self.height - 1) / 2
        rays = torch.ones(self.n_scenes, self.height, self.width, 3, device=device)
        rays[..., 0], rays[..., 1] = x / self.focal[:, None, None], y[:, None] / self.focal[:, None, None]
        return rays

    def _shell(self, t: int) -> "_Shell":
        """What the room shows, and through its openings what is behind it."""
        scenes = self.scenes
        ray = self._rays() @ scenes.cam_to_world[:, t, None, :3, :3].mT
        eye = scenes.cam_to_world[:, t, None, None, :3, 3]
        depth, side = _leave_box(eye, ray, scenes.half_m)
        point = eye + ray * depth[..., None]
        wall = torch.tensor([0, 1, -1, -1, 2, 3], device=ray.device)[side]
        along = torch.where(wall < 2, point[..., 2], point[..., 0])
        openings = scenes.openings[torch.arange(self.n_scenes, device=ray.device)[:, None, None], wall.clamp(min=0)]
        place = torch.stack((along, point[..., 1]), -1)[..., None, :]
        through = ((place > openings[..., 0, :]) & (place < openings[..., 1, :])).all(dim=-1).any(dim=-1) & (wall >= 0)
        is_open = scenes.is_open[:, None, None]
        through |= is_open & (side != _GROUND)
        far, far_side = _leave_box(eye, ray, scenes.outer_m)
        depth, side = torch.where(through, far, depth), torch.where(through, far_side, side)
        is_sky = is_open & through & (side != _GROUND)
        depth = torch.where(is_sky, SKY_M, depth).clamp(max=SKY_M)
        point = eye + ray * depth[..., None]
        axis = torch.div(side, 2, rounding_mode="floor")
        normal = F.one_hot(axis, 3).float() * torch.where(side % 2 == 0, 1.0, -1.0)[..., None]
        number = torch.arange(self.n_scenes, device=ray.device)[:, None, None].expand_as(side)
        key = (number, through.long(), side)
        across = torch.where(axis == 0, point[..., 2], point[..., 0])
        down = torch.where(axis == 1, point[..., 2], point[..., 1])
        tile = scenes.tile_m[key] * torch.where(through, 3, 1)
        uv = torch.stack((across, down), -1) / tile[..., None]
        grazing = (ray * normal).sum(dim=-1).abs().clamp(min=0.1) / ray.norm(dim=-1)
        footprint = depth / self.focal[:, None, None] / tile / grazing.sqrt()
        texel = self.world.free.look_up(scenes.wall_texture[key].flatten(), uv.flatten(0, 2), footprint.flatten())
        plain = texel.view(*side.shape, 3).clamp(min=1e-3) ** scenes.wall_contrast[key][..., None]
        # Clouds are the texture of a wall, fainter.
        height = (-ray[..., 1] / ray.norm(dim=-1)).clamp(0, 1).sqrt()[..., None]
        above, horizon = scenes.sky[:, None, None].unbind(dim=-2)
        sky = (height * above + (1 - height) * horizon) * plain**0.3
        return _Shell(depth, normal, torch.where(is_sky[..., None], sky, plain * scenes.wall_tint[key]), is_sky)

    def _look(
        self, t: int, faces: Faces, corners: Tensor, number: Tensor, pixels: Tensor, depth: Tensor
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Reflectance, and the normal to the side of the camera, of what things show at `pixels`."""
        world, thing = self.world, self.thing[number]
        x = (pixels % self.width).float()
        y = (torch.div(pixels, self.width, rounding_mode="floor") % self.height).float()
        weights = weights_at(faces, number, x, y)
        uv_corners = world.uv[self.face[number]]
        uv = (weights[..., None] * uv_corners).sum(dim=1)
        first, second, third = corners[number].unbind(dim=1)
        cross = torch.linalg.cross(second - first, third - first)
        area = cross.norm(dim=-1)
        side_1, side_2 = (uv_corners[:, 1] - uv_corners[:, 0]), (uv_corners[:, 2] - uv_corners[:, 0])
        uv_area = (side_1[:, 0] * side_2[:, 1] - side_1[:, 1] * side_2[:, 0]).abs()
        density = (uv_area / area.clamp(min=1e-9)).sqrt()
        texture = self.scenes.texture.flatten()[thing]
        material = world.material[self.face[number]]
        footprint = depth / self.focal[self.scene[number]] * density
        is_own = texture < 0
        own = world.own.look_up(world.texture[material], uv, footprint)
        # Things of another texture take it at its own size, wherever theirs would have it.
        other = world.free.look_up(texture.clamp(min=0), 2 * uv, 2 * footprint)
        other = other.clamp(min=1e-3) ** self.scenes.contrast.flatten()[thing][:, None]
        albedo = torch.where(is_own[:, None], own * world.colour[material], other)
        normal = cross / area[:, None].clamp(min=1e-12)
        eye = self.scenes.cam_to_world[self.scene[number], t, :3, 3]
        away = ((first - eye) * normal).sum(dim=-1, keepdim=True) > 0
        return albedo * self.scenes.tint.flatten(0, 1)[thing], torch.where(away, -normal, normal)

    def _on(self, t: int, point: Tensor, normal: Tensor, shadow: Shadow) -> Tensor:
        """The light (s, h, w, 3), linear, that falls on what is seen."""
        scenes = self.scenes
        up = 0.6 - 0.4 * normal[..., 1]  # y points down: more of the sky from above
        light = scenes.light[:, t, None, None, 1] * (up * self._openness(point, normal))[..., None]
        facing = (normal * scenes.sun[:, None, None]).sum(dim=-1).clamp(min=0) * shadow.lit(point)
        light = light + scenes.light[:, t, None, None, 0] * facing[..., None]
        for i in range(scenes.lamps.shape[1]):
            to_lamp = scenes.lamps[:, None, None, i] - point
            square = (to_lamp * to_lamp).sum(dim=-1)
            cosine = (normal * to_lamp).sum(dim=-1).clamp(min=0) / square.clamp(min=1e-4).sqrt()
            reach = (0.5 * scenes.half_m.amax(dim=-1))[:, None, None] ** 2
            light = light + scenes.lamp_light[:, t, None, None, i] * (cosine / (1 + square / reach))[..., None]
        return light

    def _openness(self, point: Tensor, normal: Tensor) -> Float[Tensor, "s h w"]:
        """Share of the light from all around that the sides of the room leave: less in corners and below things."""
        half = self.scenes.half_m[:, None, None]
        middle = half * torch.tensor([0.0, -1.0, 0.0], device=half.device)
        shade = torch.full_like(half, _CORNER_SHADE) * (~self.scenes.is_open)[:, None, None, None]
        ground = torch.tensor([False, True, False], device=half.device)
        left = torch.ones_like(point[..., 0])
        for sign in (-1.0, 1.0):
            distance = (half - sign * (point - middle)).clamp(min=0)
            facing = 0.5 * (1 + sign * normal)  # a side takes no light from itself
            if sign > 0:
                shade = torch.where(ground, _CORNER_SHADE, shade)  # which is there in the open as well
            left = left * (1 - shade * facing * (-distance / _CORNER_M).exp()).prod(dim=-1)
        return left

    def _motions(
        self, parts: list[tuple[Tensor, Tensor, int, int]]
    ) -> tuple[Float[Tensor, "s p h w 2"], Float[Tensor, "s p h w"], Bool[Tensor, "s p h w"]]:
        """Of points and their things, from frame to frame: motion, depth there, and whether that is in the image."""
        moved = [self._motion(*part) for part in parts]
        motion, depth, inside = (torch.stack(part, dim=1) for part in zip(*moved, strict=True))
        return motion, depth, inside

    def _motion(self, point: Tensor, thing: Tensor, t: int, to: int) -> tuple[Tensor, Tensor, Tensor]:
        scenes, (height, width) = self.scenes, self.out_size
        moved = scenes.pose[:, to].flatten(0, 1) @ torch.linalg.inv(scenes.pose[:, t].flatten(0, 1))
        still = torch.eye(4, device=moved.device)[None]
        step = torch.cat((still, moved))[thing + 1]
        then = (step[..., :3, :3] @ point[..., None])[..., 0] + step[..., :3, 3]
        camera = scenes.cam_to_world[:, to]
        in_camera = (then - camera[:, None, None, :3, 3]) @ camera[:, None, :3, :3]
        z = in_camera[..., 2].clamp(min=1e-3)
        x = (in_camera[..., 0] / z * self.focal[:, None, None] + (self.width - 1) / 2) / SUPERSAMPLING
        y = (in_camera[..., 1] / z * self.focal[:, None, None] + (self.height - 1) / 2) / SUPERSAMPLING
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1) & (in_camera[..., 2] > _NEAREST_M)
        here_x = torch.arange(width, device=x.device, dtype=x.dtype)
        here_y = torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
        return torch.stack((x - here_x, y - here_y), dim=-1), in_camera[..., 2], inside


def _at_nearest(values: Float[Tensor, "s p h w"], motion: Float[Tensor, "s p h w 2"]) -> Float[Tensor, "s p h w"]:
    """What `values` have at the pixel nearest to where the motion goes."""
    height, width = values.shape[-2:]
    x = torch.arange(width, device=values.device) + motion[..., 0]
    y = torch.arange(height, device=values.device)[:, None] + motion[..., 1]
    column, row = x.round().clamp(0, width - 1).long(), y.round().clamp(0, height - 1).long()
    return values.flatten(2).gather(2, (row * width + column).flatten(2)).view_as(values)


@dataclass(frozen=True)
class _Shell:
    depth: Float[Tensor, "s h w"]
    normal: Float[Tensor, "s h w 3"]
    albedo: Float[Tensor, "s h w 3"]  # of the sky, what it sends
    is_sky: Bool[Tensor, "s h w"]


def _leave_box(eye: Tensor, ray: Tensor, half: Float[Tensor, "s 3"]) -> tuple[Tensor, Tensor]:
    """Depth at which rays leave the box from -half to half, y from -2 half to 0, and its side (x, y, z; low, high)."""
    low, high = -half.clone(), half.clone()
    low[:, 1], high[:, 1] = -2 * half[:, 1], 0
    bound = torch.where(ray > 0, high[:, None, None], low[:, None, None])
    safe = torch.where(ray.abs() < 1e-9, 1e-9, ray)
    depth, axis = ((bound - eye) / safe).min(dim=-1)
    depth = depth.clamp(min=_NEAREST_M)
    is_high = ray.gather(-1, axis[..., None])[..., 0] > 0
    return depth, 2 * axis + is_high
