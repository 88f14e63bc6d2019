"""The door of the metrics: NumPy or torch in, one frame at a time, float64 inside, so both give the same numbers."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Real, Shaped
from torch import Tensor

from steadydepth.errors import InputError
from steadydepth.metrics.accumulators import Parts
from steadydepth.ops.bidirectional_flow import TwoWayFlow

# *m: any number of methods scored together on one clip; they share what is computed from the label.
Images = Float[Tensor, "*m t h w"] | Float[np.ndarray, "*m t h w"]
Truth = Float[Tensor, "t h w"] | Float[np.ndarray, "t h w"]
# Bool, or numbers that are all 0 or 1.
Mask = Bool[Tensor, "t h w"] | Bool[np.ndarray, "t h w"] | Real[Tensor, "t h w"] | Real[np.ndarray, "t h w"]
PairMask = Bool[Tensor, "p h w"] | Bool[np.ndarray, "p h w"] | Real[Tensor, "p h w"] | Real[np.ndarray, "p h w"]
PixelSet = Bool[Tensor, "h w"] | Bool[np.ndarray, "h w"] | Real[Tensor, "h w"] | Real[np.ndarray, "h w"]
Matrix = Float[Tensor, "3 3"] | Float[np.ndarray, "3 3"]
Poses = Float[Tensor, "t 4 4"] | Float[np.ndarray, "t 4 4"]
Scores = dict[str, Float64[Tensor, "*m"]]

# One frame of all methods: a row a method, its pixels in order, so what belongs to a pixel spreads over long rows.
Layers = Float64[np.ndarray, "m n"]
Colours = Float64[np.ndarray, "3 n"]  # R, G, B in [0, 1]
Pixels = Float64[np.ndarray, "n"]
Chosen = Bool[np.ndarray, "n"]

LEAST_DEPTH_M = 1e-3


def as_array(values: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]) -> np.ndarray:
    """The same numbers as an array; memory is shared where it can be. Of bfloat16, which NumPy lacks, float32."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    held = values.detach().cpu()
    return (held.float() if held.dtype == torch.bfloat16 else held).numpy()


def as_mask(values: Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """A mask of bool or of numbers that are all 0 or 1.

    Raises:
        InputError: there is another number.
    """
    array = as_array(values)
    if array.dtype == np.bool_:
        return array
    mask = array == 1
    if wrong := array[~mask & (array != 0)].ravel()[:1].tolist():
        raise InputError(
            f"a mask holds {wrong[0]}: it is True and False, or 0 and 1, and gives no weights: compare it with a "
            "number first, such as mask > 0.5"
        )
    return mask


class Stack:
    """Depth (*m, t, h, w) of one or several methods, taken a frame at a time as layers.

    Raises:
        InputError: it has fewer axes, or the flow is not that between its frames.
    """

    def __init__(self, depth: Images, flow: TwoWayFlow | None = None) -> None:
        array = as_array(depth)
        if array.ndim < 3:
            raise InputError(f"depth is {array.shape}; it is (t, h, w), of several methods (m, t, h, w)")
        self.shape = array.shape[:-3]
        self.n_frames, self.height, self.width = array.shape[-3:]
        self.size = self.height, self.width
        self._methods = array.reshape(-1, *array.shape[-3:])
        pairs = (self.n_frames - 1, *self.size)
        if flow is not None and flow.forward.shape[:-1] != pairs:
            raise InputError(f"flow is {flow.forward.shape[:-1]}, and for this depth {pairs}: resize the depth first")

    def frame(self, t: int) -> Layers:
        """Frame `t`."""
        return np.ascontiguousarray(self._methods[:, t].reshape(len(self._methods), -1), np.float64)

    def log(self, t: int) -> Layers:
        """Logarithm of frame `t`."""
        return log_depth(self.frame(t))

    def scores(self, parts: Parts) -> Scores:
        """What the sums come to, (*m) each."""
        n_methods = len(self._methods)
        results = {name: np.broadcast_to(part.result(), n_methods) for name, part in parts.items()}
        return {name: torch.from_numpy(result.reshape(self.shape).copy()) for name, result in results.items()}


def pixels_of(truth: Truth, mask: Mask, t: int) -> tuple[Pixels, Chosen]:
    """Frame `t` of a label, and where it counts.

    Args:
        truth: metres; it may be anything where it does not count.
        mask: where the label counts.
        t: number of the frame.

    Returns: metres, 1 where the label does not count; and where it counts.
    """
    valid = as_mask(mask[t]).ravel()
    return np.where(valid, as_array(truth[t]).ravel(), 1).astype(np.float64), valid


def log_depth(depth: Float64[np.ndarray, "*any"]) -> Float64[np.ndarray, "*any"]:
    """Logarithm of max(d, 1e-3), the depth of every temporal metric in log units: a global factor is only an offset."""
    return np.log(np.maximum(depth, LEAST_DEPTH_M))


def layer_sums(values: Layers) -> Float64[np.ndarray, "m"]:
    """Sum of each layer, in one order whatever the number of threads."""
    return np.einsum("mn->m", values)


def blocks(n_layers: int, n: int) -> Iterator[slice]:
    """Slices of the n pixels, so small that what is computed from one stays in a core's cache: twice as fast."""
    size = max(1, 16384 // max(1, n_layers))
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def pick(layers: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Those pixels of each layer."""
    # Pixels are found in the image, so clip changes none: it leaves out the check of each.
    return layers.take(pixels, axis=-1, mode="clip")
