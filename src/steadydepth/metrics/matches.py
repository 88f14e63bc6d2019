"""Which pixel of one frame is which point of another: along poses and label depth, or along flow.

All are iterators of one pair of frames at a time, so memory does not grow with the clip, and several methods and
metrics can be computed from one pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from steadydepth.metrics.arrays import log_truth
from steadydepth.ops.camera import move, project, rays, relative_pose
from steadydepth.ops.two_way import TwoWayFlow
from steadydepth.ops.warp import all_neighbours, pixel_grid, sample


@dataclass(frozen=True)
class Match:
    """Pixels of frame `source` and where their points are in frame `target`."""

    source: int
    target: int
    pixels: Int64[Tensor, "n"]  # row * width + column
    at: Float64[Tensor, "n 2"]  # x, y


@dataclass(frozen=True)
class RigidMatch:
    """A match of static points; a depth d at the source pixel is the depth d * ray_z + offset_z in the target."""

    match: Match
    ray_z: Float64[Tensor, "n"]
    offset_z: float


@dataclass(frozen=True)
class Triple:
    """Pixels of frame `middle`, where their points are in the next frame, and where they were in the one before."""

    middle: int
    pixels: Int64[Tensor, "n"]
    ahead: Float64[Tensor, "n 2"]
    behind: Float64[Tensor, "n 2"]


def sample_at(images: Float64[Tensor, "*m h w"], at: Float64[Tensor, "n 2"]) -> Float64[Tensor, "*m n"]:
    """Bilinear samples of each image at the n places (x, y)."""
    height, width = images.shape[-2:]
    flat = images.reshape(1, -1, height, width)
    return sample(flat, at[None, None])[0, :, 0].reshape(*images.shape[:-2], len(at))


def take(images: Float64[Tensor, "*m h w"], pixels: Int64[Tensor, "n"]) -> Float64[Tensor, "*m n"]:
    """Values of each image at the n pixels."""
    return images.flatten(-2)[..., pixels]


def _landing(mask: Bool[Tensor, "h w"], at: Float64[Tensor, "h w 2"]) -> Bool[Tensor, "h w"]:
    return all_neighbours(mask[None], at[None])[0]


def rigid_matches(
    truth: Float[Tensor, "t h w"],
    valid: Bool[Tensor, "t h w"],
    static: Bool[Tensor, "t h w"],
    *,
    K: Float64[Tensor, "3 3"],
    cam_to_world: Float64[Tensor, "t 4 4"],
) -> Iterator[RigidMatch]:
    """Static pixels and where the label's depth and the poses put them, both directions of each neighbouring pair.

    Kept where the pixel and all neighbours of its landing are static and valid, and the label there is the same
    surface: |ln g_target - ln z| <= 0.01, so an occluded point is not.
    """
    kept = static & valid
    height, width = truth.shape[1:]
    directions = rays(height, width, K)
    for source, target in _both_ways(len(truth)):
        transform = relative_pose(cam_to_world[source], cam_to_world[target])
        points = move(torch.where(kept[source], truth[source].double(), 1)[..., None] * directions, transform)
        # Rounded, or a camera that stands still lands 1e-14 px beside each pixel and asks for one more neighbour.
        at = project(points, K).round(decimals=6)
        landed = kept[source] & _landing(kept[target], at)
        pixels = landed.flatten().nonzero()[:, 0]
        match = Match(source, target, pixels, at.flatten(0, 1)[pixels])
        surface = sample_at(log_truth(truth[target], kept[target]), match.at)
        shown = (surface - points[..., 2].flatten()[pixels].log()).abs() <= 0.01
        ray_z = (directions @ transform[2, :3]).flatten()[pixels]
        yield RigidMatch(replace(match, pixels=pixels[shown], at=match.at[shown]), ray_z[shown], float(transform[2, 3]))


def _both_ways(n_frames: int) -> Iterator[tuple[int, int]]:
    for t in range(n_frames - 1):
        yield t, t + 1
        yield t + 1, t


def _flow_match(source: int, target: int, flow: np.ndarray, start: Tensor, end: Tensor) -> Match:
    """Pixels of `start` whose landing along `flow` has all neighbours in `end`."""
    at = _destination(flow)
    pixels = (start & _landing(end, at)).flatten().nonzero()[:, 0]
    return Match(source, target, pixels, at.flatten(0, 1)[pixels])


def _destination(flow: np.ndarray) -> Float64[Tensor, "h w 2"]:
    motion = torch.from_numpy(flow.astype(np.float64))
    height, width = flow.shape[:2]
    return pixel_grid(height, width, motion) + motion


def forward_matches(flow: TwoWayFlow, kept: Bool[Tensor, "t h w"]) -> Iterator[Match]:
    """Pixels of each frame in the next one, where seen there and all that is read is `kept`."""
    for t in range(len(flow.forward)):
        start = kept[t] & torch.from_numpy(flow.forward_seen[t])
        yield _flow_match(t, t + 1, flow.forward[t], start, kept[t + 1])


def backward_matches(flow: TwoWayFlow, kept: Bool[Tensor, "t h w"]) -> Iterator[Match]:
    """Pixels of each frame in the one before, where seen there and all that is read is `kept`."""
    for t in range(1, len(flow.backward) + 1):
        start = kept[t] & torch.from_numpy(flow.backward_seen[t - 1])
        yield _flow_match(t, t - 1, flow.backward[t - 1], start, kept[t - 1])


def triples(flow: TwoWayFlow, kept: Bool[Tensor, "t h w"]) -> Iterator[Triple]:
    """Pixels seen in the frame before and the frame after as well, where all that is read is `kept`."""
    for t in range(1, len(flow.forward)):
        ahead, behind = _destination(flow.forward[t]), _destination(flow.backward[t - 1])
        seen = torch.from_numpy(flow.forward_seen[t] & flow.backward_seen[t - 1])
        used = kept[t] & seen & _landing(kept[t + 1], ahead) & _landing(kept[t - 1], behind)
        pixels = used.flatten().nonzero()[:, 0]
        yield Triple(t, pixels, ahead.flatten(0, 1)[pixels], behind.flatten(0, 1)[pixels])


def photometric_matches(
    frames: UInt8[np.ndarray, "t h w 3"],
    flow: Float[np.ndarray, "p h w 2"],
    flow_valid: Bool[np.ndarray, "p h w"],
    kept: Bool[Tensor, "t h w"],
    *,
    landing: Bool[Tensor, "t h w"] | None = None,
) -> Iterator[Match]:
    """Pixels of each frame in the next one, where exp(-50 |I_t - warped I_(t+1)|) > 0.01, colours in [0, 1].

    The mask of Khan et al. 2023 (TemporallyConsistentDepth, eval/metrics.py): also no flow component above 250 px, the
    sign kept as there. Landings outside the image are left out; nothing else looks for occlusion. `landing`, for depth
    with holes, are the pixels that may be read in the next frame; all by default.
    """
    landing = torch.ones(frames.shape[:3], dtype=torch.bool) if landing is None else landing
    for t in range(len(flow)):
        usable = torch.from_numpy(flow_valid[t] & (flow[t] <= 250).all(axis=-1))
        match = _flow_match(t, t + 1, flow[t], kept[t] & usable, landing[t + 1])
        here = take(_colours(frames[t]), match.pixels)
        alike = _alike(here, sample_at(_colours(frames[t + 1]), match.at))
        yield replace(match, pixels=match.pixels[alike], at=match.at[alike])


def _colours(frame: UInt8[np.ndarray, "h w 3"]) -> Float64[Tensor, "3 h w"]:
    return torch.from_numpy(frame).permute(2, 0, 1).double() / 255


def _alike(here: Float64[Tensor, "3 n"], there: Float64[Tensor, "3 n"]) -> Bool[Tensor, "n"]:
    return torch.exp(-50 * (here - there).norm(dim=0)) > 0.01


def where_colours_agree(flow: TwoWayFlow, frames: UInt8[np.ndarray, "t h w 3"]) -> TwoWayFlow:
    """`flow` trusted only where both ends also have one colour, by the threshold of `photometric_matches`.

    The other frame is first brought to the mean colour of this one, channel by channel over the pixels that flow
    already trusts: light that changes from frame to frame is when depth flickers, and must not be looked away from.
    """
    forward, backward = flow.forward_seen.copy(), flow.backward_seen.copy()
    for t in range(len(flow.forward)):
        forward[t] &= _one_colour(frames[t], frames[t + 1], flow.forward[t], forward[t])
        backward[t] &= _one_colour(frames[t + 1], frames[t], flow.backward[t], backward[t])
    return replace(flow, forward_seen=forward, backward_seen=backward)


def _one_colour(here: np.ndarray, there: np.ndarray, flow: np.ndarray, seen: np.ndarray) -> Bool[np.ndarray, "h w"]:
    pixels = torch.from_numpy(seen).flatten().nonzero()[:, 0]
    ours = take(_colours(here), pixels)
    theirs = sample_at(_colours(there), _destination(flow).flatten(0, 1)[pixels])
    gain = ours.mean(dim=-1, keepdim=True) / theirs.mean(dim=-1, keepdim=True).clamp(min=1e-3)
    agree = torch.zeros(seen.size, dtype=torch.bool)
    agree[pixels] = _alike(ours, theirs * gain)
    return agree.reshape(seen.shape).numpy()
