"""How sharp depth is at the edges of the label, or of another model: what a blurred prediction loses.

Every temporal metric is also won by blur, and the accuracy hardly notices, so these stand beside both. A factor on the
prediction changes none of them; a constant scores 0 and a perfect prediction 1 (but see `boundary_f1`).
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from steadydepth.metrics.accumulators import Gain, Mean, Part, merge, no_means
from steadydepth.metrics.arrays import (
    LEAST_DEPTH_M,
    Chosen,
    Images,
    Layers,
    Mask,
    Pixels,
    Stack,
    Truth,
    as_array,
    pick,
    pixels_of,
)
from steadydepth.ops.edges import EDGE_DISTANCES_PX, EDGE_LOG_STEP

# Ratios of depth that put one pixel before its neighbour, and the weight of each: Depth Pro, eval/boundary_metrics.py.
RATIOS = np.linspace(1.05, 1.25, 10)
WEIGHTS = RATIOS / RATIOS.sum()
# Pixels to each side, of the square whose contrast `contrast_change` takes.
CONTRAST_RADIUS = 2


def boundary_f1(depth: Images, truth: Truth, valid: Mask) -> Float64[Tensor, "*m"]:
    """F1 score of occluding contours, from 0 to 1, higher is better; an edge that is one pixel off does not count.

    Of two valid neighbours, one is in front of the other where the ratio of their depths is above t. With P these
    relations in the prediction and G in the label, to the right, left, bottom and top: r is the mean over the four
    directions of |P and G| / max(|G|, 1), p that of |P and G| / max(|P|, 1), F1 = 2 p r / (p + r), 0 where p + r = 0.
    Mean over ten t from 1.05 to 1.25, weighted by t, then over frames.

    Depth Pro (Bochkovskii et al. 2024), `SI_boundary_F1`. Soft predictions score near 0: read it with `edge_gain`. A
    label without a relation in one of the directions, or at a large t, keeps a perfect prediction below 1 as well.

    Args:
        depth: predicted depth (*m, t, h, w), of any unit; counted as 0.001 where smaller.
        truth: depth of the label, metres. What stands at invalid pixels is never read.
        valid: where the label counts.

    Returns: one float64 a method; NaN where the label of no frame has a relation at t = 1.05.
    """
    stack = Stack(depth)
    total = no_means("boundary_f1")
    for t in range(stack.n_frames):
        true, kept = pixels_of(truth, valid, t)
        layers = np.maximum(stack.frame(t), LEAST_DEPTH_M)
        total = merge(total, boundary_parts(layers, true, kept, stack.height, stack.width))
    return stack.scores(total)["boundary_f1"]


def boundary_parts(depth: Layers, truth: Pixels, valid: Chosen, height: int, width: int) -> dict[str, Part]:
    """What one frame adds to `boundary_f1`: one item of its mean, nothing where its label has no relation.

    Args:
        depth: of each method, above 0 at every pixel, valid or not.
        truth: metres, above 0 at every pixel, valid or not.
        valid: where the label counts.
        height: rows of the image.
        width: columns of the image.
    """
    n_methods = len(depth)
    common, predicted = np.zeros((2, 2, 2, n_methods, len(RATIOS)))  # axis, direction, method, ratio
    true = np.zeros((2, 2, 1, len(RATIOS)))
    for axis, step in enumerate((_Step(1, 0, height, width), _Step(1, 1, height, width))):
        both = step.both(valid)
        levels = _levels(step, truth, both)
        edges = np.flatnonzero(levels)
        true[axis, :, 0] = _counts(levels)
        for method, layer in enumerate(depth):
            own = _levels(step, layer, both)
            predicted[axis, :, method] = _counts(own)
            here, there = own[edges], levels[edges]
            agreed = np.where(here * there > 0, np.sign(there) * np.minimum(np.abs(here), np.abs(there)), 0)
            common[axis, :, method] = _counts(agreed)
    if not true[..., 0].any():
        return {}
    recall = (common / np.maximum(true, 1)).mean(axis=(0, 1))
    precision = (common / np.maximum(predicted, 1)).mean(axis=(0, 1))
    both_ways = precision + recall
    f1 = 2 * precision * recall / np.where(both_ways > 0, both_ways, 1)
    return {"boundary_f1": Mean(np.einsum("mk,k->m", f1, WEIGHTS), 1.0)}


@dataclass(frozen=True)
class _Step:
    """Pairs of pixels `distance` apart in an image of height x width: along its columns (axis 0) or its rows (1)."""

    distance: int
    axis: int
    height: int
    width: int

    def ends(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values of one image, flattened, at the first and at the second pixel of every pair: views."""
        square = image.reshape(self.height, self.width)
        if self.axis == 0:
            return square[: -self.distance], square[self.distance :]
        return square[:, : -self.distance], square[:, self.distance :]

    def both(self, valid: Chosen) -> Bool[np.ndarray, "i j"]:
        """Where both pixels of a pair are valid."""
        first, second = self.ends(valid)
        return first & second

    def pixels(self, pairs: Int64[np.ndarray, "k"]) -> tuple[Int64[np.ndarray, "k"], Int64[np.ndarray, "k"]]:
        """Both pixels of those pairs, numbered along the rows of the image."""
        if self.axis == 0:
            return pairs, pairs + self.distance * self.width
        first = pairs + pairs // max(self.width - self.distance, 1) * self.distance
        return first, first + self.distance


def _levels(step: _Step, depth: Pixels, both: Bool[np.ndarray, "i j"]) -> Int64[np.ndarray, "k"]:
    """How many of RATIOS the ratio of each pair is above; below 0 where the second pixel is the nearer one."""
    first, second = step.ends(depth)
    ratio = np.maximum(first, second)
    ratio /= np.minimum(first, second)
    found = np.flatnonzero((ratio > RATIOS[0]) & both)
    levels = np.zeros(ratio.size, np.int64)
    sign = np.where(second.ravel()[found] > first.ravel()[found], 1, -1)
    levels[found] = sign * np.searchsorted(RATIOS, ratio.ravel()[found], side="left")
    return levels


def _counts(levels: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "2 k"]:
    """Number of pairs above each of RATIOS: of those with the first pixel nearer, and of the others."""
    n = len(RATIOS)
    of_level = np.bincount(levels + n, minlength=2 * n + 1)
    # From the highest level down: who is above one ratio is above all that are smaller.
    return np.stack([of_level[:n:-1], of_level[:n]]).cumsum(axis=1)[:, ::-1]


def edge_gain(depth: Images, truth: Truth, valid: Mask) -> Float64[Tensor, "*m"]:
    """Share of the label's edges that the prediction has: 1 is ideal, 0 flat, below 1 blurred, above 1 sharpened.

    sum a b / sum b^2, with a and b the differences of the log depth of prediction and label between valid pixels 1, 2,
    4 and 8 px apart, to the right and downwards, where |b| > 0.05; pooled over the clip. The twin in space of `gain`.

    Args:
        depth: predicted depth (*m, t, h, w), of any unit; counted as 0.001 where smaller.
        truth: depth of the label, metres. What stands at invalid pixels is never read.
        valid: where the label counts.

    Returns: one float64 a method; NaN where the label has no such difference.
    """
    stack = Stack(depth)
    total: dict[str, Part] = {"edge_gain": Gain(np.zeros(1), 0.0, 0, 0.0)}
    for t in range(stack.n_frames):
        true, kept = pixels_of(truth, valid, t)
        part = edge_gain_part(stack.log(t), np.log(true), kept, stack.height, stack.width)
        total = merge(total, {"edge_gain": part})
    return stack.scores(total)["edge_gain"]


def edge_gain_part(log: Layers, true_log: Pixels, valid: Chosen, height: int, width: int) -> Gain:
    """What one frame adds to `edge_gain`.

    Args:
        log: log depth of each method, finite everywhere.
        true_log: log of the label, finite everywhere.
        valid: where the label counts.
        height: rows of the image.
        width: columns of the image.
    """
    product, energy, count = np.zeros(len(log)), 0.0, 0
    for distance in EDGE_DISTANCES_PX:
        for axis in range(2):
            step = _Step(distance, axis, height, width)
            first, second = step.ends(true_log)
            true = second - first
            pairs = np.flatnonzero((np.abs(true) > EDGE_LOG_STEP) & step.both(valid))
            true = true.ravel()[pairs]
            here, there = step.pixels(pairs)
            product += np.einsum("mk,k->m", pick(log, there) - pick(log, here), true)
            energy, count = energy + float(np.einsum("k,k->", true, true)), count + len(pairs)
    return Gain(product, energy, count, 0.0)


def contrast_change(
    log: Float64[np.ndarray, "t h w"], true_log: Float64[np.ndarray, "t h w"], valid: Bool[np.ndarray, "t h w"]
) -> Float64[np.ndarray, "t h w"]:
    """Contrast of log depth around each pixel, less that of the label: below 0 where edges are lost, above 0 gained.

    The contrast is the largest less the smallest log depth of the valid pixels of a square, CONTRAST_RADIUS px to
    each side; 0 where there is no valid pixel. It shows where what `edge_gain` sums up is lost.

    Args:
        log: log depth of the prediction.
        true_log: log depth of the label; what stands at invalid pixels is never read.
        valid: where the label counts.
    """
    square = np.ones((2 * CONTRAST_RADIUS + 1,) * 2, np.uint8)
    change = np.zeros(log.shape)
    for t, kept in enumerate(valid):
        contrasts = []
        for image in (log[t], true_log[t]):
            high, low = (cv2.dilate(np.where(kept, side * image, -np.inf), square) for side in (1, -1))
            # Not -inf: what OpenCV takes for the outside of an image is finite.
            empty = high < -1e9
            contrasts.append(np.where(empty, 0, high) + np.where(empty, 0, low))
        change[t] = contrasts[0] - contrasts[1]
    return change


def edges_kept(depth: Images, reference: Truth) -> Float64[Tensor, "*m"]:
    """`edge_gain` with another model in the label's place, over all its positive finite pixels: 1 keeps every edge.

    Needs no label, and says nothing of whether the other model is right. Inverse depth and depth up to an offset are
    compared as `ops.alignment.comparable_depth` of both, with the unit and offset of the other model for both.

    Args:
        depth: predicted depth (*m, t, h, w), of any unit; counted as 0.001 where smaller.
        reference: depth of the other model (t, h, w), of any unit.

    Returns: one float64 a method; NaN where the other model has no edge.
    """
    other = as_array(reference)
    return edge_gain(depth, other, np.isfinite(other) & (other > 0))
