"""The learned filter: depth of any model made temporally consistent, one frame after another, with a small memory.

Each step warps what is remembered into the current frame, looks at how the new depth differs from it, and says for
each pixel how much of the memory to keep. Where nothing is remembered, or the memory does not fit, the new depth
passes. All sums are on log depth, or on a map of inverse depth that is like it, so a constant factor changes nothing.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from steadydepth.ops.warp import as_grid, follow
from steadydepth.types import Claims, Depth, Frames, InputError, State

WEIGHTS = Path(__file__).with_suffix(".safetensors")
WIDTH = 24  # channels of the shipped weights
N_FEATURES = 18
GUIDE_SIDE = 96  # about as many pixels has the shorter side of the images that are compared; the network sees half
MOST_KEPT = 0.98  # of the memory: half of it is gone after 34 frames, whatever the network says
KNEE = 0.2  # of the mean, where inverse depth stops being like a logarithm and goes on as a line
LEAST = 1e-12

Map = Float[Tensor, "b h w"]
Maps = Float[Tensor, "b c i j"]
One = Float[Tensor, "b 1 i j"]


class Memory(NamedTuple):
    """What is remembered, warped into the current frame; 0 where `inside` is 0."""

    filtered: Map  # log depth that was returned for the frame before
    age: Map  # how many frames it is worth
    inside: Map  # 1 where the frame before shows the pixel and a depth is remembered


class View(NamedTuple):
    """The current frame beside the warped one before it, at guide size."""

    frame: Float[Tensor, "b 3 i j"]
    raw: One  # log depth of the model
    frame_before: Float[Tensor, "b 3 i j"]
    raw_before: One
    spread: One  # how far the depth has been from what is remembered, on average
    flow: Float[Tensor, "b 2 i j"]  # pixels of this size; 0 where unknown
    inside: One  # share of the pixels that are


class TemporalFilter(nn.Module):
    """Depth of any model in, temporally consistent depth out; the state is what is remembered of the frames before.

    Args:
        claims: what the numbers of the depth mean, as the model that they are from claims.
        width: channels of the network.
    """

    def __init__(self, claims: Claims = "metric", width: int = WIDTH) -> None:
        super().__init__()
        self.claims = claims
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
            for inputs, dilation in ((N_FEATURES, 1), (width, 2), (width, 4))
        )
        self.head = nn.Conv2d(width, 3, 1)
        nn.init.zeros_(self.head.weight)
        self.head.bias = nn.Parameter(torch.tensor([1.0, 1.0, -2.0]))  # as a start: keep most of what differs by little

    def forward(
        self,
        frames: Frames,
        depth: Depth,
        state: State | None = None,
        *,
        motion: Float[Tensor, "b t h w 2"],
        strength: Float[Tensor, "b"] | float = 1.0,
    ) -> tuple[Depth, State]:
        """Filter consecutive frames of depth.

        Args:
            frames: RGB in [0, 1], of the size of the depth.
            depth: in the units of `claims`. A value that is not finite, or a depth that is not above 0, passes as it
                is and is never remembered.
            state: what the call for the frames before returned; None at the beginning of a video.
            motion: where each pixel was in the frame before, in pixels (x, y) from here; of a first frame it is not
                used.
            strength: from 0, which returns the depth as it is, to 1, for all streams or for each.

        Returns: depth of each frame, and the state that the last one leaves.
        """
        if state is None:
            state = self.start(frames[:, 0], depth[:, 0])
        strengths = torch.as_tensor(strength, dtype=depth.dtype, device=depth.device).expand(len(depth))
        filtered = []
        for frame, raw, moved in zip(frames.unbind(1), depth.unbind(1), motion.unbind(1), strict=True):
            out, state = self._step(frame, raw, moved, strengths, state)
            filtered.append(out)
        return torch.stack(filtered, dim=1), state

    def start(self, frame: Float[Tensor, "b 3 h w"], depth: Map) -> State:
        """The state before a first frame: nothing is remembered, and the unit of the depth is fixed for good."""
        guide = torch.zeros_like(_shrink(depth[:, None], _guide_factor(depth))[:, 0])
        # A tensor of its own for each: an exporter takes one that is given twice for one input.
        return {
            "frame": torch.zeros_like(guide)[:, None].repeat(1, 3, 1, 1),
            "raw": torch.zeros_like(guide),
            "spread": torch.zeros_like(guide),
            "filtered": torch.zeros_like(depth),
            "age": torch.zeros_like(depth),
            "unit": torch.stack([_unit(one, self.claims) for one in depth]),
        }

    def _step(
        self,
        frame: Float[Tensor, "b 3 h w"],
        depth: Map,
        motion: Float[Tensor, "b h w 2"],
        strength: Float[Tensor, "b"],
        state: State,
    ) -> tuple[Map, State]:
        usable = depth.isfinite()
        if self.claims in ("metric", "scale"):
            usable = usable & (depth > 0)
        unit, ones = state["unit"], usable.to(depth.dtype)
        raw = self.to_log(torch.where(usable, depth, unit.sum(1)[:, None, None]), unit) * ones

        memory = _recall(state, motion, usable)
        guide = _guide_factor(depth)
        view = _compare(frame, raw, ones, motion, memory, state, guide)
        step = (memory.filtered - raw) * memory.inside
        step_seen = _shrink(step[:, None], guide)
        low, common = _low_frequencies(step_seen, view)
        x = _features(step_seen, low, common, view, _shrink(memory.age[:, None], guide), strength)
        for layer in self.layers:
            x = F.relu(layer(x))
        low = _enlarge(low, 2 * guide, depth.shape[-2:])[:, 0]
        keep, keep_low, reach = _enlarge(self.head(x), 2 * guide, depth.shape[-2:]).unbind(1)

        detail = (step - low) * memory.inside
        # Decided at full size, or thin things and edges would be decided by what is beside them.
        fits = 1 / (1 + (detail * (-reach.clamp(-8, 2)).exp()).square())
        most = (MOST_KEPT * strength)[:, None, None]
        kept = most * keep.sigmoid() * fits * memory.inside
        out = raw + (kept * detail + most * keep_low.sigmoid() * low) * ones

        filtered = torch.where(usable & (out != raw), self.from_log(out, unit), depth)
        far = _shrink(detail.abs()[:, None], guide) / view.inside.clamp(min=0.1)
        count = (_shrink(memory.age[:, None], guide) + 1).clamp(max=8)
        spread = (view.spread + (far - view.spread) / count) * view.inside
        return filtered, {
            "frame": view.frame,
            "raw": view.raw[:, 0],
            "spread": spread[:, 0],
            "filtered": out * ones,
            "age": (1 + kept * memory.age) * ones,
            "unit": unit,
        }

    def to_log(self, depth: Float[Tensor, "b *t h w"], unit: Float[Tensor, "b 2"]) -> Float[Tensor, "b *t h w"]:
        """Log depth, in a session's unit; of what has an offset its inverse hyperbolic sine, which takes both signs."""
        offset, scale = unit.view(len(unit), 2, *[1] * (depth.ndim - 1)).unbind(1)
        share = (depth - offset) / scale
        if self.claims in ("metric", "scale"):
            return share.log()
        bent = (share / KNEE).asinh()
        return -bent if self.claims == "disparity" else bent

    def from_log(self, log_depth: Float[Tensor, "b *t h w"], unit: Float[Tensor, "b 2"]) -> Float[Tensor, "b *t h w"]:
        """The inverse of `to_log`."""
        offset, scale = unit.view(len(unit), 2, *[1] * (log_depth.ndim - 1)).unbind(1)
        if self.claims in ("metric", "scale"):
            return log_depth.exp() * scale + offset
        bent = -log_depth if self.claims == "disparity" else log_depth
        return bent.sinh() * KNEE * scale + offset


def load_temporal_filter(claims: Claims, weights: Path = WEIGHTS) -> TemporalFilter:
    """The trained filter for depth of those claims, in evaluation mode."""
    if not weights.is_file():
        raise InputError(f"{weights}: no such file of weights; train the filter with configs/temporal_filter.yaml")
    tensors = load_file(weights)
    network = TemporalFilter(claims, width=len(tensors["head.weight"][0]))
    network.load_state_dict(tensors)
    return network.eval()


def _unit(depth: Float[Tensor, "h w"], claims: Claims) -> Float[Tensor, "2"]:
    """Offset and scale of one frame: what a session takes for 0 and for 1."""
    # Every so many pixels are enough, and `quantile` takes no more than 16 million.
    values = depth.flatten()[:: max(1, depth.numel() // 50_000)].float()
    values = values[values.isfinite()]
    if claims in ("metric", "scale"):
        values = values[values > 0]
        return torch.stack((values.new_zeros(()), values.log().mean().exp() if len(values) else values.new_ones(())))
    if not len(values):
        return values.new_tensor([0.0, 1.0])
    offset = values.quantile(0.01)
    return torch.stack((offset, (values.mean() - offset).clamp(min=1e-6 * values.abs().max() + LEAST)))


def _guide_factor(depth: Map) -> int:
    return max(1, round(min(depth.shape[-2:]) / GUIDE_SIDE))


def _sample(maps: Maps, at: Float[Tensor, "b y x 2"], mode: str = "bilinear") -> Float[Tensor, "b c y x"]:
    grid = as_grid(at, *maps.shape[-2:])
    return F.grid_sample(maps, grid, mode=mode, padding_mode="border", align_corners=False)


def _recall(state: State, motion: Float[Tensor, "b h w 2"], usable: Tensor) -> Memory:
    """What is remembered, sampled where each pixel was; pixels of which nothing is known have no vote."""
    height, width = motion.shape[1:3]
    at = follow(motion)
    known = (state["age"] > 0).to(motion.dtype)
    filtered, age, weight = _sample(torch.stack((state["filtered"], state["age"], known), dim=1), at).unbind(1)
    # Bilinear samples of samples blur more with every frame.
    sharp = _sample(state["filtered"][:, None], at, "bicubic")[:, 0]
    filtered = torch.where(weight > 0.999, sharp, filtered)
    x, y = at.unbind(-1)
    here = (x > -1) & (y > -1) & (x < width) & (y < height) & (weight > 0.5) & usable
    inside = here.to(motion.dtype)
    share = inside / weight.clamp(min=0.5)
    return Memory(filtered * share, age * share, inside)


def _compare(
    frame: Float[Tensor, "b 3 h w"],
    raw: Map,
    usable: Map,
    motion: Float[Tensor, "b h w 2"],
    memory: Memory,
    state: State,
    factor: int,
) -> View:
    """The frame and its depth, and what is remembered of those before, at guide size."""
    image, raw_seen, usable_seen, inside = _shrink(
        torch.cat((frame, torch.stack((raw, usable, memory.inside), 1)), 1), factor
    ).split((3, 1, 1, 1), 1)
    moved = _shrink(motion.permute(0, 3, 1, 2), factor) / factor
    remembered = torch.cat((state["frame"], torch.stack((state["raw"], state["spread"]), 1)), 1)
    before, raw_before, spread = _sample(remembered, follow(moved.permute(0, 2, 3, 1))).split((3, 1, 1), 1)
    return View(
        image,
        raw_seen / usable_seen.clamp(min=0.1),
        before,
        raw_before * inside,
        spread * inside,
        torch.where(inside > 0, moved, 0).nan_to_num(0.0),
        inside,
    )


def _shrink(maps: Maps, factor: int) -> Float[Tensor, "b c y x"]:
    """Mean of cells of factor x factor; those at the end may be smaller."""
    if factor == 1:
        return maps
    height, width = maps.shape[-2:]
    if height % factor or width % factor:
        return F.avg_pool2d(maps, factor, ceil_mode=True, count_include_pad=False)
    # The same, in a fraction of the time that ONNX Runtime takes for a pool with unequal cells.
    return maps.unflatten(3, (-1, factor)).unflatten(2, (-1, factor)).mean((3, 5))


def _enlarge(maps: Maps, factor: int, size: tuple[int, ...]) -> Float[Tensor, "b c y x"]:
    if factor > 1:
        maps = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    return maps[..., : size[0], : size[1]]


def _residual(view: View) -> Float[Tensor, "b 1 i j"]:
    """How the warped frame differs from the new one, once both are equally bright."""
    now, before = (
        ((image * view.inside).mean((1, 2, 3), keepdim=True) + 1e-3) for image in (view.frame, view.frame_before)
    )
    return ((view.frame - view.frame_before * (now / before)) * view.inside).abs().mean(1, keepdim=True)


def _low_frequencies(step: One, view: View) -> tuple[Float[Tensor, "b 1 y x"], Float[Tensor, "b 1 1 1"]]:
    """Smooth part of how the memory differs from the new depth, at the network's size, and its mean over the frame.

    Both are robust: what moves, or was covered before, differs by more and has little weight.
    """
    trusted = view.inside / (1 + (_residual(view) / 0.1).square())
    small = _shrink(torch.cat((step * trusted, trusted), 1), 2)
    weight = small[:, 1:]
    value = small[:, :1] / weight.clamp(min=1e-3)
    common = _mean(value, weight)
    for reach in (0.2, 0.1, 0.05):
        common = _mean(value, weight / (1 + ((value - common) / reach).square()))
    robust = weight / (1 + ((value - common) / 0.1).square())
    sums = torch.cat((robust * (value - common), robust), 1)
    for _ in range(2):
        sums = F.avg_pool2d(sums, (9, 1), 1, (4, 0), count_include_pad=False)
        sums = F.avg_pool2d(sums, (1, 9), 1, (0, 4), count_include_pad=False)
    return common + sums[:, :1] / (sums[:, 1:] + 0.02), common


def _mean(value: One, weight: One) -> Float[Tensor, "b 1 1 1"]:
    return (value * weight).sum((2, 3), keepdim=True) / (weight.sum((2, 3), keepdim=True) + 1e-3)


def _squash(change: Tensor) -> Tensor:
    """About -2 to 2: changes of one per cent of depth are distinguished, and so are those of half."""
    return change.sign() * (change.abs() / 0.02).log1p() * 0.5


def _gradient(image: Maps) -> Float[Tensor, "b 1 i j"]:
    """Length of the gradient by differences to the next pixels, mean over channels."""
    right = F.pad(image[..., :, 1:] - image[..., :, :-1], (0, 1))
    down = F.pad(image[..., 1:, :] - image[..., :-1, :], (0, 0, 0, 1))
    return (right.square() + down.square() + 1e-8).sqrt().mean(1, keepdim=True)


def _features(
    step: One,
    low: Float[Tensor, "b 1 y x"],
    common: Float[Tensor, "b 1 1 1"],
    view: View,
    age: One,
    strength: Float[Tensor, "b"],
) -> Float[Tensor, "b f y x"]:
    """What the network looks at, at its own size."""
    change = view.raw_before - view.raw * view.inside
    inputs = torch.cat(
        (
            step,
            step.abs(),
            change,
            change.abs(),
            _residual(view),
            _gradient(view.raw),
            _gradient(view.frame),
            age,
            view.spread,
            view.inside,
            view.flow,
        ),
        1,
    )
    step, step_size, change, change_size, residual, edges, texture, age, spread, inside, x, y = _shrink(
        inputs, 2
    ).split(1, 1)
    flow = torch.cat((x, y), 1) / 2
    widening = F.pad(x[:, :, :, 2:] - x[:, :, :, :-2], (1, 1)) + F.pad(y[:, :, 2:] - y[:, :, :-2], (0, 0, 1, 1))
    everywhere = torch.ones_like(inside)
    return torch.cat(
        (
            _squash(step),
            _squash(step_size),
            _squash(step - low),
            _squash(low),
            _squash(common) * everywhere,
            _squash(change),
            _squash(change_size),
            _squash(change - step),
            residual * 10,
            _squash(edges),
            texture * 10,
            age.log1p() / 2,
            _squash(spread),
            inside,
            flow.square().sum(1, keepdim=True).add(1e-8).sqrt().log1p(),
            _gradient(flow).log1p(),
            (widening / 2).clamp(-1, 1),
            everywhere * strength[:, None, None, None],
        ),
        1,
    )
