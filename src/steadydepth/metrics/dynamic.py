"""Static and moving pixels distinguished; claim 2: moving things change depth as much and as smoothly as in truth.

Depth, masks and results are those of `metrics.temporal`.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from steadydepth.metrics.accumulators import Count, Gain, Mean, Part, merge, no_means
from steadydepth.metrics.along_flow import bend
from steadydepth.metrics.arrays import (
    Chosen,
    Images,
    Layers,
    Mask,
    Matrix,
    Pixels,
    Poses,
    Scores,
    Stack,
    Truth,
    as_array,
    as_mask,
    layer_sums,
    pick,
    pixels_of,
)
from steadydepth.metrics.correspondences import (
    Match,
    RigidMove,
    Triple,
    correspondences_of,
    pose_move,
    reproject,
    triple,
)
from steadydepth.metrics.temporal import STATIC_CHANGE, grow
from steadydepth.ops.bidirectional_flow import TwoWayFlow
from steadydepth.ops.sampling import sample, sees_only

# A larger change of depth at one pixel in one frame is the edge of something, not its motion.
EDGE_CHANGE = math.log(1.15)
# Root mean square change of log depth under which nothing moves in depth and a gain would be noise over noise.
LEAST_CHANGE = 1e-5


@dataclass(frozen=True)
class Split:
    """Pixels known to be static and pixels known to be moving; neither where it is not known."""

    static: Bool[np.ndarray, "*t h w"]
    moving: Bool[np.ndarray, "*t h w"]


def split_by_objects(objects_moving: Mask, valid: Mask) -> Split:
    """Moving where an object mask says so; static is the rest, less one pixel around every moving object.

    Args:
        objects_moving: where objects move.
        valid: where the label counts.

    Returns: static and moving pixels.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    moving, known = as_mask(objects_moving), as_mask(valid)
    near = np.stack([grow(frame) for frame in moving]) if len(moving) else moving
    return Split(static=known & ~near, moving=known & moving)


def split_by_pose(
    truth: Truth, valid: Mask, *, K: Matrix, cam_to_world: Poses, visible_next: Mask | None = None
) -> Split:
    """Without object masks: static is where the label, moved by the poses into the next frame, agrees with it there.

    Static where |ln g_(t+1)(q) - ln z'| <= 1 %; moving above that and up to ln 1.15, beyond which a pixel is taken for
    occluded; `visible_next` (t, h, w), when known, leaves out what the next frame does not show. The last frame looks
    back. Identity matrices serve a camera that stands still and has no calibration.

    Args:
        truth: depth of the label, metres.
        valid: where the label counts.
        K: camera matrix, pixels; pixel centres are integers.
        cam_to_world: pose of each frame, OpenCV axes, metres.
        visible_next: what the next frame shows; None: not known.

    Returns: static and moving pixels.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    n_frames, height, width = truth.shape
    camera, poses = (as_array(one).astype(np.float64) for one in (K, cam_to_world))
    static, moving = np.zeros((2, n_frames, height * width), bool)
    for t in range(n_frames if n_frames > 1 else 0):
        other = t + 1 if t + 1 < n_frames else t - 1
        (true, here), (beside, there) = pixels_of(truth, valid, t), pixels_of(truth, valid, other)
        move = pose_move(camera, poses[t], poses[other], (height, width))
        static[t], moving[t] = split_frame(true, here, np.log(beside), there, move)
    if visible_next is not None:
        moving &= as_mask(visible_next).reshape(n_frames, -1)
    return Split(static.reshape(truth.shape), moving.reshape(truth.shape))


def split_frame(
    truth: Pixels, valid: Chosen, other_log: Pixels, other_valid: Chosen, move: RigidMove
) -> tuple[Chosen, Chosen]:
    """Static and moving pixels of one frame, by the label of another one and the move between their cameras.

    Args:
        truth: metres, of the frame.
        valid: where it counts.
        other_log: log of the label in the other frame, finite everywhere.
        other_valid: where that one counts.
        move: from the camera of the frame to that of the other.

    Returns: static pixels, whose depth agrees with the move to 1 %; and moving ones, up to the change of an edge.
    """
    z, places = reproject(truth, move)
    known = valid & sees_only(other_valid, places)
    change = np.abs(sample(other_log[None], places)[0] - np.log(np.where(known, z, 1)))
    return known & (change <= 0.01), known & (change > 0.01) & (change <= EDGE_CHANGE)


def change_scores(depth: Images, truth: Truth, moving: Mask, flow: TwoWayFlow) -> Scores:
    """Change of log depth along true trajectories of moving pixels: v = l_(t+1)(q+) - l_t(p), v* the label's.

    vel   100 mean |v - v*|, % a frame, lower: does depth change as much as it should
    gain  sum v v* / sum v*^2, 1 is ideal, 0 frozen, below 1 late or smoothed; NaN where the label does not change

    `moving` pixels have a label; all that is read is in it. `flow` as `label_flow` gives it. Pooled over all pixels and
    frames of the clip; `n_tracked` samples.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        moving: pixels that move and have a label (`split_by_objects`, `split_by_pose`).
        flow: true flow between neighbouring frames, pixels, of `label_flow`.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1, or the flow is not of this depth.
    """
    stack = Stack(depth, flow)
    total = no_means("vel") | {"gain": Gain(np.zeros(1), 0.0, 0, LEAST_CHANGE), "n_tracked": Count(0)}
    for t in range(stack.n_frames - 1):
        (now, here), (after, there) = pixels_of(truth, moving, t), pixels_of(truth, moving, t + 1)
        correspondence = correspondences_of(flow.pair(t)).forward
        match = correspondence.match(here & correspondence.visible, there)
        total = merge(total, change_parts(stack.log(t), stack.log(t + 1), np.log(now), np.log(after), match))
    return stack.scores(total)


def change_parts(log: Layers, next_log: Layers, truth: Pixels, next_truth: Pixels, match: Match) -> dict[str, Part]:
    """What a pair of frames adds to `vel` and `gain`.

    Args:
        log: log depth of each method in the first frame.
        next_log: the same of the next frame.
        truth: log of the label in the first frame, finite everywhere.
        next_truth: the same of the next frame.
        match: pixels of the first frame, and where they are in the next.
    """
    n = len(match.pixels)
    change = sample(next_log, match.at) - pick(log, match.pixels)
    true_change = sample(next_truth[None], match.at)[0] - pick(truth, match.pixels)
    error = np.abs(change - true_change)
    product = np.einsum("mn,n->m", change, true_change)
    return {
        "vel": Mean(100 * layer_sums(error), float(n)),
        "gain": Gain(product, float(np.einsum("n,n->", true_change, true_change)), n, LEAST_CHANGE),
        "n_tracked": Count(n),
    }


def bend_scores(depth: Images, truth: Truth, moving: Mask, flow: TwoWayFlow) -> Scores:
    """Second difference of log depth along true trajectories of moving pixels: a, and a* the label's.

    acc    100 mean |a - a*|, % a frame^2, lower; 0 when depth changes exactly as smoothly as the truth
    rough  100 mean |a|, % a frame^2, to be read beside the label's own

    `moving` and `flow` as for `change_scores`. Pooled over all pixels and frames of the clip, `n_tracked_twice` samples
    in all.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        moving: pixels that move and have a label (`split_by_objects`, `split_by_pose`).
        flow: true flow between neighbouring frames, pixels, of `label_flow`.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1, or the flow is not of this depth.
    """
    stack = Stack(depth, flow)
    total = no_means("acc", "rough") | {"n_tracked_twice": Count(0)}
    for t in range(1, stack.n_frames - 1):
        frames = [pixels_of(truth, moving, i) for i in (t - 1, t, t + 1)]
        tracked = triple(
            correspondences_of(flow.pair(t)).forward,
            correspondences_of(flow.pair(t - 1)).backward,
            *(kept for _, kept in frames),
        )
        before, now, after = (np.log(true) for true, _ in frames)
        logs = (stack.log(t - 1), stack.log(t), stack.log(t + 1))
        total = merge(total, bend_parts(logs, (before, now, after), tracked))
    return stack.scores(total)


def bend_parts(
    logs: tuple[Layers, Layers, Layers], truths: tuple[Pixels, Pixels, Pixels], tracked: Triple
) -> dict[str, Part]:
    """What three frames add to `acc` and `rough`.

    Args:
        logs: log depth of each method in the frame before, the frame, and the one after.
        truths: log of the label in the same frames, finite everywhere.
        tracked: pixels of the frame, and where they are in the two others.
    """
    before, now, after = (truth[None] for truth in truths)
    n, curve, true_curve = len(tracked.pixels), bend(logs, tracked), bend((before, now, after), tracked)
    return {
        "acc": Mean(100 * layer_sums(np.abs(curve - true_curve)), float(n)),
        "rough": Mean(100 * layer_sums(np.abs(curve)), float(n)),
        "n_tracked_twice": Count(n),
    }


@dataclass(frozen=True)
class LabelChange:
    """How much the change of log depth at fixed pixels of a pair of frames is off, and what the label's change says."""

    error: Layers
    static: Chosen
    moving: Chosen


def label_change_scores(depth: Images, truth: Truth, valid: Mask) -> Scores:
    """Change at fixed pixels, split by how much the label changes; needs no flow, pose or mask.

    With D = ln g_(t+1) - ln g_t where both are valid: static |D| <= ln 1.01, moving |D| <= ln 1.15, above it an edge.

    ltg_static, ltg_moving  100 mean |change of ln d - D| over each set, % a frame, lower
    lta_moving              100 mean |second difference of ln d - that of ln g| where both changes are moving, lower

    Weaker than the split by objects: under a moving camera a static point counts as moving.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        truth: depth of the label, metres.
        valid: where the label counts.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    stack = Stack(depth)
    total = no_means("ltg_static", "ltg_moving", "lta_moving")
    total |= {name: Count(0) for name in ("n_unchanged", "n_changed", "n_changed_twice")}
    before = None
    for t in range(stack.n_frames - 1):
        (now, here), (after, there) = pixels_of(truth, valid, t), pixels_of(truth, valid, t + 1)
        change = label_change(stack.log(t + 1) - stack.log(t), np.log(after) - np.log(now), here & there)
        total = merge(total, label_change_parts(change))
        if before is not None:
            total = merge(total, label_bend_parts(before, change))
        before = change
    return stack.scores(total)


def label_change(change: Layers, true_change: Pixels, both: Chosen) -> LabelChange:
    """The change of log depth of a pair of frames beside the label's, where both frames are valid.

    Args:
        change: of log depth of each method, from one frame to the next at the same pixel.
        true_change: the same of the label.
        both: where the label counts in both frames.
    """
    size = np.abs(true_change)
    static = both & (size <= STATIC_CHANGE)
    return LabelChange(change - true_change, static, both & ~static & (size <= EDGE_CHANGE))


def label_change_parts(change: LabelChange) -> dict[str, Part]:
    """What a pair of frames adds to `ltg_static` and `ltg_moving`."""
    parts: dict[str, Part] = {}
    names = (("ltg_static", "n_unchanged", change.static), ("ltg_moving", "n_changed", change.moving))
    for name, count, chosen in names:
        pixels = np.flatnonzero(chosen)
        parts[name] = Mean(100 * layer_sums(np.abs(pick(change.error, pixels))), float(len(pixels)))
        parts[count] = Count(len(pixels))
    return parts


def label_bend_parts(before: LabelChange, now: LabelChange) -> dict[str, Part]:
    """What three frames add to `lta_moving`."""
    pixels = np.flatnonzero(before.moving & now.moving)
    total = layer_sums(np.abs(pick(now.error, pixels) - pick(before.error, pixels)))
    return {"lta_moving": Mean(100 * total, float(len(pixels))), "n_changed_twice": Count(len(pixels))}
