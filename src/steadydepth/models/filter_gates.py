"""The network of the learned filter as it runs: its weights and its sums in NumPy, so that no torch is loaded.

`models.temporal_filter` has the same network in torch, to train and to export it; a test holds the two equal.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float32
from safetensors import SafetensorError
from safetensors.numpy import load_file

from steadydepth.errors import InputError
from steadydepth.files.damage import reading
from steadydepth.ops.filter_step import N_FEATURES

WEIGHTS = Path(__file__).with_name("temporal_filter.safetensors")
WIDTH = 16  # channels of the shipped weights
DILATIONS = (1, 2, 4)  # of the three convolutions before the head
N_GATES = 4
REACH = (-8.0, 2.0)  # within which the logarithm of the largest detail that passes lies


def read_filter_weights(weights: str | Path) -> dict[str, Float32[np.ndarray, "..."]]:
    """The arrays of a file of weights by name, as `FilterGates` of torch names them.

    Raises:
        InputError: there are no such weights, or they are damaged or of another network.
    """
    if not Path(weights).is_file():
        raise InputError(f"{weights}: no such file of weights; train the filter with configs/temporal_filter.yaml")
    with reading(weights, "as weights", "write them again with train-filter or tune-filter", SafetensorError):
        arrays = load_file(weights)
    width = arrays["head.weight"].shape[1] if getattr(arrays.get("head.weight"), "ndim", 0) == 4 else WIDTH
    if {name: each.shape for name, each in arrays.items()} != _shapes(width):
        raise InputError(
            f"{weights}: no weights of this version's learned filter; write them again with train-filter or tune-filter"
        )
    return arrays


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (N_GATES, width, 1, 1), "head.bias": (N_GATES,)}
    for number in range(len(DILATIONS)):
        shapes[f"layers.{number}.weight"] = (width, width if number else N_FEATURES, 3, 3)
        shapes[f"layers.{number}.bias"] = (width,)
    return shapes


class ArrayGates:
    """The network on arrays: features of one frame in, what is kept of the memory out.

    Args:
        weights: a file that `train_filter` or `tune_filter` wrote; None for that of the package.

    Raises:
        InputError: as `read_filter_weights`.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        arrays = read_filter_weights(weights or WEIGHTS)
        weighted = [(arrays[f"layers.{i}.weight"], arrays[f"layers.{i}.bias"]) for i in range(len(DILATIONS))]
        # A matrix for each of the nine taps.
        taps = [weight.transpose(2, 3, 0, 1).reshape(9, *weight.shape[:2]) for weight, _ in weighted]
        self._layers = list(zip(taps, (bias for _, bias in weighted), DILATIONS, strict=True))
        self._head, self._bias = arrays["head.weight"][:, :, 0, 0], arrays["head.bias"]

    def __call__(self, features: Float32[np.ndarray, "1 19 y x"]) -> Float32[np.ndarray, "1 4 y x"]:
        """How much is kept of the detail, the middle and the low frequencies, and 1 / how large a detail may be."""
        x = features[0]
        for taps, bias, dilation in self._layers:
            x = np.maximum(_convolve(x, taps, dilation) + bias[:, None, None], 0)
        gates = (self._head @ x.reshape(len(x), -1) + self._bias[:, None]).reshape(1, N_GATES, *x.shape[1:])
        keep, reach = gates[:, :-1], gates[:, -1:]
        with np.errstate(over="ignore"):  # of what is not kept at all
            return np.concatenate((1 / (1 + np.exp(-keep)), np.exp(-np.clip(reach, *REACH))), axis=1)


def _convolve(
    x: Float32[np.ndarray, "c y x"], taps: Float32[np.ndarray, "9 d c"], dilation: int
) -> Float32[np.ndarray, "d y x"]:
    """A 3x3 convolution with zeros around the maps: each tap is one product, of rows that lie on end in memory."""
    channels, height, width = x.shape
    row = width + 2 * dilation
    padded = np.zeros((channels, (height + 2 * dilation) * row + 2 * dilation), np.float32)
    rows = padded[:, : (height + 2 * dilation) * row].reshape(channels, -1, row)
    rows[:, dilation : dilation + height, dilation : dilation + width] = x
    total = np.zeros((taps.shape[1], height * row), np.float32)
    for number, tap in enumerate(taps):
        down, right = divmod(number, 3)
        start = dilation * (down * row + right)
        total += tap @ padded[:, start : start + height * row]
    return total.reshape(-1, height, row)[:, :, :width]
