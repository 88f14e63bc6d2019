"""Static pixels and moving ones told apart; claim 2: moving things change depth as much and as smoothly as in truth."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from steadydepth.metrics.arrays import (
    Images,
    Mask,
    Matrix,
    Poses,
    Scores,
    Truth,
    as_bool,
    as_float64,
    log_depth,
    log_truth,
    ratio,
)
from steadydepth.metrics.matches import Match, Triple, sample_at, take
from steadydepth.metrics.steadiness import STATIC_CHANGE, bend, grow
from steadydepth.ops.camera import move, project, relative_pose, unproject
from steadydepth.ops.warp import all_neighbours

# A larger change of depth at one pixel in one frame is the edge of something, not its motion.
EDGE_CHANGE = math.log(1.15)
# Root mean square change of log depth under which nothing moves in depth and a gain would be noise over noise.
LEAST_CHANGE = 1e-5


@dataclass(frozen=True)
class Split:
    """Pixels known to be static and pixels known to be moving; neither where it is not known."""

    static: Bool[Tensor, "t h w"]
    moving: Bool[Tensor, "t h w"]


def split_by_objects(objects_moving: Mask, valid: Mask) -> Split:
    """Moving where an object mask says so; static is the rest, less one pixel around every moving object."""
    moving, valid = as_bool(objects_moving), as_bool(valid)
    return Split(static=valid & ~grow(moving), moving=valid & moving)


def split_by_pose(truth: Truth, valid: Mask, *, K: Matrix, cam_to_world: Poses, seen_next: Mask | None = None) -> Split:
    """Without object masks: static is where the label, moved by the poses into the next frame, agrees with it there.

    Static where |ln g_(t+1)(q) - ln z'| <= 1 %; moving above that and up to ln 1.15, beyond which a pixel is taken for
    occluded; `seen_next` (t, h, w), when known, leaves out what the next frame does not show. The last frame looks
    back. Identity matrices serve a camera that stands still and has no calibration.
    """
    truth, valid = torch.as_tensor(truth), as_bool(valid)
    K, cam_to_world = as_float64(K), as_float64(cam_to_world)
    static, moving = torch.zeros_like(valid), torch.zeros_like(valid)
    n_frames, height, width = valid.shape
    for t in range(n_frames if n_frames > 1 else 0):
        other = t + 1 if t + 1 < n_frames else t - 1
        points = unproject(torch.where(valid[t], truth[t], 1).double(), K)
        points = move(points, relative_pose(cam_to_world[t], cam_to_world[other]))
        at = project(points, K).round(decimals=6)
        known = valid[t] & all_neighbours(valid[other][None], at[None])[0]
        safe = torch.where(known[..., None], at, 0).flatten(0, 1)
        there = sample_at(log_truth(truth[other], valid[other]), safe).unflatten(0, (height, width))
        change = (there - torch.where(known, points[..., 2], 1).log()).abs()
        static[t] = known & (change <= 0.01)
        moving[t] = known & (change > 0.01) & (change <= EDGE_CHANGE)
    return Split(static, moving if seen_next is None else moving & as_bool(seen_next))


def change_scores(depth: Images, truth: Truth, matches: Iterable[Match]) -> Scores:
    """Change of log depth along true trajectories of moving pixels: v = l_(t+1)(q+) - l_t(p), v* the label's.

    vel   100 mean |v - v*|, % a frame, lower: does depth change as much as it should
    gain  sum v v* / sum v*^2, 1 is ideal, 0 frozen, below 1 late or smoothed; NaN where the label does not change

    Pooled over all pixels and frames of the clip; `n_tracked` samples.
    """
    depth, truth = torch.as_tensor(depth), torch.as_tensor(truth)
    error = product = torch.zeros(depth.shape[:-3], dtype=torch.float64)
    energy, count = torch.zeros((), dtype=torch.float64), 0
    for match in matches:
        change, true_change = _change(depth, match), _change(truth, match)
        error = error + (change - true_change).abs().sum(dim=-1)
        product = product + (change * true_change).sum(dim=-1)
        energy = energy + (true_change**2).sum()
        count += len(match.pixels)
    changing = energy > LEAST_CHANGE**2 * max(count, 1)
    gain = torch.where(changing, product / torch.where(changing, energy, 1), torch.nan)
    return {"vel": 100 * ratio(error, count), "gain": gain, "n_tracked": torch.full_like(error, count)}


def _change(depth: Images, match: Match) -> Float64[Tensor, "*m n"]:
    depth = torch.as_tensor(depth)
    there = sample_at(_log(depth[..., match.target, :, :]), match.at)
    return there - take(_log(depth[..., match.source, :, :]), match.pixels)


def _log(depth: Tensor) -> Float64[Tensor, "*m h w"]:
    # NaN on unlabelled pixels must not reach the bilinear sums, where 0 * NaN is NaN.
    return log_depth(torch.where(torch.isfinite(depth), depth, 1))


def bend_scores(depth: Images, truth: Truth, tracked: Iterable[Triple]) -> Scores:
    """Second difference of log depth along true trajectories of moving pixels: a, and a* the label's.

    acc    100 mean |a - a*|, % a frame^2, lower; 0 when depth changes exactly as smoothly as the truth
    rough  100 mean |a|, % a frame^2, to be read beside the label's own

    Pooled over all pixels and frames of the clip; `n_tracked_twice` samples.
    """
    depth, truth = torch.as_tensor(depth), torch.as_tensor(truth)
    truth = torch.where(torch.isfinite(truth), truth, 1)
    error = roughness = torch.zeros(depth.shape[:-3], dtype=torch.float64)
    count = 0
    for triple in tracked:
        curve, true_curve = bend(depth, triple), bend(truth, triple)
        error = error + (curve - true_curve).abs().sum(dim=-1)
        roughness = roughness + curve.abs().sum(dim=-1)
        count += len(triple.pixels)
    return {
        "acc": 100 * ratio(error, count),
        "rough": 100 * ratio(roughness, count),
        "n_tracked_twice": torch.full_like(error, count),
    }


def label_change_scores(depth: Images, truth: Truth, valid: Mask) -> Scores:
    """Change at fixed pixels, split by how much the label changes; needs no flow, pose or mask.

    With D = ln g_(t+1) - ln g_t where both are valid: static |D| <= ln 1.01, moving |D| <= ln 1.15, above it an edge.

    ltg_static, ltg_moving  100 mean |change of ln d - D| over each set, % a frame, lower
    lta_moving              100 mean |second difference of ln d - that of ln g| where both changes are moving, lower

    Weaker than the split by objects: under a moving camera a static point counts as moving.
    """
    depth, truth, valid = torch.as_tensor(depth), torch.as_tensor(truth), as_bool(valid)
    names = ("static", "moving", "twice")
    total = dict.fromkeys(names, torch.zeros(depth.shape[:-3], dtype=torch.float64))
    count = dict.fromkeys(names, 0)
    before_moving, before_error = (
        torch.zeros_like(valid[0]),
        torch.zeros(depth[..., 0, :, :].shape, dtype=torch.float64),
    )
    for t in range(len(valid) - 1):
        both = valid[t] & valid[t + 1]
        true_change = log_truth(truth[t + 1], both) - log_truth(truth[t], both)
        error = log_depth(depth[..., t + 1, :, :]) - log_depth(depth[..., t, :, :]) - true_change
        static = both & (true_change.abs() <= STATIC_CHANGE)
        moving = both & ~static & (true_change.abs() <= EDGE_CHANGE)
        terms = {
            "static": (static, error),
            "moving": (moving, error),
            "twice": (moving & before_moving, error - before_error),
        }
        for name, (chosen, value) in terms.items():
            total[name] = total[name] + value[..., chosen].abs().sum(dim=-1)
            count[name] += int(chosen.sum())
        before_moving, before_error = moving, error
    static, moving, twice = (100 * ratio(total[name], count[name]) for name in names)
    counts = dict(zip(("n_unchanged", "n_changed", "n_changed_twice"), count.values(), strict=True))
    scores = {"ltg_static": static, "ltg_moving": moving, "lta_moving": twice}
    return scores | {name: torch.full_like(static, n) for name, n in counts.items()}
