"""The fits of `ops.alignment` for NumPy arrays and tensors alike: what a prediction is forgiven, once for a clip.

A mask may be of numbers; one other than 0 and 1 is an InputError.
"""

from collections.abc import Callable
from functools import wraps

import numpy as np
import torch
from jaxtyping import Bool, Float, Real
from torch import Tensor

from steadydepth.metrics.arrays import as_mask
from steadydepth.ops import alignment
from steadydepth.ops.alignment import Alignment

Values = Float[Tensor, "..."] | Float[np.ndarray, "..."]
Chosen = Bool[Tensor, "..."] | Bool[np.ndarray, "..."] | Real[Tensor, "..."] | Real[np.ndarray, "..."]


def _of_arrays(fit: Callable[[Tensor, Tensor, Tensor], Alignment]) -> Callable[[Values, Values, Chosen], Alignment]:
    @wraps(fit)
    def fit_arrays(predicted: Values, target: Values, valid: Chosen) -> Alignment:
        values, mask = _as_tensor(predicted), torch.from_numpy(np.ascontiguousarray(as_mask(valid)))
        return fit(values, _as_tensor(target), mask.to(values.device))

    return fit_arrays


def _as_tensor(values: Values) -> Tensor:
    # A tensor has no negative strides, which flipped arrays have.
    return torch.from_numpy(np.ascontiguousarray(values)) if isinstance(values, np.ndarray) else torch.as_tensor(values)


fit_scale = _of_arrays(alignment.fit_scale)
fit_median_scale = _of_arrays(alignment.fit_median_scale)
fit_scale_shift = _of_arrays(alignment.fit_scale_shift)
fit_disparity = _of_arrays(alignment.fit_disparity)
