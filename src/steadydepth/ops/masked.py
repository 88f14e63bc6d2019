"""Averages over valid pixels: the only place where a sum is divided by a mask."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(
    values: Float[Tensor, "..."], valid: Bool[Tensor, "..."], dim: tuple[int, ...] | None = None
) -> Float[Tensor, "..."]:
    """Mean of `values` where `valid`, over all axes or over `dim`; a differentiable 0 where nothing is valid.

    Whatever stands at an invalid pixel, NaN and infinity included, reaches neither the value nor the gradient of this
    function; make it harmless before any logarithm or division as well.
    """
    dim = tuple(range(values.ndim)) if dim is None else dim
    safe = torch.where(valid, values, 0)
    return safe.sum(dim) / valid.sum(dim).clamp(min=1)
