"""How much a depth video flickers along flow: that of the label, or of the frames alone.

Depth, masks and results are those of `metrics.temporal`. A constant wins all of these.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from steadydepth.metrics.accumulators import Count, Mean, Part, merge, no_means
from steadydepth.metrics.arrays import (
    LEAST_DEPTH_M,
    Chosen,
    Colours,
    Images,
    Layers,
    Mask,
    PairMask,
    Scores,
    Stack,
    Truth,
    as_array,
    as_mask,
    layer_sums,
    pick,
)
from steadydepth.metrics.correspondences import (
    Correspondence,
    Match,
    Triple,
    colours_of,
    correspondences_of,
    photometric_match,
    triple,
    trust,
)
from steadydepth.ops.bidirectional_flow import TwoWayFlow, pair_from_frames, stack_pairs, two_way_from_labels
from steadydepth.ops.sampling import places_at, sample

# Optical-flow warping error as NVDS computes it: infer_NVDS_dpt_bi.py and smooth_loss.py.
_NVDS_SHARPNESS, _NVDS_FACTOR, _NVDS_LEAST_SPREAD = 50.0, 10.0, 1e-6


def warping_scores(
    depth: Images,
    frames: UInt8[np.ndarray, "t h w 3"],
    flow: TwoWayFlow,
    flow_valid: PairMask,
    kept: Mask,
    *,
    landing: Mask | None = None,
) -> Scores:
    """Depth beside the depth of the next frame along the flow, W d_(t+1), sampled bilinearly in metres.

    opw       mean |W d_(t+1) - d_t|, metres, lower; optical-flow warping error
    rtc_TAU   share of max(d_t / W d_(t+1), W d_(t+1) / d_t) < TAU, fraction, higher; TAU = 1.01 and 1.25

    Over `kept` pixels with a valid forward flow that pass `correspondences.photometric_match`; `landing`, for depth
    with holes, are the pixels that may be read. Each pair of frames by itself, then the mean over the pairs that have
    pixels. Khan et al. 2023, without their optional pose compensation: a camera moving forward changes true depth, and
    this counts it.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        frames: RGB.
        flow: flow between neighbouring frames, pixels.
        flow_valid: where the forward flow has a value.
        kept: pixels that count.
        landing: pixels of the next frame that may be read; None: all.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1, or the flow is not of this depth.
    """
    stack, start, known = Stack(depth, flow), as_mask(kept), as_mask(flow_valid)
    total = no_means("opw", "rtc_1.01", "rtc_1.25")
    for t in range(stack.n_frames - 1):
        match = photometric_match(
            correspondences_of(flow.pair(t)).forward,
            (start[t] & known[t]).ravel(),
            colours_of(frames[t]),
            colours_of(frames[t + 1]),
            _frame_of(landing, t + 1),
        )
        total = merge(total, warping_parts(stack.frame(t), stack.frame(t + 1), match))
    return stack.scores(total)


def warping_parts(depth: Layers, next_depth: Layers, match: Match) -> dict[str, Part]:
    """What a pair of frames adds to `opw` and `rtc_*`: one item of their mean, nothing without a pixel.

    Args:
        depth: of each method in the first frame, metres, above 0.
        next_depth: the same of the next frame.
        match: pixels of the first frame, and where they are in the next.
    """
    n = len(match.pixels)
    if not n:
        return {}
    here, there = pick(depth, match.pixels), sample(next_depth, match.at)
    factor = np.maximum(here / there, there / here)
    values = (np.abs(there - here), (factor < 1.01).astype(np.float64), (factor < 1.25).astype(np.float64))
    names = ("opw", "rtc_1.01", "rtc_1.25")
    return {name: Mean(layer_sums(value) / n, 1.0) for name, value in zip(names, values, strict=True)}


def flow_flicker(depth: Images, flow: TwoWayFlow, kept: Mask | None = None) -> Scores:
    """flicker_flow: 100 mean |ln d_t - ln W d_(t-1)| over trusted pixels, % a frame, lower; no label is needed.

    `flow` as `image_flow` gives it; `kept`, for depth with holes, are the pixels that may be read. True change of depth
    counts as well, so only the same video can be compared; it says nothing about accuracy. `n_followed` samples.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        flow: flow between neighbouring frames, pixels, of `image_flow`.
        kept: pixels that may be read, for depth with holes; None: all.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1, or the flow is not of this depth.
    """
    stack = Stack(depth, flow)
    total = no_means("flicker_flow") | {"n_followed": Count(0)}
    for t in range(1, stack.n_frames):
        correspondence = correspondences_of(flow.pair(t - 1)).backward
        now = _frame_of(kept, t)
        start = correspondence.visible if now is None else correspondence.visible & now
        match = correspondence.match(start, _frame_of(kept, t - 1))
        total = merge(total, flow_flicker_parts(stack.log(t - 1), stack.log(t), match))
    return stack.scores(total)


def _frame_of(kept: Mask | None, t: int) -> Chosen | None:
    return None if kept is None else as_mask(kept[t]).ravel()


def flow_flicker_parts(before: Layers, now: Layers, match: Match) -> dict[str, Part]:
    """What a pair of frames adds to `flicker_flow`.

    Args:
        before: log depth of each method in the earlier frame.
        now: log depth in the later frame.
        match: pixels of the later frame, and where they were in the earlier.
    """
    change = np.abs(pick(now, match.pixels) - sample(before, match.at))
    n = len(match.pixels)
    return {"flicker_flow": Mean(100 * layer_sums(change), float(n)), "n_followed": Count(n)}


def flow_roughness(depth: Images, flow: TwoWayFlow, kept: Mask | None = None) -> Scores:
    """rough_flow: 100 mean |l_(t+1)(q+) - 2 l_t(p) + l_(t-1)(q-)| along trusted flow, % a frame^2, lower; no label.

    `flow` and `kept` as for `flow_flicker`; `n_followed_twice` samples.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        flow: flow between neighbouring frames, pixels, of `image_flow`.
        kept: pixels that may be read, for depth with holes; None: all.

    Returns: one float64 a method (*m) for each name; NaN where there is no sample.

    Raises:
        InputError: a mask holds a number other than 0 and 1, or the flow is not of this depth.
    """
    stack = Stack(depth, flow)
    total = no_means("rough_flow") | {"n_followed_twice": Count(0)}
    for t in range(1, stack.n_frames - 1):
        ahead, behind = correspondences_of(flow.pair(t)).forward, correspondences_of(flow.pair(t - 1)).backward
        tracked = triple(ahead, behind, _frame_of(kept, t - 1), _frame_of(kept, t), _frame_of(kept, t + 1))
        logs = (stack.log(t - 1), stack.log(t), stack.log(t + 1))
        total = merge(total, flow_roughness_parts(logs, tracked))
    return stack.scores(total)


def flow_roughness_parts(logs: tuple[Layers, Layers, Layers], tracked: Triple) -> dict[str, Part]:
    """What three frames add to `rough_flow`."""
    n = len(tracked.pixels)
    total = layer_sums(np.abs(bend(logs, tracked)))
    return {"rough_flow": Mean(100 * total, float(n)), "n_followed_twice": Count(n)}


def bend(logs: tuple[Layers, Layers, Layers], tracked: Triple) -> Float64[np.ndarray, "m k"]:
    """Second difference of log depth of each point: l_(t+1)(q+) - 2 l_t(p) + l_(t-1)(q-)."""
    before, now, after = logs
    curve = sample(after, tracked.ahead)
    curve -= 2 * pick(now, tracked.pixels)
    curve += sample(before, tracked.behind)
    return curve


def opw_nvds(depth: Images, frames: UInt8[np.ndarray, "t h w 3"], flow: TwoWayFlow) -> Float64[Tensor, "*m"]:
    """Optical-flow warping error as the script of NVDS computes it, on 1 / depth: lower; not comparable with `opw`.

    For each frame but the first, x the disparity: W x_(t-1) along the backward flow, 0 outside the image; it and x_t
    each less their (lower) median and over their mean distance from it, over ALL pixels; 10 mean w |difference|, w the
    sum over channels of exp(-50 (I_t - W I_(t-1))^2) with colours in 0 to 255. The sum is divided by the number of
    frames, not of pairs. No look at occlusion or labels. NVDS takes the flow of GMFlow, here it is whatever is given.

    Args:
        depth: predicted depth (*m, t, h, w), metres, after one alignment for the clip.
        frames: RGB.
        flow: flow between neighbouring frames, pixels.

    Returns: one float64 a method (*m).

    Raises:
        InputError: the flow is not of this depth.
    """
    stack = Stack(depth, flow)
    total = no_means("opw_nvds")
    for t in range(1, stack.n_frames):
        colours = colours_of(frames[t - 1]), colours_of(frames[t])
        part = nvds_part(stack.frame(t - 1), stack.frame(t), *colours, correspondences_of(flow.pair(t - 1)).backward)
        total = merge(total, {"opw_nvds": part})
    return stack.scores(total)["opw_nvds"] * (stack.n_frames - 1) / stack.n_frames


def nvds_part(before: Layers, now: Layers, colours_before: Colours, colours: Colours, back: Correspondence) -> Mean:
    """What a pair of frames adds to the mean over pairs of `opw_nvds`.

    Args:
        before: depth of each method in the earlier frame, metres, above 0.
        now: the same of the later frame.
        colours_before: of the earlier frame, in [0, 1].
        colours: of the later frame.
        back: flow from the later frame into the earlier; its visible pixels are not asked for, as in the script of
            NVDS.
    """
    height, width = back.to.flow.shape[:2]
    x, y = back.to.at
    places = places_at(x + 1, y + 1, height + 2, width + 2)  # in an image with a border of zeros

    def bring(layers: Layers) -> Layers:
        framed = np.pad(layers.reshape(-1, height, width), ((0, 0), (1, 1), (1, 1)))
        return sample(framed.reshape(len(layers), -1), places)

    gap = 255 * (colours - bring(colours_before))
    weight = np.exp(-_NVDS_SHARPNESS * gap * gap).sum(axis=0)
    difference = np.abs(_normalise(bring(_disparity(before))) - _normalise(_disparity(now)))
    return Mean(_NVDS_FACTOR * np.einsum("mn,n->m", difference, weight) / len(weight), 1.0)


def _disparity(depth: Layers) -> Layers:
    return 1 / np.maximum(depth, LEAST_DEPTH_M)


def _normalise(disparity: Layers) -> Layers:
    lower = (disparity.shape[1] - 1) // 2
    centred = disparity - np.partition(disparity, lower, axis=1)[:, lower, None]
    return centred / np.maximum(np.abs(centred).mean(axis=1, keepdims=True), _NVDS_LEAST_SPREAD)


def label_flow(flow: Float32[np.ndarray, "p h w 2"], flow_valid: PairMask, depth: Truth, valid: Mask) -> TwoWayFlow:
    """The label's forward flow in pixels, inverted, and where it is visible: neither occluded nor without an inverse.

    Of points that land on one pixel the nearest in `depth`, which counts where `valid`, is visible.

    Args:
        flow: forward, frame i into i + 1, pixels (x, y).
        flow_valid: where it has a value.
        depth: depth of the label, metres.
        valid: where the label counts.

    Returns: flow both ways, and where it is visible.

    Raises:
        InputError: a mask holds a number other than 0 and 1.
    """
    return two_way_from_labels(flow, as_mask(flow_valid), as_array(depth).astype(np.float32), as_mask(valid))


def image_flow(frames: UInt8[np.ndarray, "t h w 3"]) -> TwoWayFlow:
    """DIS flow of a clip, there and back, visible where the two agree, and colours too (`correspondences.trust`).

    Args:
        frames: RGB.

    Returns: flow both ways in pixels, and where it is visible.
    """
    pairs = []
    for before, after in pairwise(frames):
        pair = pair_from_frames(before, after)
        trusted = trust(correspondences_of(pair), colours_of(before), colours_of(after))
        visible = (one.visible.reshape(before.shape[:2]) for one in (trusted.forward, trusted.backward))
        pairs.append(TwoWayFlow(pair.forward, pair.backward, *visible))
    return stack_pairs(pairs, *frames.shape[1:3])
