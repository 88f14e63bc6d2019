"""The learned filter: depth of any model made temporally consistent, one frame after another, with a small memory.

Each step warps what is remembered into the current frame, looks at how the new depth differs from it, and says for
each pixel how much of the memory to keep. Where nothing is remembered, or the memory does not fit, the new depth
passes. `ops.filter_step` is the step; here are the network that it asks, and the step on tensors, to train it.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from steadydepth.models.filter_gates import DILATIONS, N_GATES, REACH, WEIGHTS, WIDTH, read_filter_weights
from steadydepth.ops.filter_step import N_FEATURES, begin, filter_step, find_unit, guide_factor, padding
from steadydepth.ops.warp import as_grid
from steadydepth.types import Claims, Depth, Frames, State

Map = Float[Tensor, "b h w"]


class FilterGates(nn.Module):
    """The network of the learned filter: how much of the memory to keep, from features of what differs.

    It knows nothing of the model, its claims or the size of the video, and keeps nothing between calls.

    Args:
        width: channels.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation)
            for inputs, dilation in zip((N_FEATURES, width, width), DILATIONS, strict=True)
        )
        self.head = nn.Conv2d(width, N_GATES, 1)
        nn.init.zeros_(self.head.weight)
        # As a start: keep most of what differs by little.
        self.head.bias = nn.Parameter(torch.tensor([1.0, 1.0, 1.0, -2.0]))

    def forward(self, features: Float[Tensor, "b 19 y x"]) -> Float[Tensor, "b 4 y x"]:
        """How much is kept of the detail, the middle and the low frequencies, and 1 / how large a detail may be."""
        x = features
        for layer in self.layers:
            x = F.relu(layer(x))
        keep, reach = self.head(x).split((3, 1), 1)
        return torch.cat((keep.sigmoid(), (-reach.clamp(*REACH)).exp()), 1)


class TemporalFilter(nn.Module):
    """Depth of any model in, temporally consistent depth out; the state is what is remembered of the frames before.

    Args:
        claims: what the numbers of the depth mean, as the model that they are from claims.
        gates: the network; None for an untrained one.
    """

    def __init__(self, claims: Claims = "metric", gates: FilterGates | None = None) -> None:
        super().__init__()
        self.claims, self.gates = claims, gates or FilterGates()

    def forward(
        self,
        frames: Frames,
        depth: Depth,
        state: State | None = None,
        *,
        motion: Float[Tensor, "b t y x 2"],
        strength: Float[Tensor, "b"] | float = 1.0,
    ) -> tuple[Depth, State]:
        """Filter consecutive frames of depth.

        Args:
            frames: RGB in [0, 1], of the size of the depth.
            depth: in the units of `claims`. A value that is not finite, or a depth that is not above 0, passes as it
                is and is never remembered.
            state: what the call for the frames before returned; None at the beginning of a video.
            motion: where each pixel was in the frame before, in pixels (x, y) from here, at guide size
                (`ops.filter_step.guide_factor`); of a first frame it is not used.
            strength: from 0, which returns the depth as it is, to 1, for all streams or for each.

        Returns: depth of each frame, and the state that the last one leaves.
        """
        height, width = depth.shape[-2:]
        first = depth[:, 0]
        guides = guides_of(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        depth = _pad(depth, *padding(height, width))
        if state is None:
            units = [torch.from_numpy(find_unit(one.detach().cpu().numpy(), self.claims)) for one in first]
            state = begin(depth[:, 0], guides[:, 0], torch.stack(units).to(depth))
        strengths = torch.as_tensor(strength, dtype=depth.dtype, device=depth.device).expand(len(depth))[:, None, None]
        filtered = []
        backend = _TorchBackend(self.gates)
        for guide, raw, moved in zip(guides.unbind(1), depth.unbind(1), motion.unbind(1), strict=True):
            out, state = filter_step(backend, guide, raw, moved, state, claims=self.claims, strength=strengths)
            filtered.append(out)
        return torch.stack(filtered, dim=1)[..., :height, :width], state


class _TorchBackend:
    """`ops.filter_step.Backend` on tensors, batched along their first axis."""

    def __init__(self, gates: FilterGates) -> None:
        self._network = gates

    def sample(self, maps: list[Map], x: Map, y: Map, *, is_cubic: bool = False) -> list[Map]:
        images, at = torch.stack(maps, 1), torch.stack((x, y), -1)
        grid = as_grid(at, *images.shape[-2:])
        mode = "bicubic" if is_cubic else "bilinear"
        return list(F.grid_sample(images, grid, mode=mode, padding_mode="border", align_corners=False).unbind(1))

    def shrink(self, map: Map, factor: int) -> Float[Tensor, "b y x"]:
        return map if factor == 1 else F.avg_pool2d(map, factor)

    def enlarge(self, map: Map, factor: int) -> Float[Tensor, "b y x"]:
        if factor == 1:
            return map
        return F.interpolate(map[:, None], scale_factor=factor, mode="bilinear", align_corners=False)[:, 0]

    def blur(self, map: Map, size: int) -> Map:
        reach = size // 2
        padded = F.pad(map[:, None], (reach, reach, reach, reach), mode="replicate")
        return F.avg_pool2d(F.avg_pool2d(padded, (1, size), 1), (size, 1), 1)[:, 0]

    def gates(self, features: list[Map]) -> list[Map]:
        return list(self._network(torch.stack(features, 1)).unbind(1))


def load_gates(weights: Path = WEIGHTS) -> FilterGates:
    """The trained network of the filter, in evaluation mode.

    Raises:
        InputError: there are no such weights, or they are damaged.
    """
    arrays = read_filter_weights(weights)
    gates = FilterGates(width=len(arrays["layers.0.bias"]))
    gates.load_state_dict({name: torch.from_numpy(each) for name, each in arrays.items()})
    return gates.eval()


def guides_of(frames: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 i j"]:
    """Frames as they are compared: padded to full cells, and at guide size."""
    height, width = frames.shape[-2:]
    return F.avg_pool2d(_pad(frames, *padding(height, width)), guide_factor(height, width))


def start_state(depth: Float[Tensor, "b h w"], guides: Float[Tensor, "b 3 i j"], unit: Float[Tensor, "b 2"]) -> State:
    """What the filter remembers before a first frame, in a unit that is known already.

    Args:
        depth: of the first frame, in the units of the claims.
        guides: RGB in [0, 1], at guide size.
        unit: offset and scale that logarithms are counted from.
    """
    return begin(_pad(depth, *padding(*depth.shape[-2:])), guides, unit)


def _pad(maps: Float[Tensor, "b *c h w"], rows: int, columns: int) -> Float[Tensor, "b *c i j"]:
    return F.pad(maps, (0, columns, 0, rows), mode="replicate") if rows or columns else maps
