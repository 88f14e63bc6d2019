"""Networks whose depth is known by hand, and films that show which frame is which."""

import numpy as np
import torch
from torch import Tensor, nn

from steadydepth.types import State


class Red(nn.Module):
    """Depth is `factor` times the red of a pixel, from 0 to 1, and `offset`; keeps how many frames each call showed."""

    def __init__(self, claims: str = "metric", factor: float = 255.0, offset: float = 1.0) -> None:
        super().__init__()
        self.claims, self.factor, self.offset = claims, factor, offset
        self.chunks: list[int] = []

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.chunks.append(frames.shape[1])
        return frames[:, :, 0] * self.factor + self.offset, {}


class Average(nn.Module):
    """Depth is `base` more than the mean red so far at each pixel; keeps how many frames each call showed."""

    claims = "metric"

    def __init__(self, base: float = 1.0) -> None:
        super().__init__()
        self.base = base
        self.chunks: list[int] = []

    def forward(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.chunks.append(frames.shape[1])
        total = state["total"] if state else torch.zeros_like(frames[:, 0, 0])
        count = state["count"] if state else torch.zeros(len(frames))
        depths = []
        for frame in frames.unbind(1):
            total, count = total + 255 * frame[:, 0], count + 1
            depths.append(self.base + total / count[:, None, None])
        return torch.stack(depths, 1), {"total": total, "count": count}


def averages(frames: np.ndarray, base: float = 1.0) -> np.ndarray:
    """What `Average` says of a film."""
    counts = np.arange(1, len(frames) + 1)[:, None, None]
    return (base + np.cumsum(frames[..., 0].astype(np.float64), axis=0) / counts).astype(np.float32)


def film(seed: int = 0, n_frames: int = 9, height: int = 40, width: int = 56) -> np.ndarray:
    """One image that moves a pixel a frame."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = np.kron(coarse, np.ones((4, 4, 1), np.uint8))
    return np.stack([np.roll(image, t, axis=1) for t in range(n_frames)])
