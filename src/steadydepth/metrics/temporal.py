"""How much a depth video flickers: at fixed pixels, along poses, along flow, and beside the label's own change.

Every function scores one or several methods on one clip, `depth` (*m, t, h, w) in metres after ONE alignment for the
complete clip, and gives float64 (*m), NaN where there is no sample. A mask is bool or all 0 and 1, else an InputError.
In log units times 100 a value reads as per cent of depth. A constant wins all of these but `tcc`: read them beside the
accuracy and the gain. Beside each stands what one frame, pair or triple of frames adds to it (`*_parts`), for clips
that are read frame by frame.
"""

import math

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from steadydepth.metrics.accumulators import Count, Mean, Part, PixelSeries, merge, no_means, steady_results
from steadydepth.metrics.arrays import (
    Chosen,
    Images,
    Layers,
    Mask,
    Matrix,
    Pixels,
    PixelSet,
    Poses,
    Scores,
    Stack,
    Truth,
    as_array,
    as_mask,
    blocks,
    layer_sums,
    log_depth,
    pick,
    pixels_of,
)
from steadydepth.metrics.correspondences import Match, RigidMove, landing, pose_move, rigid_match
from steadydepth.ops.sampling import sample

STATIC_CHANGE = math.log(1.01)


def grow(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """3 x 3 dilation of an image."""
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


class StaticSearch:
    """Pixels that show one static point of the world all the time, under a camera that stands still.

    Given one frame after another: valid in at least max(3, ceil(t / 2)) frames, ln g changes over those by at most
    ln 1.01, and no moving object comes within one pixel in any frame.
    """

    def __init__(self) -> None:
        self._n_frames = 0
        self._count, self._passed = np.array(0), np.array(False)
        self._low, self._high = np.array(np.inf), np.array(-np.inf)

    def add(self, log_truth: Pixels, valid: Chosen, objects_moving: Bool[np.ndarray, "h w"] | None) -> None:
        """Look at the next frame.

        Args:
            log_truth: log of the label; anything finite where not valid.
            valid: where it counts.
            objects_moving: pixels of moving objects; None where the data does not say.
        """
        self._n_frames += 1
        self._count = self._count + valid
        self._low = np.minimum(self._low, np.where(valid, log_truth, np.inf))
        self._high = np.maximum(self._high, np.where(valid, log_truth, -np.inf))
        if objects_moving is not None and objects_moving.any():
            self._passed = self._passed | grow(objects_moving).ravel()

    def result(self) -> Chosen:
        """The set, from all frames."""
        enough = self._count >= max(3, math.ceil(self._n_frames / 2))
        spread = np.where(enough, self._high, 0) - np.where(enough, self._low, 0)
        return enough & (spread <= STATIC_CHANGE) & ~self._passed


def fixed_static_set(truth: Truth, valid: Mask, objects_moving: Mask | None = None) -> Bool[Tensor, "h w"]:
    """The pixels that `StaticSearch` finds in a clip; `truth` in metres.

    Args:
        truth: depth of the label, metres.
        valid: where the label counts.
        objects_moving: where objects move; None: nowhere.

    Returns: True at the pixels of the set.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    search = StaticSearch()
    for t in range(len(truth)):
        true, kept = pixels_of(truth, valid, t)
        search.add(np.log(true), kept, None if objects_moving is None else as_mask(objects_moving[t]))
    return torch.from_numpy(search.result().reshape(truth.shape[1:]))


def fixed_camera_scores(depth: Images, valid: Mask, static_set: PixelSet) -> Scores:
    """Claim 1 under a camera that stands still: l = ln max(d, 1e-3) over the pixels p of the static set, lower better.

    tsd      100 mean_p std_t l, over the valid frames, population std        % of depth
    tsd_p95  the 95th percentile over p instead of the mean                   % of depth
    flicker  100 mean |l_(t+1) - l_t| over p and valid neighbouring frames    % a frame
    drift    100 (t - 1) |mean_p slope_p|, slope of the least-squares line    % a clip: slow, apart from flicker

    A pixel that is valid in one frame alone says nothing of the first, second and fourth.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        valid: where the label counts.
        static_set: pixels of `fixed_static_set`.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack, chosen = Stack(depth), np.flatnonzero(as_mask(static_set))
    measured = as_mask(valid).reshape(stack.n_frames, -1)[:, chosen]
    flicker = no_means("flicker")
    series, before = None, None
    for t in range(stack.n_frames):
        log = pick(stack.log(t), chosen)
        now = PixelSeries.of(t, log, measured[t])
        series = now if series is None else series + now
        if before is not None:
            flicker = merge(flicker, flicker_parts(before, log, measured[t - 1] & measured[t]))
        before = log
    assert series is not None
    results = steady_results(series, stack.n_frames)
    scores = stack.scores(flicker)
    return {**{name: torch.from_numpy(value.reshape(stack.shape)) for name, value in results.items()}, **scores}


def flicker_parts(before: Layers, now: Layers, both: Chosen) -> dict[str, Part]:
    """What a pair of frames adds to `flicker`.

    Args:
        before: log depth of each method in the earlier frame, at the pixels of the static set.
        now: the same of the later frame.
        both: where both frames are valid, of those pixels.
    """
    change = np.abs(now - before)
    total = layer_sums(change if both.all() else change[:, both])
    return {"flicker": Mean(100 * total, float(both.sum()))}


def rigid_error(depth: Images, truth: Truth, valid: Mask, static: Mask, *, K: Matrix, cam_to_world: Poses) -> Scores:
    """Claim 1 under a moving camera. sre: static rigid error, 100 mean |l_target(q) - ln z'|, %, lower is better.

    Both directions of each pair of frames. z' is the prediction's own depth of the source pixel, moved by the true
    pose; q, where the LABEL says the point is, among `static` valid pixels that the label shows in both frames. l is
    sampled bilinearly in log depth. Unlike the alignment error of Video-Depth-Anything there is no rounding and no
    collision, and the exact label scores about 0. `n_rigid` is the number of samples.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        valid: where the label counts.
        static: pixels of the static world.
        K: camera matrix, pixels; pixel centres are integers.
        cam_to_world: pose of each frame, OpenCV axes, metres.

    Returns: `sre`, one float64 a method (*m), NaN where there is no sample, and `n_rigid`.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack = Stack(depth)
    camera, poses = (as_array(one).astype(np.float64) for one in (K, cam_to_world))
    still = as_mask(static) & as_mask(valid)
    total = no_means("sre") | {"n_rigid": Count(0)}
    for t in range(stack.n_frames - 1):
        for source, target in ((t, t + 1), (t + 1, t)):
            (true, kept), (other, there) = pixels_of(truth, still, source), pixels_of(truth, still, target)
            move = pose_move(camera, poses[source], poses[target], stack.size)
            match = rigid_match(true, kept, np.log(other), there, move)
            total = merge(total, rigid_parts(stack.frame(source), stack.log(target), match, move))
    return stack.scores(total)


def rigid_parts(depth: Layers, target_log: Layers, match: Match, move: RigidMove) -> dict[str, Part]:
    """What one direction of a pair of frames adds to `sre`.

    Args:
        depth: of each method in the source frame, metres.
        target_log: log depth of each method in the other frame.
        match: static pixels of the source, and where they are in the other.
        move: from the camera of the source to that of the other frame.
    """
    pixels = match.pixels
    moved = pick(depth, pixels) * pick(move.ray[2], pixels) + move.offset[2]
    error = np.abs(sample(target_log, match.at) - log_depth(moved))
    return {"sre": Mean(100 * layer_sums(error), float(len(pixels))), "n_rigid": Count(len(pixels))}


def tae(depth: Images, kept: Mask, *, K: Matrix, cam_to_world: Poses) -> Float64[Tensor, "*m"]:
    """Temporal alignment error, %, lower: each frame's own depth moved to its neighbour by the poses, both directions.

    100 mean |d_target - z'| / d_target over `kept` pixels of the target that a `kept` pixel of the source lands on,
    rounded half to even; where several land the nearest counts (Video-Depth-Anything benchmark/eval/eval_tae.py takes
    whichever is written last). Mean over the pair directions that have pixels. Occlusions and moving objects count as
    error, so print the label's own beside it.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        kept: pixels that count, in both frames.
        K: camera matrix, pixels; pixel centres are integers.
        cam_to_world: pose of each frame, OpenCV axes, metres.

    Returns: one float64 a method (*m); NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack = Stack(depth)
    camera, poses = (as_array(one).astype(np.float64) for one in (K, cam_to_world))
    used = as_mask(kept).reshape(stack.n_frames, -1)
    total = no_means("tae")
    for t in range(stack.n_frames - 1):
        for source, target in ((t, t + 1), (t + 1, t)):
            move = pose_move(camera, poses[source], poses[target], stack.size)
            # What does not count may be no number.
            here, there = (np.where(used[t], stack.frame(t), 1.0) for t in (source, target))
            moved = splat(here, used[source].astype(np.int64) - 1, move)
            total = merge(total, {"tae": tae_part(there, moved, used[target])})
    return stack.scores(total)["tae"]


def splat(
    depth: Layers, image: Int64[np.ndarray, "n"], move: RigidMove, *, n_images: int = 1
) -> Float64[np.ndarray, "i m n"]:
    """Depth of the nearest of the moved points that falls on each pixel.

    Args:
        depth: of each method, metres.
        image: which of the images the point at each pixel belongs to; below 0 to none.
        move: from the camera of `depth` to the other.
        n_images: how many images are filled.

    Returns: metres in the other camera, inf where no point falls.
    """
    (n_methods, n), (height, width) = depth.shape, move.size
    # One more than there are: what is not counted is written there, and cut off.
    nearest = np.full(n_images * n_methods * n + 1, np.inf)
    start = image * (n_methods * n)
    layer = np.arange(n_methods)[:, None] * n
    for block in blocks(n_methods, n):
        own = depth[:, block]
        z = own * move.ray[2, block] + move.offset[2]
        x, y = (np.rint(at, out=at) for at in landing(own, move, block))
        inside = (z > 0) & (x >= 0) & (y >= 0) & (x < width) & (y < height) & (image[block] >= 0)
        y *= width
        y += x
        np.copyto(y, 0, where=~inside)
        index = np.where(inside, y.astype(np.int64) + (start[block] + layer), len(nearest) - 1)
        np.minimum.at(nearest, index.ravel(), z.ravel())
    return nearest[:-1].reshape(n_images, n_methods, n)


def tae_part(depth: Layers, moved: Float64[np.ndarray, "i m n"], kept: Chosen) -> Mean:
    """What one direction of a pair adds to the mean of `tae`: its own mean, for the methods with a pixel.

    Args:
        depth: of each method in the frame that is reached, metres.
        moved: the other frame's points there, as `splat` gives them; of several images the nearest counts.
        kept: pixels that count.
    """
    total, n_shown = np.zeros((2, len(depth)))
    for block in blocks(len(depth), len(kept)):
        own, there = depth[:, block], np.minimum.reduce(moved[:, :, block])
        shown = (there < np.inf) & kept[block]
        error = np.where(shown, there, own)
        error -= own
        error /= own
        total += layer_sums(np.abs(error, out=error))
        n_shown += layer_sums(shown.astype(np.float64))
    return Mean(100 * total / np.maximum(n_shown, 1), (n_shown > 0).astype(np.float64))


def tcc(depth: Images, truth: Truth, valid: Mask) -> Float64[Tensor, "*m"]:
    """Temporal change consistency, SSIM of |d_(t+1) - d_t| and |g_(t+1) - g_t| at fixed pixels, higher (1 is best).

    Zhang et al. 2019, as computed by Khan et al. 2023: metres, data range 1, 11 x 11 Gaussian window of sigma 1.5
    without padding, K = (0.01, 0.03), a negative mean counts as 0; mean over pairs. Pixels not valid in both frames are
    0 in both, so they count as equal. NaN for images under 11 px; a pair without valid pixels is left out.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        valid: where the label counts.

    Returns: one float64 a method (*m); NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack = Stack(depth)
    total = no_means("tcc")
    for t in range(stack.n_frames - 1):
        (now, here), (after, there) = pixels_of(truth, valid, t), pixels_of(truth, valid, t + 1)
        change = stack.frame(t + 1) - stack.frame(t)
        total = merge(total, tcc_parts(change, after - now, here & there, stack.height, stack.width))
    return stack.scores(total)["tcc"]


def tcc_parts(change: Layers, true_change: Pixels, both: Chosen, height: int, width: int) -> dict[str, Part]:
    """What a pair of frames adds to `tcc`; nothing for images below the 11 pixels of its window.

    Args:
        change: of depth of each method, from one frame to the next at the same pixel, metres.
        true_change: the same of the label.
        both: where the label counts in both frames.
        height: rows of the image.
        width: columns of the image.
    """
    if not both.any() or min(height, width) < 11:
        return {}
    moved = np.abs(change if both.all() else np.where(both, change, 0)).reshape(-1, height, width)
    true = np.abs(np.where(both, true_change, 0)).reshape(height, width)
    return {"tcc": Mean(np.maximum(ssim(moved, true), 0), 1.0)}


def ssim(first: Float64[np.ndarray, "m h w"], second: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "m"]:
    """Mean structural similarity (Wang et al. 2004), Gaussian window 11 x 11, sigma 1.5, data range 1, no padding."""
    c1, c2 = 0.01**2, 0.03**2
    mean2, square2 = _blur(second), _blur(second * second)
    energy2 = mean2 * mean2
    spread2 = square2 - energy2 + c2
    energy2 += c1
    found = []
    for image in first:
        mean1, square1, product = _blur(image), _blur(image * image), _blur(image * second)
        both, energy1 = mean1 * mean2, mean1 * mean1
        similar = (2 * both + c1) * (2 * (product - both) + c2)
        similar /= (energy1 + energy2) * (square1 - energy1 + spread2)
        found.append(similar.mean())
    return np.array(found)


def _blur(image: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "i j"]:
    window = cv2.getGaussianKernel(11, 1.5)
    return cv2.sepFilter2D(image, cv2.CV_64F, window, window)[5:-5, 5:-5]
