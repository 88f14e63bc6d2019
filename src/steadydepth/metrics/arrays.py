"""The door of the metrics: NumPy or torch in, one frame at a time, float64 inside, so both give the same numbers."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

from steadydepth.metrics.sums import Parts

# *m: any number of methods scored together on one clip; they share what is computed from the label.
Images = Float[Tensor, "*m t h w"] | Float[np.ndarray, "*m t h w"]
Truth = Float[Tensor, "t h w"] | Float[np.ndarray, "t h w"]
Mask = Bool[Tensor, "t h w"] | Bool[np.ndarray, "t h w"]
PairMask = Bool[Tensor, "p h w"] | Bool[np.ndarray, "p h w"]
PixelSet = Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"]
Matrix = Float[Tensor, "3 3"] | Float[np.ndarray, "3 3"]
Poses = Float[Tensor, "t 4 4"] | Float[np.ndarray, "t 4 4"]
Scores = dict[str, Float64[Tensor, "*m"]]

# One frame of all methods: a row a pixel, a column a method. Samples read whole rows, whatever the number of methods.
Columns = Float64[np.ndarray, "n m"]
Colours = Float64[np.ndarray, "n 3"]  # R, G, B in [0, 1]
Pixels = Float64[np.ndarray, "n"]
Chosen = Bool[np.ndarray, "n"]

LEAST_DEPTH_M = 1e-3


def as_array(values: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]) -> np.ndarray:
    """The same numbers as an array; memory is shared where it can be."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


class Stack:
    """Depth (*m, t, h, w) of one or several methods, taken a frame at a time as columns."""

    def __init__(self, depth: Images) -> None:
        array = as_array(depth)
        self.shape = array.shape[:-3]
        self.n_frames, self.height, self.width = array.shape[-3:]
        self._methods = array.reshape(-1, *array.shape[-3:])

    def frame(self, t: int) -> Columns:
        """Frame `t`."""
        return np.ascontiguousarray(self._methods[:, t].reshape(len(self._methods), -1).T, np.float64)

    def log(self, t: int) -> Columns:
        """Logarithm of frame `t`."""
        return log_depth(self.frame(t))

    def scores(self, parts: Parts) -> Scores:
        """What the sums come to, (*m) each."""
        n_methods = len(self._methods)
        results = {name: np.broadcast_to(part.result(), n_methods) for name, part in parts.items()}
        return {name: torch.from_numpy(result.reshape(self.shape).copy()) for name, result in results.items()}


def pixels_of(truth: Truth, mask: Mask, t: int) -> tuple[Pixels, Chosen]:
    """Frame `t` of a label, 1 where it does not count whatever stands there, and where it counts."""
    valid = as_array(mask)[t].ravel()
    return np.where(valid, as_array(truth)[t].ravel(), 1).astype(np.float64), valid


def log_depth(depth: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    """Logarithm of max(d, 1e-3), the depth of every temporal metric in log units: a global factor is only an offset."""
    return np.log(np.maximum(depth, LEAST_DEPTH_M))


def column_sums(values: Columns) -> Float64[np.ndarray, "m"]:
    """Sum of each column, in one order whatever the number of threads."""
    return np.einsum("nm->m", values)


def blocks(n: int, size: int = 8192) -> Iterator[slice]:
    """Slices of `size`: what is computed from so many rows stays in a core's cache, which is twice as fast."""
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def rows(columns: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Those rows of an array."""
    return np.take(columns, pixels, axis=0)
