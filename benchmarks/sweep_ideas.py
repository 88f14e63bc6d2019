"""Ideas that the package does not have: the sweep tries them by patching the package in its process.

Each function affects runs that start afterwards in the same process. No patch is undone, as each run is a process.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from steadydepth.data import loader
from steadydepth.data.clips import Sample, hold_frame
from steadydepth.method import absolute_loss
from steadydepth.method.relative_loss import relative_loss
from steadydepth.models.decoders import GuidedDecoder
from steadydepth.models.depth_net import DepthNet
from steadydepth.ops.edges import EDGE_DISTANCES_PX, EDGE_LOG_STEP
from steadydepth.training import setup, step


def gain_of_edges() -> None:
    """In place of `lost_edges`: the distance of `edge_gain` of each clip, at each distance, from what it should be."""

    def loss(depth: Tensor, truth: Tensor, valid: Tensor, *, contrast: float = 1.0) -> Tensor:
        predicted, true = torch.where(valid, depth, 1).log(), torch.where(valid, truth, 1).log()
        total = predicted.new_zeros(())
        for distance in EDGE_DISTANCES_PX:
            product, energy = predicted.new_zeros(len(depth)), predicted.new_zeros(len(depth))
            for dim in (-1, -2):
                size = valid.shape[dim] - distance
                a, b, kept = (
                    (one.narrow(dim, distance, size), one.narrow(dim, 0, size)) for one in (predicted, true, valid)
                )
                jump = b[0] - b[1]
                jump = torch.where(kept[0] & kept[1] & (jump.abs() > EDGE_LOG_STEP), jump, 0)
                product = product + ((a[0] - a[1]) * jump).sum((1, 2, 3))
                energy = energy + jump.square().sum((1, 2, 3))
            off = product / torch.where(energy > 0, energy, 1) - contrast
            total = total + torch.where(energy > 0, off.abs(), 0).mean()
        return total / len(EDGE_DISTANCES_PX)

    absolute_loss.lost_edges = loss


def moved_stills() -> None:
    """Each frame of a still is shifted by up to 2 px, turned by 1 degree and zoomed by 3 % (Eilertsen 2019).

    The depth goes along unchanged, as the label of an image that is seen so; the motion between the frames is exact.
    """
    draws = np.random.default_rng(0)

    def hold(clip: Any, length: int, *, moves: bool) -> Sample:
        held = hold_frame(clip, length, moves=moves)
        if not moves or held.clip.depth is None or held.clip.valid is None:
            return held
        height, width = clip.frames.shape[1:3]
        views = [_small_view(draws, height, width) for _ in range(length)]

        def seen(images: np.ndarray, how: int) -> np.ndarray:
            size = width, height
            return np.stack([cv2.warpAffine(a, v[:2], size, flags=how) for a, v in zip(images, views, strict=True)])

        valid = seen(held.clip.valid.astype(np.uint8), cv2.INTER_NEAREST).astype(bool)
        y, x = np.mgrid[:height, :width].astype(np.float64)
        here = np.stack([x, y, np.ones_like(x)], axis=-1)
        motion = [
            (here @ (before @ np.linalg.inv(after)).T)[..., :2] - here[..., :2] for before, after in pairwise(views)
        ]
        moved = replace(
            held.clip,
            frames=seen(held.clip.frames, cv2.INTER_LINEAR),
            depth=seen(held.clip.depth, cv2.INTER_NEAREST),
            valid=valid,
        )
        return Sample(moved, np.stack(motion).astype(np.float32), np.ones((length - 1, height, width), bool))

    loader.hold_frame = hold


def _small_view(draws: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A small similarity about the middle of an image, from its pixels to where they are seen."""
    angle, zoom = math.radians(draws.uniform(-1, 1)), draws.uniform(0.97, 1.03)
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    view = np.eye(3)
    view[:2, :2] = zoom * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    view[:2, 2] = middle - view[:2, :2] @ middle + draws.uniform(-2, 2, 2)
    return view


class _Binomial(nn.Module):
    """1 2 1 in both directions, before a convolution that takes every second pixel (Zhang 2019)."""

    def forward(self, features: Tensor) -> Tensor:
        row = features.new_tensor([1.0, 2.0, 1.0]) / 4
        kernel = (row[:, None] * row).expand(features.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(features, (1, 1, 1, 1), mode="replicate"), kernel, groups=features.shape[1])


def blurred_strides() -> None:
    """Binomial blur before each strided convolution of the encoder but the first, which sees the image."""
    build, blur = DepthNet.__init__, _Binomial()

    def built(self: Any, *arguments: Any, **choices: Any) -> None:
        build(self, *arguments, **choices)
        strided = [one for one in self.encoder.modules() if isinstance(one, nn.Conv2d) and one.stride == (2, 2)]
        for convolution in strided[1:]:
            convolution.register_forward_pre_hook(lambda _, inputs: (blur(inputs[0]),))

    DepthNet.__init__ = built


def away_from_edges() -> None:
    """The relative loss leaves out pairs within 2 px of an edge of the later frame's label."""

    def loss(predicted: Any, truth: Any, **choices: Any) -> Tensor:
        depth = torch.where(truth.valid, truth.current, 1).log()
        edge = torch.zeros_like(depth)
        for dim in (-1, -2):
            jump = (depth.diff(dim=dim).abs() > EDGE_LOG_STEP).float()
            near = (0, 1) if dim == -1 else (0, 0, 0, 1)
            far = (1, 0) if dim == -1 else (0, 0, 1, 0)
            edge = torch.maximum(edge, torch.maximum(F.pad(jump, near), F.pad(jump, far)))
        kept = F.max_pool2d(edge, 3, stride=1, padding=1) == 0
        return relative_loss(predicted, replace(truth, valid=truth.valid & kept), **choices)

    setup.relative_loss = loss


def weight_by_progress() -> None:
    """The relative weight is small while the absolute loss falls fast: w exp(-fall in 50 steps / 2 %), no ramp."""
    calculate, means = step.calculate_losses, list[float]()

    def calculated(pairs: Any, **choices: Any) -> Any:
        losses = calculate(pairs, **choices)
        now = losses.absolute.item()
        means.append(now if not means else 0.97 * means[-1] + 0.03 * now)
        return losses

    def weight_at(number: int, *, steps: int, weight: float, ramp: float) -> float:
        fall = 1.0 if len(means) <= 50 else max(1 - means[-1] / means[-51], 0.0)
        return weight * math.exp(-fall / 0.02)

    step.calculate_losses, step.relative_weight_at = calculated, weight_at


def pooled_scale() -> None:
    """The mean of the coarsest features of an image decides a number that is added to all of its log depth."""
    build, decode = GuidedDecoder.__init__, GuidedDecoder.forward

    def built(self: Any, channels: list[int], width: int) -> None:
        build(self, channels, width)
        last = nn.Conv2d(width, 1, 1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.scale = nn.Sequential(nn.Conv2d(channels[-1], width, 1), nn.ReLU6(), last)

    def decoded(self: Any, features: list[Tensor]) -> Tensor:
        scale = self.scale(features[-1].mean((2, 3), keepdim=True))
        return decode(self, features) + scale

    GuidedDecoder.__init__, GuidedDecoder.forward = built, decoded  # type: ignore[method-assign]


IDEAS: dict[str, Callable[[], None]] = {
    "pooled_scale": pooled_scale,
    "gain_of_edges": gain_of_edges,
    "moved_stills": moved_stills,
    "blurred_strides": blurred_strides,
    "away_from_edges": away_from_edges,
    "weight_by_progress": weight_by_progress,
}
