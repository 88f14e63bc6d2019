"""One alignment for a complete clip: what a prediction is allowed to be wrong by before it is scored or trained on.

Sums are float64 and centred: uncentred float32 sums lose three to four digits. A value that is not finite, in the
prediction or in the label, is left out of every fit.

The fits of tensors carry a gradient. `fit_line` of added `Moments` and `count_keys` give the same numbers from parts:
what is counted of each part is added, so a clip of any length needs no more memory than a frame.
"""

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt32
from torch import Tensor

from steadydepth.ops.moments import Moments
from steadydepth.types import Claims

# 1 / metres, of aligned disparity (Video-Depth-Anything, DepthCrafter): nothing is farther than 1000 m.
LEAST_DISPARITY = 1e-3
# What stands for an unknown offset, as a share of the mean over a clip.
FAR = 0.1

Values = TypeVar("Values", Tensor, np.ndarray)
Numbers = Float[Tensor, "..."]
Chosen = Bool[Tensor, "..."]


@dataclass(frozen=True)
class Alignment:
    """aligned = scale * prediction + shift; both NaN when nothing could be fitted."""

    scale: Float64[Tensor, ""]
    shift: Float64[Tensor, ""]

    @classmethod
    def of(cls, scale: float, shift: float) -> "Alignment":
        """The same from plain numbers, as a report has them."""
        return cls(torch.tensor(scale, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64))


def _kept(predicted: Numbers, target: Numbers, valid: Chosen) -> tuple[Float64[Tensor, "n"], Float64[Tensor, "n"]]:
    """The valid and finite values of both, float64."""
    kept = valid & torch.isfinite(predicted) & torch.isfinite(target)
    return predicted[kept].double(), target[kept].double()


def median(values: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Median as NumPy has it, the mean of the two middle values (torch.median gives the lower); NaN of nothing."""
    n = values.numel()
    if n == 0:
        return values.new_full((), torch.nan)
    ordered = values.sort().values
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


def fit_scale(predicted: Numbers, target: Numbers, valid: Chosen) -> Alignment:
    """Least squares of scale * predicted = target: sum(x y) / sum(x x). A prediction of zeros gets scale 0.

    Args:
        predicted: depth or inverse depth, in any unit.
        target: what it is fitted to; anything where not valid.
        valid: the pixels of the fit.

    Returns: scale, and shift 0; NaN without a valid pixel.
    """
    x, y = _kept(predicted, target, valid)
    energy = (x * x).sum()
    scale = torch.where(energy > 0, (x * y).sum() / torch.where(energy > 0, energy, 1), 0)
    return Alignment(scale if x.numel() else scale * torch.nan, torch.zeros_like(scale))


def fit_median_scale(predicted: Numbers, target: Numbers, valid: Chosen) -> Alignment:
    """median(target) / median(predicted) over all valid pixels together (monodepth2, there for each image).

    A median prediction of 0 gets scale 0.

    Args:
        predicted: depth or inverse depth, in any unit.
        target: what it is fitted to; anything where not valid.
        valid: the pixels of the fit.

    Returns: scale, and shift 0; NaN without a valid pixel.
    """
    x, y = _kept(predicted, target, valid)
    middle = median(x)
    scale = torch.where(middle == 0, 0, median(y) / torch.where(middle == 0, 1, middle))
    return Alignment(scale, torch.zeros_like(scale))


def fit_scale_shift(predicted: Numbers, target: Numbers, valid: Chosen) -> Alignment:
    """Least squares of scale * predicted + shift = target, in closed form: scale = cov(x, y) / var(x).

    A constant prediction gets scale 0 and shift mean(target), the minimum-norm solution of numpy.linalg.lstsq up to
    the split between the two.

    Args:
        predicted: depth or inverse depth, in any unit.
        target: what it is fitted to; anything where not valid.
        valid: the pixels of the fit.

    Returns: scale and shift; NaN without a valid pixel.
    """
    x, y = _kept(predicted, target, valid)
    x_mean, y_mean = x.mean(), y.mean()
    variance = ((x - x_mean) ** 2).mean()
    # Rounding of the mean leaves about 1e-16 of the size of x; real spread, even of float16 values, is far above.
    spread = variance > (1e-12 * x_mean) ** 2
    covariance = ((x - x_mean) * (y - y_mean)).mean()
    scale = torch.where(spread, covariance / torch.where(spread, variance, 1), 0)
    scale = scale if x.numel() else x_mean
    return Alignment(scale, y_mean - scale * x_mean)


def fit_disparity(predicted: Numbers, target: Numbers, valid: Chosen) -> Alignment:
    """Least squares of scale * predicted + shift = 1 / (target + 1e-8) over the complete clip.

    The fit of DepthCrafter and Video-Depth-Anything (benchmark/eval/eval.py) but for one step: they raise disparity to
    1e-3 before it, which depends on its unit and offset; a caller who follows them does so first. A negative scale, an
    inverted prediction, is theirs to accept and the caller's to flag.

    Args:
        predicted: inverse depth up to one factor and one offset, of any sign.
        target: depth of the label, metres, above 0 where valid.
        valid: where it was measured.

    Returns: scale and shift; NaN without a valid pixel.
    """
    inverse = 1 / (torch.where(valid, target, 1).double() + 1e-8)
    return fit_scale_shift(predicted.double(), inverse, valid)


def apply(predicted: Float[Tensor, "*any"], alignment: Alignment) -> Float64[Tensor, "*any"]:
    """Apply a fit: scale * predicted + shift, float64."""
    return predicted.double() * alignment.scale + alignment.shift


def _at_least(disparity: Float64[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    return disparity.clamp(min=LEAST_DISPARITY)


def fitted_values(
    values: Float[Tensor, "*any"], claims: Claims, align: str, *, clips_disparity: bool = False
) -> Float64[Tensor, "*any"]:
    """What an alignment is fitted to: inverse depth where `align` is "disparity", else depth; of any sign and unit.

    Args:
        values: predicted, in the units of `claims`.
        claims: what they mean.
        align: the alignment, as `evaluate` names it.
        clips_disparity: inverse depth is raised to 0.001 before the fit, as Video-Depth-Anything does.

    Returns: infinity where a value at or below 0 would be inverted: such a pixel has no part in a fit.
    """
    x = values.double()
    if (claims == "disparity") != (align == "disparity"):
        x = torch.where(x > 0, 1 / torch.where(x > 0, x, 1), torch.where(x.isnan(), x, torch.inf))
    return _at_least(x) if align == "disparity" and clips_disparity else x


def to_depth(
    values: Float[Tensor, "*any"],
    claims: Claims,
    align: str,
    alignment: Alignment | None,
    *,
    clips_disparity: bool = False,
) -> Float64[Tensor, "*any"]:
    """Depth of predicted values, as far as an alignment makes it known.

    Args:
        values: what a model predicted, in the units of its `claims`.
        claims: what the numbers of the model mean.
        align: what was fitted: "none", "scale", "affine" (both of depth) or "disparity" (of inverse depth).
        alignment: the fit for the clip; without one the depth is of unknown scale. Not used with "none".
        clips_disparity: what was fitted was raised to 0.001 first (`fitted_values`).

    Returns: depth, in metres where aligned; it may be 0, negative or NaN.
    """
    if alignment is None or align == "none":
        return fitted_values(values, claims, "none")
    aligned = apply(fitted_values(values, claims, align, clips_disparity=clips_disparity), alignment)
    return 1 / _at_least(aligned) if align == "disparity" else aligned


def comparable_depth(values: Values, claims: Claims, *, low: float | Tensor, mean: float | Tensor) -> Values:
    """Depth above 0, up to one factor, whose relative changes can be compared with another model's without a label.

    Of disparity and affine depth the offset is unknown: relative changes near 0 mean nothing. x = max(values - low, 0)
    / (mean - low) + 0.1 is one choice of the offset; 1 / x of disparity and x of affine depth.

    Args:
        values: what was predicted, in the units of `claims`; depth in metres or up to a factor is left alone.
        claims: what the numbers mean.
        low: the smallest value, or 0 where none is below 0, of the model that others are compared with, in the clip.
        mean: the mean value of that model in the clip.
    """
    if claims in ("metric", "scale"):
        return values
    x = (values - low).clip(0) / (mean - low) + FAR
    return 1 / x if claims == "disparity" else x


def fit_line(moments: Moments) -> tuple[float, float]:
    """Scale and shift of `fit_scale_shift` for samples (x, y) given as moments; both NaN of nothing."""
    if not moments.n:
        return math.nan, math.nan
    x_mean, xx = float(moments.x_mean), float(moments.xx)
    has_spread = xx / float(moments.n) > (1e-12 * x_mean) ** 2
    scale = float(moments.xy) / xx if has_spread else 0.0
    return scale, float(moments.y_mean) - scale * x_mean


def count_keys(values: Float32[np.ndarray, "n"], first: int | None = None) -> Int64[np.ndarray, "65536"]:
    """How many values have each first half of 16 bits, in the order of the values.

    Or, of those whose first half is `first`, how many have each second half. Counts of parts are added; `find_rank`
    finds a median in them.
    """
    keys = _ordered_keys(values)
    if first is None:
        return np.bincount(keys >> np.uint32(16), minlength=65536)
    return np.bincount(keys[keys >> np.uint32(16) == first] & np.uint32(0xFFFF), minlength=65536)


def find_rank(counts: Int64[np.ndarray, "65536"], rank: int) -> tuple[int, int]:
    """The half that the value of that rank (0 the smallest) has, and its rank among the values that share it."""
    until = np.cumsum(counts)
    half = int(np.searchsorted(until, rank, side="right"))
    return half, rank - int(until[half] - counts[half])


def value_of(first: int, second: int) -> float:
    """The float32 of those two halves."""
    key = np.uint32(first << 16 | second)
    bits = key & np.uint32(0x7FFFFFFF) if key >> np.uint32(31) else ~key
    return float(np.array(bits, np.uint32).view(np.float32))


def _ordered_keys(values: Float32[np.ndarray, "n"]) -> UInt32[np.ndarray, "n"]:
    """Unsigned numbers in the order of the values: the bits, with the sign turned, and all turned where negative."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(0x80000000))
