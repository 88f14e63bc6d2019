"""The shadows of the sun: the first surface that it sees, of all scenes at once."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from steadydepth.synthetic.places import Scenes
from steadydepth.synthetic.rasterizer import rasterize

SIDE = 192  # pixels of what the sun sees


class Shadow:
    """How near to the sun the first surface is, over a square around what the camera looks at.

    Args:
        scenes: whose sun it is.
        corners: of the faces that cast the shadow, in the world.
        scene: number of the scene of each.
    """

    def __init__(self, scenes: Scenes, corners: Float[Tensor, "f 3 3"], scene: Int64[Tensor, "f"]) -> None:
        upright = torch.tensor([0.0, 0.0, 1.0], device=corners.device).expand_as(scenes.sun)
        across = F.normalize(torch.linalg.cross(upright, scenes.sun), dim=-1)
        self.axes = torch.stack((across, torch.linalg.cross(scenes.sun, across), -scenes.sun), dim=-1)
        reach = scenes.half_m[:, [0, 2]].amax(dim=-1).clamp(max=12)
        self.scale = 0.5 * SIDE / reach
        self.centre = scenes.cam_to_world[:, 0, :3, 3] + scenes.cam_to_world[:, 0, :3, 2] * 0.5 * reach[:, None]
        self.n = len(scenes.sun)
        in_light = self._project(corners, scene)
        place, distance = in_light[..., :2], in_light[..., 2]
        self.depth = rasterize(place, distance, scene, n_images=self.n, height=SIDE, width=SIDE)[1].flatten()

    def _project(self, points: Float[Tensor, "n c 3"], scene: Int64[Tensor, "n"]) -> Float[Tensor, "n c 3"]:
        """Column, row and distance along the light; a parallel one has the same scale everywhere."""
        in_light = (points - self.centre[scene][:, None]) @ self.axes[scene]
        place = in_light[..., :2] * self.scale[scene][:, None, None] + 0.5 * SIDE
        return torch.cat((place, in_light[..., 2:] + 100), dim=-1)

    def lit(self, point: Float[Tensor, "s h w 3"]) -> Float[Tensor, "s h w"]:
        """Share of the sun, 0 to 1, that reaches each point, from four places of what it sees."""
        scene = torch.arange(self.n, device=point.device)
        in_light = self._project(point.flatten(1, 2), scene).view_as(point)
        x, y, distance = in_light.unbind(dim=-1)
        bias = 2.5 / self.scale[:, None, None]
        total = torch.zeros_like(distance)
        low_x, low_y = x.floor(), y.floor()
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = (low_x + dx).long(), (low_y + dy).long()
                inside = (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
                index = (scene[:, None, None] * SIDE + row.clamp(0, SIDE - 1)) * SIDE
                first = self.depth[index + column.clamp(0, SIDE - 1)]
                share = (1 - (x - low_x - dx).abs()) * (1 - (y - low_y - dy).abs())
                total = total + share * ((first + bias > distance) | ~inside)
        return total
