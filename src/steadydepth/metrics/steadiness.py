"""How much a depth video flickers: at fixed pixels, along poses, along flow, and beside the label's own change.

Every function scores one or several methods on one clip, `depth` (*m, t, h, w) in metres after ONE alignment for the
whole clip, and gives float64 (*m), NaN where there is no sample. In log units times 100 a value reads as per cent of
depth. A constant wins all of these but `tcc`: read them beside the accuracy and the gain.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int64
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
from steadydepth.metrics.matches import Match, RigidMatch, Triple, sample_at, take
from steadydepth.ops.camera import move, project, relative_pose, unproject

STATIC_CHANGE = math.log(1.01)


def grow(mask: Mask) -> Bool[Tensor, "t h w"]:
    """3 x 3 dilation of each image."""
    return F.max_pool2d(as_bool(mask).float()[:, None], 3, stride=1, padding=1)[:, 0] > 0


def fixed_static_set(truth: Truth, valid: Mask, objects_moving: Mask | None = None) -> Bool[Tensor, "h w"]:
    """Pixels that show one static point of the world all the time, under a camera that stands still.

    Valid in at least max(3, ceil(t / 2)) frames, ln g changes over those by at most ln 1.01, and no moving object
    comes within one pixel in any frame.
    """
    truth, valid = torch.as_tensor(truth), as_bool(valid)
    depth = log_truth(truth, valid)
    spread = torch.where(valid, depth, -torch.inf).amax(dim=0) - torch.where(valid, depth, torch.inf).amin(dim=0)
    chosen = (valid.sum(dim=0) >= max(3, math.ceil(len(valid) / 2))) & (spread <= STATIC_CHANGE)
    return chosen if objects_moving is None else chosen & ~grow(objects_moving).any(dim=0)


def fixed_camera_scores(depth: Images, valid: Mask, static_set: Bool[Tensor, "h w"]) -> Scores:
    """Claim 1 under a camera that stands still: l = ln max(d, 1e-3) over the pixels p of the static set, lower better.

    tsd      100 mean_p std_t l, over the valid frames, population std        % of depth
    tsd_p95  the 95th percentile over p instead of the mean                   % of depth
    flicker  100 mean |l_(t+1) - l_t| over p and valid neighbouring frames    % a frame
    drift    100 (t - 1) |mean_p slope_p|, slope of the least-squares line    % a clip: slow, apart from flicker
    """
    depth, valid = torch.as_tensor(depth), as_bool(valid)[:, static_set]
    values = log_depth(depth[..., static_set])
    n_frames, n_pixels = valid.shape
    count = valid.sum(dim=0).clamp(min=1)
    centred = torch.where(valid, values - torch.where(valid, values, 0).sum(dim=-2, keepdim=True) / count, 0)
    deviation = ((centred**2).sum(dim=-2) / count).sqrt()
    pairs = valid[1:] & valid[:-1]
    changes = torch.where(pairs, values.diff(dim=-2).abs(), 0)
    time = torch.arange(n_frames, dtype=torch.float64)[:, None]
    time = torch.where(valid, time - (time * valid).sum(dim=0) / count, 0)
    slopes = (centred * time).sum(dim=-2) / (time**2).sum(dim=0)
    return {
        "tsd": 100 * ratio(deviation.sum(dim=-1), n_pixels),
        "tsd_p95": 100 * (deviation.quantile(0.95, dim=-1) if n_pixels else deviation.sum(dim=-1) * torch.nan),
        "flicker": 100 * ratio(changes.sum(dim=(-2, -1)), pairs.sum()),
        "drift": 100 * (n_frames - 1) * ratio(slopes.sum(dim=-1), n_pixels).abs(),
    }


def rigid_error(depth: Images, matches: Iterable[RigidMatch]) -> Scores:
    """Claim 1 under a moving camera. sre: static rigid error, 100 mean |l_target(q) - ln z'|, %, lower is better.

    z' is the prediction's own depth of the source pixel, moved by the true pose; q, where the LABEL says the point is.
    l is sampled bilinearly in log depth. Unlike the alignment error of Video-Depth-Anything there is no rounding and
    no collision, and the exact label scores about 0. `n_rigid` is the number of samples.
    """
    depth = torch.as_tensor(depth)
    total, count = torch.zeros(depth.shape[:-3], dtype=torch.float64), 0
    for rigid in matches:
        match = rigid.match
        moved = take(depth[..., match.source, :, :].double(), match.pixels) * rigid.ray_z + rigid.offset_z
        there = sample_at(log_depth(depth[..., match.target, :, :]), match.at)
        total = total + (there - log_depth(moved)).abs().sum(dim=-1)
        count += len(match.pixels)
    return {"sre": 100 * ratio(total, count), "n_rigid": torch.full_like(total, count)}


def warping_scores(depth: Images, matches: Iterable[Match]) -> Scores:
    """Depth beside the depth of the next frame along the flow, W d_(t+1), sampled bilinearly in metres.

    opw       mean |W d_(t+1) - d_t|, metres, lower; optical-flow warping error
    rtc_TAU   share of max(d_t / W d_(t+1), W d_(t+1) / d_t) < TAU, fraction, higher; TAU = 1.01 and 1.25

    Each pair of frames by itself, then the mean over the pairs that have pixels. Khan et al. 2023, without their
    optional pose compensation: a camera moving forward changes true depth, and this counts it.
    """
    depth = torch.as_tensor(depth)
    total = dict.fromkeys(("opw", "rtc_1.01", "rtc_1.25"), torch.zeros(depth.shape[:-3], dtype=torch.float64))
    n_pairs = 0
    for match in matches:
        if len(match.pixels):
            n_pairs += 1
            here = take(depth[..., match.source, :, :].double(), match.pixels)
            there = sample_at(depth[..., match.target, :, :].double(), match.at)
            factor = torch.maximum(here / there, there / here)
            values = ((there - here).abs(), (factor < 1.01).double(), (factor < 1.25).double())
            total = {name: total[name] + value.mean(dim=-1) for name, value in zip(total, values, strict=True)}
    return {name: ratio(value, n_pairs) for name, value in total.items()}


def flow_flicker(depth: Images, matches: Iterable[Match]) -> Scores:
    """flicker_flow: 100 mean |ln d_t - ln W d_(t-1)| over trusted pixels, % a frame, lower; no label is needed.

    True change of depth counts as well, so only the same video can be compared; it says nothing about accuracy.
    """
    depth = torch.as_tensor(depth)
    total, count = torch.zeros(depth.shape[:-3], dtype=torch.float64), 0
    for match in matches:
        here = take(log_depth(depth[..., match.source, :, :]), match.pixels)
        there = sample_at(log_depth(depth[..., match.target, :, :]), match.at)
        total = total + (here - there).abs().sum(dim=-1)
        count += len(match.pixels)
    return {"flicker_flow": 100 * ratio(total, count), "n_followed": torch.full_like(total, count)}


def flow_roughness(depth: Images, followed: Iterable[Triple]) -> Scores:
    """rough_flow: 100 mean |l_(t+1)(q+) - 2 l_t(p) + l_(t-1)(q-)| along trusted flow, % a frame^2, lower; no label."""
    depth = torch.as_tensor(depth)
    total, count = torch.zeros(depth.shape[:-3], dtype=torch.float64), 0
    for triple in followed:
        total = total + bend(depth, triple).abs().sum(dim=-1)
        count += len(triple.pixels)
    return {"rough_flow": 100 * ratio(total, count), "n_followed_twice": torch.full_like(total, count)}


def bend(depth: Images, triple: Triple) -> Float64[Tensor, "*m n"]:
    """Second difference of log depth of each point: l_(t+1)(q+) - 2 l_t(p) + l_(t-1)(q-)."""
    depth, t = torch.as_tensor(depth), triple.middle
    ahead = sample_at(log_depth(depth[..., t + 1, :, :]), triple.ahead)
    behind = sample_at(log_depth(depth[..., t - 1, :, :]), triple.behind)
    return ahead - 2 * take(log_depth(depth[..., t, :, :]), triple.pixels) + behind


def tae(depth: Images, kept: Mask, *, K: Matrix, cam_to_world: Poses) -> Float64[Tensor, "*m"]:
    """Temporal alignment error, %, lower: each frame's own depth moved to its neighbour by the poses, both directions.

    100 mean |d_target - z'| / d_target over `kept` pixels of the target that a `kept` pixel of the source lands on,
    rounded half to even; where several land the nearest counts (Video-Depth-Anything benchmark/eval/eval_tae.py takes
    whichever is written last). Mean over the pair directions that have pixels. Occlusions and moving objects count as
    error, so print the label's own beside it.
    """
    depth, kept = torch.as_tensor(depth), as_bool(kept)
    K, cam_to_world = as_float64(K), as_float64(cam_to_world)
    total, n_terms = torch.zeros(depth.shape[:-3], dtype=torch.float64), torch.zeros(depth.shape[:-3])
    for t in range(len(kept) - 1):
        for source, target in ((t, t + 1), (t + 1, t)):
            transform = relative_pose(cam_to_world[source], cam_to_world[target])
            points = move(unproject(depth[..., source, :, :].double(), K), transform)
            nearest = _splat(points, kept[source], K)
            shown = kept[target] & torch.isfinite(nearest)
            there = depth[..., target, :, :].double()
            error = torch.where(shown, (there - nearest).abs() / torch.where(shown, there, 1), 0).sum(dim=(-2, -1))
            n_shown = shown.sum(dim=(-2, -1))
            total = total + torch.where(n_shown > 0, error / n_shown.clamp(min=1), 0)
            n_terms = n_terms + (n_shown > 0)
    return 100 * ratio(total, n_terms)


def _splat(
    points: Float64[Tensor, "*m h w 3"], kept: Bool[Tensor, "h w"], K: Float64[Tensor, "3 3"]
) -> Float64[Tensor, "*m h w"]:
    """Depth of the nearest point that falls on each pixel; inf where none does."""
    height, width = kept.shape
    at = project(points, K).round()
    size = torch.tensor([width, height])
    inside = kept & ((at >= 0) & (at < size)).all(dim=-1)
    # Points that are not counted are written to one more pixel, which is then cut off.
    index: Int64[Tensor, "*m h w"] = torch.where(inside, at[..., 1] * width + at[..., 0], height * width).long()
    nearest = points.new_full((*points.shape[:-3], height * width + 1), torch.inf)
    nearest = nearest.scatter_reduce(-1, index.flatten(-2), points[..., 2].flatten(-2), "amin")
    return nearest[..., :-1].unflatten(-1, (height, width))


def tcc(depth: Images, truth: Truth, valid: Mask) -> Float64[Tensor, "*m"]:
    """Temporal change consistency, SSIM of |d_(t+1) - d_t| and |g_(t+1) - g_t| at fixed pixels, higher (1 is best).

    Zhang et al. 2019, as computed by Khan et al. 2023: metres, data range 1, 11 x 11 Gaussian window of sigma 1.5
    without padding, K = (0.01, 0.03), a negative mean counts as 0; mean over pairs. Pixels not valid in both frames are
    0 in both, so they count as equal. NaN for images under 11 px; a pair without valid pixels is left out.
    """
    depth, truth, valid = torch.as_tensor(depth), torch.as_tensor(truth), as_bool(valid)
    total, n_pairs = torch.zeros(depth.shape[:-3], dtype=torch.float64), 0
    for t in range(len(truth) - 1):
        both = valid[t] & valid[t + 1]
        if both.any() and min(both.shape) >= 11:
            n_pairs += 1
            change = torch.where(both, depth[..., t + 1, :, :].double() - depth[..., t, :, :].double(), 0).abs()
            true_change = torch.where(both, truth[t + 1].double() - truth[t].double(), 0).abs()
            total = total + ssim(change, true_change).clamp(min=0)
    return ratio(total, n_pairs)


def ssim(first: Float64[Tensor, "*m h w"], second: Float64[Tensor, "h w"]) -> Float64[Tensor, "*m"]:
    """Mean structural similarity (Wang et al. 2004), Gaussian window 11 x 11, sigma 1.5, data range 1, no padding."""
    second = second.expand_as(first)
    mean1, mean2 = _blur(first), _blur(second)
    var1, var2 = _blur(first**2) - mean1**2, _blur(second**2) - mean2**2
    covariance = _blur(first * second) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    similar = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return (similar / ((mean1**2 + mean2**2 + c1) * (var1 + var2 + c2))).mean(dim=(-2, -1))


def _blur(images: Float64[Tensor, "*m h w"]) -> Float64[Tensor, "*m i j"]:
    window = torch.exp(-((torch.arange(11, dtype=torch.float64) - 5) ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    flat = images.reshape(-1, 1, *images.shape[-2:])
    blurred = F.conv2d(F.conv2d(flat, window[None, None, :, None]), window[None, None, None, :])
    return blurred.reshape(*images.shape[:-2], *blurred.shape[-2:])
