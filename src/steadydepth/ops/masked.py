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

    Args:
        values: anything where not valid.
        valid: the pixels that count.
        dim: axes to average over; None is all.
    """
    return masked_share(values, valid, valid, dim)


def masked_share(
    values: Float[Tensor, "..."],
    counted: Bool[Tensor, "..."],
    valid: Bool[Tensor, "..."],
    dim: tuple[int, ...] | None = None,
) -> Float[Tensor, "..."]:
    """Sum of `values` where `counted`, divided by the number of `valid`: a sum over fewer things than it is shared by.

    0 where nothing is valid; what stands where nothing is counted reaches neither the value nor the gradient.

    Args:
        values: anything where not counted.
        counted: the pixels of the sum.
        valid: the pixels that the sum is shared by.
        dim: axes to sum over; None is all.
    """
    safe = values.masked_fill(~counted, 0)
    return safe.sum(dim) / valid.sum(dim).clamp(min=1)


def masked_median(values: Float[Tensor, "n m"], valid: Bool[Tensor, "n m"]) -> Float[Tensor, "n 1"]:
    """Lower median of each row where `valid`, as torch has it; 0 for a row without any."""
    middle = torch.where(valid, values, torch.nan).nanmedian(dim=1, keepdim=True).values
    return torch.where(valid.any(dim=1, keepdim=True), middle, 0)
