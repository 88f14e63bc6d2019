"""One alignment for a whole clip: what a prediction is allowed to be wrong by before it is scored or trained on.

Sums are float64 and centred: uncentred float32 sums lose three to four digits. A value that is not finite, in the
prediction or in the label, is left out of every fit.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

# Video-Depth-Anything and DepthCrafter: no disparity below this, so nothing is farther than 1000 m.
LEAST_DISPARITY = 1e-3


@dataclass(frozen=True)
class Alignment:
    """aligned = scale * prediction + shift; both NaN when nothing could be fitted."""

    scale: Float64[Tensor, ""]
    shift: Float64[Tensor, ""]


def _kept(
    predicted: Float[Tensor, "..."], target: Float[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> tuple[Float64[Tensor, "n"], Float64[Tensor, "n"]]:
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


def fit_scale(predicted: Float[Tensor, "..."], target: Float[Tensor, "..."], valid: Bool[Tensor, "..."]) -> Alignment:
    """Least squares of scale * predicted = target: sum(x y) / sum(x x). A prediction of zeros gets scale 0."""
    x, y = _kept(predicted, target, valid)
    energy = (x * x).sum()
    scale = torch.where(energy > 0, (x * y).sum() / torch.where(energy > 0, energy, 1), 0)
    return Alignment(scale if x.numel() else scale * torch.nan, torch.zeros_like(scale))


def fit_median_scale(
    predicted: Float[Tensor, "..."], target: Float[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> Alignment:
    """median(target) / median(predicted) over all valid pixels together (monodepth2, there for each image).

    A median prediction of 0 gets scale 0.
    """
    x, y = _kept(predicted, target, valid)
    middle = median(x)
    scale = torch.where(middle == 0, 0, median(y) / torch.where(middle == 0, 1, middle))
    return Alignment(scale, torch.zeros_like(scale))


def fit_scale_shift(
    predicted: Float[Tensor, "..."], target: Float[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> Alignment:
    """Least squares of scale * predicted + shift = target, in closed form: scale = cov(x, y) / var(x).

    A constant prediction gets scale 0 and shift mean(target), the minimum-norm solution of numpy.linalg.lstsq up to
    the split between the two.
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


def fit_disparity(
    disparity: Float[Tensor, "..."], depth: Float[Tensor, "..."], valid: Bool[Tensor, "..."]
) -> Alignment:
    """Least squares of scale * max(disparity, 1e-3) + shift = 1 / (depth + 1e-8) over the whole clip.

    The protocol of DepthCrafter and Video-Depth-Anything (benchmark/eval/eval.py). A negative scale, an inverted
    prediction, is theirs to accept and the caller's to flag.
    """
    inverse = 1 / (torch.where(valid, depth, 1).double() + 1e-8)
    return fit_scale_shift(_at_least(disparity.double()), inverse, valid)


def apply(predicted: Float[Tensor, "*any"], alignment: Alignment) -> Float64[Tensor, "*any"]:
    """Apply a fit: scale * predicted + shift, float64."""
    return predicted.double() * alignment.scale + alignment.shift


def apply_disparity(disparity: Float[Tensor, "*any"], alignment: Alignment) -> Float64[Tensor, "*any"]:
    """Depth of an aligned disparity: 1 / max(scale * max(disparity, 1e-3) + shift, 1e-3). NaN stays NaN."""
    return 1 / _at_least(apply(_at_least(disparity.double()), alignment))


def _at_least(disparity: Float64[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    return disparity.clamp(min=LEAST_DISPARITY)
