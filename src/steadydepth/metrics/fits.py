"""The alignments of `ops.alignment` for NumPy arrays and tensors alike: what a prediction is forgiven, once for a clip."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from steadydepth.metrics.arrays import as_mask
from steadydepth.ops import alignment
from steadydepth.ops.alignment import Alignment

Values = Float[Tensor, "..."] | Float[np.ndarray, "..."]
Chosen = Bool[Tensor, "..."] | Bool[np.ndarray, "..."] | Real[Tensor, "..."] | Real[np.ndarray, "..."]
Fit = Callable[[Tensor, Tensor, Tensor], Alignment]


def _fit(how: Fit, predicted: Values, target: Values, valid: Chosen) -> Alignment:
    values = torch.as_tensor(predicted)
    return how(values, torch.as_tensor(target), torch.from_numpy(as_mask(valid)).to(values.device))


def fit_scale(predicted: Values, target: Values, valid: Chosen) -> Alignment:
    """Least squares of scale * predicted = target over the valid finite values; shift 0.

    Args:
        predicted: predicted values, of any shape.
        target: the label, of the same shape.
        valid: where the label counts.

    Returns: scale and shift, float64; NaN where nothing is valid.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    return _fit(alignment.fit_scale, predicted, target, valid)


def fit_median_scale(predicted: Values, target: Values, valid: Chosen) -> Alignment:
    """median(target) / median(predicted) over the valid finite values together; shift 0.

    Args:
        predicted: predicted values, of any shape.
        target: the label, of the same shape.
        valid: where the label counts.

    Returns: scale and shift, float64; NaN where nothing is valid.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    return _fit(alignment.fit_median_scale, predicted, target, valid)


def fit_scale_shift(predicted: Values, target: Values, valid: Chosen) -> Alignment:
    """Least squares of scale * predicted + shift = target; a constant prediction gets scale 0 and the mean target.

    Args:
        predicted: predicted values, of any shape.
        target: the label, of the same shape.
        valid: where the label counts.

    Returns: scale and shift, float64; NaN where nothing is valid.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    return _fit(alignment.fit_scale_shift, predicted, target, valid)


def fit_disparity(disparity: Values, depth: Values, valid: Chosen) -> Alignment:
    """Least squares of scale * disparity + shift = 1 / (depth + 1e-8) over a clip; its factor and offset do not matter.

    For the number of DepthCrafter and Video-Depth-Anything raise disparity to 1e-3 first, as they do. A negative scale
    is an inverted prediction.

    Args:
        disparity: predicted inverse depth, of any unit.
        depth: depth of the label, metres.
        valid: where the label counts.

    Returns: scale and shift, float64; NaN where nothing is valid.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    return _fit(alignment.fit_disparity, disparity, depth, valid)
