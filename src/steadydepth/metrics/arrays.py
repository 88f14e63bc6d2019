"""The door of the metrics: NumPy or torch in, float64 torch inside, so both give the same numbers."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Num
from torch import Tensor

# *m: any number of methods scored together on one clip; they share what is computed from the label.
Images = Float[Tensor, "*m t h w"] | Float[np.ndarray, "*m t h w"]
Truth = Float[Tensor, "t h w"] | Float[np.ndarray, "t h w"]
Mask = Bool[Tensor, "t h w"] | Bool[np.ndarray, "t h w"]
Matrix = Float[Tensor, "3 3"] | Float[np.ndarray, "3 3"]
Poses = Float[Tensor, "t 4 4"] | Float[np.ndarray, "t 4 4"]
Scores = dict[str, Float64[Tensor, "*m"]]

LEAST_DEPTH_M = 1e-3


def as_float64(values: Num[Tensor, "*any"] | Num[np.ndarray, "*any"]) -> Float64[Tensor, "*any"]:
    """A float64 tensor of the same numbers; arrays share their memory where they can."""
    return torch.as_tensor(values).double()


def as_bool(mask: Bool[Tensor, "*any"] | Bool[np.ndarray, "*any"]) -> Bool[Tensor, "*any"]:
    """A boolean tensor of the same mask."""
    return torch.as_tensor(mask)


def log_depth(depth: Float[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    """Logarithm of max(d, 1e-3), the depth of every temporal metric in log units: a global factor is only an offset."""
    return depth.double().clamp(min=LEAST_DEPTH_M).log()


def log_truth(truth: Float[Tensor, "*any"], valid: Bool[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
    """Logarithm of g where valid; 0 elsewhere, whatever stands there."""
    return torch.where(valid, truth, 1).double().log()


def ratio(total: Float64[Tensor, "*m"], count: int | Tensor) -> Float64[Tensor, "*m"]:
    """The mean total / count, and NaN of nothing: a metric without samples has no value."""
    count = torch.as_tensor(count)
    return torch.where(count > 0, total / count.clamp(min=1), torch.nan)
