"""How wrong each frame is: the nine numbers of Eigen et al. 2014 and KITTI, per image, then the mean over images.

Depth, masks and results are those of `metrics.temporal`.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from steadydepth.metrics.accumulators import Correlation, Mean, Part, merge, no_means
from steadydepth.metrics.arrays import (
    Chosen,
    Images,
    Layers,
    Mask,
    Pixels,
    Scores,
    Stack,
    Truth,
    blocks,
    log_depth,
    pixels_of,
)
from steadydepth.metrics.protocols import ACCURACY


def accuracy_scores(depth: Images, truth: Truth, valid: Mask) -> Scores:
    """The errors of each frame with a valid pixel, and their plain mean: each frame weighs the same.

    `depth` d and `truth` g in metres, d cleaned to the protocol's range; e = ln d - ln g over the valid pixels of ONE
    image:

    abs_rel   mean |d - g| / g                                  fraction, lower
    sq_rel    mean (d - g)^2 / g                                metres, lower (KITTI's devkit divides by g^2)
    rmse      sqrt mean (d - g)^2                               metres, lower
    rmse_log  sqrt mean e^2, e = ln d - ln g                    lower
    log10     mean |log10 d - log10 g|                          lower
    silog     100 sqrt(mean e^2 - (mean e)^2)                   lower (KITTI; Eigen's loss halves the second term)
    delta1-3  share of max(d / g, g / d) < 1.25, 1.25^2, 1.25^3 fraction, strict, higher

    As in ZoeDepth zoedepth/utils/misc.py, AdaBins, BTS and monodepth2, which agree. NaN when no frame has a valid
    pixel. What stands at invalid pixels is never read.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        valid: where the label counts.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack = Stack(depth)
    total = no_means(*ACCURACY)
    for t in range(stack.n_frames):
        true, kept = pixels_of(truth, valid, t)
        layers = np.where(kept, stack.frame(t), 1.0)
        total = merge(total, accuracy_parts(layers, log_depth(layers), true, np.log(true), {"": kept}))
    return stack.scores(total)


def accuracy_parts(
    depth: Layers, log: Layers, truth: Pixels, true_log: Pixels, sets: Mapping[str, Chosen]
) -> dict[str, Part]:
    """The errors of one image over each set of pixels, as one item of a mean.

    Args:
        depth: of each method, above 0, in metres.
        log: its logarithm.
        truth: metres, 1 where there is none.
        true_log: its logarithm.
        sets: pixels by the suffix of their metrics; the first set holds the others.

    Returns: a part for each metric and set; a set without a pixel adds nothing.
    """
    # Errors are counted from that of one pixel: of a prediction that is off by a factor, squares would lose digits.
    start = int(np.argmax(next(iter(sets.values()))))
    first = log[:, start] - true_log[start]
    counted = {name: chosen for name, chosen in sets.items() if chosen.any()}
    sums = _sums(depth, log, truth, true_log, first, list(counted.values()))
    parts: dict[str, Part] = {}
    for (suffix, chosen), total in zip(counted.items(), sums, strict=True):
        errors = _errors(total, int(chosen.sum()), first)
        parts |= {f"{name}{suffix}": Mean(value, 1.0) for name, value in errors.items()}
    return parts


def _sums(
    depth: Layers, log: Layers, truth: Pixels, true_log: Pixels, first: Float64[np.ndarray, "m"], sets: list[Chosen]
) -> Float64[np.ndarray, "k 9 m"]:
    """Sums of each method over the pixels of each set, in the order in which `_errors` names them."""
    total, weights = np.zeros((len(sets), 9, len(depth))), np.array(sets, np.float64).reshape(len(sets), len(truth))
    for block in blocks(len(depth), len(truth)):
        predicted, true = depth[:, block], truth[block]
        difference = np.abs(predicted - true)
        relative = difference / true
        error = log[:, block] - true_log[block]
        moved = error - first[:, None]
        worse = np.maximum(predicted / true, true / predicted)
        near = ((worse < 1.25**k).astype(np.float64) for k in (1, 2, 3))
        summed = (relative, relative * difference, difference * difference, np.abs(error), moved, moved * moved, *near)
        for number, value in enumerate(summed):
            total[:, number] += np.einsum("mn,kn->km", value, weights[:, block])
    return total


def _errors(
    sums: Float64[np.ndarray, "9 m"], n: int, first: Float64[np.ndarray, "m"]
) -> dict[str, Float64[np.ndarray, "m"]]:
    """The nine errors of n pixels."""
    relative, square_relative, square, log_absolute, moved, moved_square, *near = sums / n
    log_square = moved_square + first * (2 * moved + first)
    return {
        "abs_rel": relative,
        "sq_rel": square_relative,
        "rmse": np.sqrt(square),
        "rmse_log": np.sqrt(np.maximum(log_square, 0)),
        "log10": log_absolute / math.log(10),
        "silog": 100 * np.sqrt(np.maximum(moved_square - moved**2, 0)),
        **{f"delta{k}": share for k, share in enumerate(near, start=1)},
    }


def log_depth_correlation(depth: Images, other: Truth) -> Scores:
    """Pearson correlation of log depth with the log depth of another model over all pixels of a clip.

    1 is the same image up to a power and a factor, 0 has nothing to do with it; NaN when either is constant. Both are
    positive. It says whether a model that was made steady still sees what it saw, not whether that is right.

    Args:
        depth: predicted depth (*m, t, h, w), above 0.
        other: depth of the other model (t, h, w), above 0.

    Returns: `log_depth_correlation`, one float64 a method (*m), in [-1, 1].
    """
    stack, beside = Stack(depth), Stack(other)
    total: dict[str, Part] = {}
    for t in range(stack.n_frames):
        total = merge(total, {"log_depth_correlation": Correlation.of(stack.log(t), beside.log(t)[0])})
    return stack.scores(total)
