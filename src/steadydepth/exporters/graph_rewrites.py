"""What ends in one channel, in a form that runtimes compute fast; the same sums in another order."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MovedTaps(nn.Module):
    """A convolution to one channel as one of 1 x 1 to a channel for each tap; these are moved in place and added.

    Runtimes compute channels by the 16, so the convolution as it is takes 16 times its operations, and what follows it,
    an enlargement and a sigmoid, is computed for 16 channels as well.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.rows, self.columns = (int(size) for size in conv.kernel_size)
        self.taps = nn.Conv2d(conv.in_channels, self.rows * self.columns, 1, bias=False)
        self.taps.weight.data = conv.weight[0].detach().flatten(1).T[..., None, None].clone()
        self.bias = conv.bias

    def forward(self, features: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 h w"]:
        """What the convolution gives, of the same size."""
        h, w = features.shape[-2:]
        p, q = self.rows // 2, self.columns // 2
        taps = F.pad(self.taps(features), (q, q, p, p)).unflatten(1, (self.rows, self.columns))
        lines = sum(taps[:, :, j, :, j : j + w] for j in range(self.columns))
        depth = sum(lines[:, i, i : i + h] for i in range(self.rows))[:, None]
        return depth if self.bias is None else depth + self.bias


def move_taps(model: nn.Module) -> nn.Module:
    """`model` itself, each of its convolutions to one channel at full size exchanged for its `MovedTaps`."""
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.Conv2d) and _is_to_one(part):
                setattr(module, name, MovedTaps(part))
    return model


def _is_to_one(conv: nn.Conv2d) -> bool:
    is_same_size = conv.stride == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
    is_same_size &= conv.padding == tuple(size // 2 for size in conv.kernel_size)
    is_odd = all(size % 2 for size in conv.kernel_size) and conv.kernel_size != (1, 1)
    return conv.out_channels == 1 and conv.in_channels > 1 and is_same_size and is_odd


def enlarge_twice(image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c i j"]:
    """Bilinear to twice the height and width, as `interpolate` without align_corners: a pixel and a neighbour, 3 to 1.

    OpenVINO enlarges a single channel as slowly as sixteen, which is a tenth of the time of a small network.
    """
    for dim in (3, 2):  # columns first: to put them side by side costs more than rows, and they are half as long then
        size = image.shape[dim]
        before = torch.cat((image.narrow(dim, 0, 1), image.narrow(dim, 0, size - 1)), dim)
        after = torch.cat((image.narrow(dim, 1, size - 1), image.narrow(dim, size - 1, 1)), dim)
        halves = [0.75 * image + 0.25 * neighbour for neighbour in (before, after)]
        image = torch.stack(halves, dim + 1).flatten(dim, dim + 1)
    return image


def _enlarge(
    image: Tensor, size: Sequence[int] | None, align_corners: bool, factors: Sequence[float] | None = None
) -> Any:
    """What stands in the place of an enlargement when torch takes it apart; NotImplemented leaves it as it is."""
    h, w = image.shape[2:]
    is_twice = list(size) == [2 * h, 2 * w] if size is not None else list(factors or ()) == [2, 2]
    return enlarge_twice(image) if is_twice and not align_corners and image.shape[1] == 1 else NotImplemented


# For `run_decompositions` of an exported program.
ENLARGED_BY_SLICES: dict[Any, Callable[..., Any]] = {torch.ops.aten.upsample_bilinear2d.vec: _enlarge}
