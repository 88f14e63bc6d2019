"""How wrong each frame is: the nine numbers of Eigen et al. 2014 and KITTI, per image, then the mean over images."""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64, Int64

from steadydepth.metrics.arrays import (
    Chosen,
    Columns,
    Images,
    Mask,
    Pixels,
    Scores,
    Stack,
    Truth,
    blocks,
    column_sums,
    log_depth,
    pixels_of,
    rows,
)
from steadydepth.metrics.protocol import ACCURACY
from steadydepth.metrics.sums import Correlation, Mean, Part, merge


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
    """
    stack = Stack(depth)
    total: dict[str, Part] = {name: Mean(np.zeros(1), 0.0) for name in ACCURACY}
    for t in range(stack.n_frames):
        true, kept = pixels_of(truth, valid, t)
        columns = stack.frame(t)
        total = merge(total, accuracy_parts(columns, log_depth(columns), true, {"": kept}))
    return stack.scores(total)


def accuracy_parts(depth: Columns, log: Columns, truth: Pixels, sets: Mapping[str, Chosen]) -> dict[str, Part]:
    """The errors of one image over each set of pixels, their name the suffix of the metrics, as one item of a mean.

    `log` is the logarithm of `depth`. The first set holds the others, which have no pixel in common; a set without a
    pixel adds nothing.
    """
    whole, *inner = sets
    pixels = {name: np.flatnonzero(sets[name]) for name in inner}
    rest = sets[whole] & ~np.any([sets[name] for name in inner], axis=0) if inner else sets[whole]
    # One common factor is no spread: errors are counted from that of one pixel, or their squares would lose digits.
    start = int(np.argmax(sets[whole]))
    first = log[start] - np.log(truth[start])
    sums = {name: _sums(depth, log, truth, of_set, first) for name, of_set in pixels.items()}
    everything = sum(sums.values(), _sums(depth, log, truth, np.flatnonzero(rest), first))
    counts = {"": int(sets[whole].sum())} | {name: len(of_set) for name, of_set in pixels.items()}
    found = {name: _errors(total, counts[name]) for name, total in ({"": everything} | sums).items() if counts[name]}
    return {f"{name}{suffix}": Mean(value, 1.0) for suffix, errors in found.items() for name, value in errors.items()}


def _sums(
    depth: Columns,
    log: Columns,
    truth: Pixels,
    pixels: Int64[np.ndarray, "k"],
    first: Float64[np.ndarray, "m"],
) -> Float64[np.ndarray, "10 m"]:
    """Sums of each method over the pixels, in the order in which `_errors` names them."""
    total = np.zeros((10, depth.shape[1]))
    for block in blocks(len(pixels)):
        chosen = pixels[block]
        predicted, true = rows(depth, chosen), truth[chosen]
        difference = predicted - true[:, None]
        error = rows(log, chosen) - np.log(true)[:, None]
        moved = error - first
        worse = np.maximum(predicted / true[:, None], true[:, None] / predicted)
        relative = np.abs(difference) / true[:, None]
        total += (
            column_sums(relative),
            np.einsum("nm,nm->m", relative, np.abs(difference, out=difference)),
            np.einsum("nm,nm->m", difference, difference),
            np.einsum("nm,nm->m", error, error),
            column_sums(np.abs(error, out=error)),
            column_sums(moved),
            np.einsum("nm,nm->m", moved, moved),
            *(column_sums((worse < 1.25**k).astype(np.float64)) for k in (1, 2, 3)),
        )
    return total


def _errors(sums: Float64[np.ndarray, "10 m"], n: int) -> dict[str, Float64[np.ndarray, "m"]]:
    """The nine errors of n pixels."""
    relative, square_relative, square, log_square, log_absolute, moved, moved_square, *near = sums / n
    return {
        "abs_rel": relative,
        "sq_rel": square_relative,
        "rmse": np.sqrt(square),
        "rmse_log": np.sqrt(log_square),
        "log10": log_absolute / math.log(10),
        "silog": 100 * np.sqrt(np.maximum(moved_square - moved**2, 0)),
        **{f"delta{k}": share for k, share in enumerate(near, start=1)},
    }


def structure(depth: Images, other: Truth) -> Scores:
    """Pearson correlation of log depth with the log depth of another model over all pixels of a clip; `structure`.

    1 is the same picture up to a power and a factor, 0 has nothing to do with it; NaN when either is constant. Both are
    positive. It says whether a model that was made steady still sees what it saw, not whether that is right.
    """
    stack, beside = Stack(depth), Stack(other)
    total: dict[str, Part] = {}
    for t in range(stack.n_frames):
        total = merge(total, {"structure": Correlation.of(stack.log(t), beside.log(t)[:, 0])})
    return stack.scores(total)
