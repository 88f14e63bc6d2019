"""Textures in many sizes at once, read wherever a ray meets one."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from steadydepth.files.images import read_stored_colour
from steadydepth.synthetic.scene import draw_texture, seamless

PATTERNS = 192  # textures of the world's own
LEVELS = 5  # of a texture, each half the size of the one before


class Textures:
    """Square textures of one size and their smaller copies, in linear light, in one row of texels.

    They are computed on the CPU: `data.rendered` names kept clips by their bits, which are the same on every device.
    """

    def __init__(self, images: UInt8[np.ndarray, "n texel texel 3"], device: torch.device) -> None:
        level = (torch.from_numpy(images).movedim(-1, 1).float() / 255) ** 2.2
        sides, rows = [], []
        for _ in range(LEVELS):
            sides.append(level.shape[-1])
            rows.append(level.movedim(1, -1).reshape(-1, 3).half())
            level = F.avg_pool2d(level, 2)
        self.texels = torch.cat(rows).to(device)
        self.side = torch.tensor(sides, device=device)
        self.start = torch.tensor([0, *map(len, rows)][:-1]).cumsum(0).to(device)

    def look_up(
        self, number: Int64[Tensor, "n"], uv: Float[Tensor, "n 2"], footprint: Float[Tensor, "n"]
    ) -> Float[Tensor, "n 3"]:
        """Linear reflectance, bilinear.

        Args:
            number: of the texture.
            uv: place in it; it repeats at every whole number.
            footprint: how much of it a pixel covers.
        """
        level = torch.log2((footprint * self.side[0]).clamp(min=1)).round().long().clamp(max=LEVELS - 1)
        side, start = self.side[level], self.start[level]
        place = (uv - uv.floor()) * side[:, None] - 0.5
        low = place.floor()
        share, low = place - low, low.long()
        total = torch.zeros(len(uv), 3, device=uv.device)
        for dx in (0, 1):
            for dy in (0, 1):
                column, row = (low[:, 0] + dx) % side, (low[:, 1] + dy) % side
                weight = (share[:, 0] if dx else 1 - share[:, 0]) * (share[:, 1] if dy else 1 - share[:, 1])
                texel = self.texels[start + (number * side + row) * side + column]
                total = total + weight[:, None] * texel.float()
        return total


@cache
def own_patterns() -> UInt8[np.ndarray, "n texel texel 3"]:
    """Textures of the world's own, drawn once: square, sRGB."""
    generator = np.random.default_rng(0)
    linear = [draw_texture(generator) for _ in range(PATTERNS)]
    return np.round(np.stack(linear) ** (1 / 2.2) * 255).astype(np.uint8)


def read_textures(paths: Sequence[Path]) -> UInt8[np.ndarray, "n texel texel 3"]:
    """Square crops of images, of the size of the world's own (`seamless`).

    Raises:
        InputError: an image cannot be read.
    """
    found = []
    for path in paths:
        image, _ = read_stored_colour(path)
        side = min(image.shape[:2])
        found.append(seamless(image[:side, :side]))
    return np.stack(found)
