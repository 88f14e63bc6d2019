"""Imagined networks: depth as some network might predict it, made from the truth, and the same without its flicker.

A filter that is to work on any model has to learn from many. What is drawn for each clip: how much the network blurs
and flattens, an error that stays, one that wanders slowly as the network changes its mind, errors that flicker on
scales from the full frame to a few pixels, and errors that cling to edges and to texture.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from steadydepth.types import Depth, Frames

Clips = Float[Tensor, "b t h w"]


@dataclass(frozen=True)
class Imagined:
    """What a network predicts, in log depth, and the same without the errors that do not belong to the surfaces."""

    predicted: Clips
    steady: Clips


def imagine(frames: Frames, depth: Depth, generator: torch.Generator) -> Imagined:
    """A network of its own for each clip.

    Args:
        frames: RGB in [0, 1].
        depth: exact, in metres.
        generator: what is drawn.
    """
    b, t, h, w = depth.shape

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(b, 1, 1, 1, generator=generator)

    truth = depth.log()
    blurred = torch.cat([_blur(clip[None], float(sigma)) for clip, sigma in zip(truth, uniform(0.3, 2.5), strict=True)])
    middle = blurred.mean((1, 2, 3), keepdim=True)
    flattened = middle + uniform(0.5, 1.1) * (blurred - middle)
    # It belongs to the place in the image, not to what stands there: where the camera moves, it is no error to keep.
    stays = uniform(0.0, 0.15) * _field(b, 1, h, w, 4, generator)

    level = torch.exp(uniform(-2.3, 0.0))  # of all flicker: 0.1 to 1
    flicker = torch.zeros_like(flattened)
    for cells, most in ((1, 0.1), (3, 0.1), (8, 0.08), (24, 0.05), (48, 0.03)):
        noise = _field(b, t, h, w, cells, generator) if cells > 1 else torch.randn(b, t, 1, 1, generator=generator)
        field = _in_time(noise, uniform(-0.4, 0.95))
        flicker = flicker + level * uniform(0.0, most) * field
    # Contrast that breathes with the frame.
    flicker = flicker + level * uniform(0.0, 0.1) * torch.randn(b, t, 1, 1, generator=generator) * (flattened - middle)
    clinging = _look(frames, generator)
    flicker = flicker + level * uniform(0.0, 0.15) * clinging
    # A mind that changes over seconds is to be followed: what the network says of a view is no better before.
    wandering = (
        (uniform(0.0, 1.0) < 0.6) * uniform(0.0, 0.12) * _in_time(_field(b, t, h, w, 3, generator), uniform(0.93, 0.99))
    )
    steady = flattened + wandering
    return Imagined(_wobble(steady, level * uniform(0.0, 1.5), generator) + stays + flicker, steady)


def _blur(clips: Clips, sigma: float) -> Clips:
    reach = max(1, round(2.5 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=clips.dtype)
    kernel = torch.exp(-0.5 * (x / sigma).square())
    kernel = kernel / kernel.sum()
    flat = F.pad(clips.flatten(0, 1)[:, None], (reach, reach, reach, reach), mode="replicate")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat[:, 0].unflatten(0, clips.shape[:2])


def _field(b: int, t: int, h: int, w: int, cells: int, generator: torch.Generator) -> Clips:
    """Smooth noise of deviation about 1, with so many cells along the shorter side."""
    size = cells + 1, max(2, round(cells * w / h) + 1)
    return 1.5 * F.interpolate(
        torch.randn(b, t, *size, generator=generator), (h, w), mode="bicubic", align_corners=True
    )


def _in_time(field: Clips, share: Tensor) -> Clips:
    """Noise in which each frame keeps a share of the one before: negative shakes, positive drifts."""
    frames = [field[:, 0]]
    for now in field[:, 1:].unbind(1):
        frames.append(share[:, 0] * frames[-1] + (1 - share[:, 0].square()).sqrt() * now)
    return torch.stack(frames, 1)


def _look(frames: Frames, generator: torch.Generator) -> Clips:
    """What a network of random weights sees in each frame: an error that belongs to texture, light and edges."""
    maps = []
    for clip in frames:
        first = torch.randn(6, 3, 5, 5, generator=generator) / 4
        second = torch.randn(1, 6, 5, 5, generator=generator) / 8
        x = torch.tanh(F.conv2d(clip - clip.mean((2, 3), keepdim=True), first, padding=2, stride=2) * 2)
        x = F.interpolate(F.conv2d(x, second, padding=2), clip.shape[-2:], mode="bilinear", align_corners=False)
        maps.append(x[:, 0] / (x.std() + 1e-3))
    return torch.stack(maps)


def _wobble(clips: Clips, size_px: Tensor, generator: torch.Generator) -> Clips:
    """Edges that are not where they were: each frame bent by a smooth displacement of its own."""
    b, t, h, w = clips.shape
    shifts = [_field(b, t, h, w, 10, generator) * size_px * 2 / side for side in (w, h)]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    grid = torch.stack((x + shifts[0], y + shifts[1]), -1).flatten(0, 1)
    bent = F.grid_sample(clips.flatten(0, 1)[:, None], grid, padding_mode="border", align_corners=True)
    return bent[:, 0].unflatten(0, (b, t))
