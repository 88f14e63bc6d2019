"""Which pixel of one frame is which point of another: along poses and label depth, or along flow.

One pair of frames at a time; what several methods and metrics read is found once.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from steadydepth.metrics.arrays import Chosen, Colours, Layers, Pixels, pick
from steadydepth.ops.bidirectional_flow import TwoWayFlow
from steadydepth.ops.sampling import Places, places_at, sample, sees_only

Pose = Float64[np.ndarray, "4 4"]  # camera to world
# The gap at which exp(-50 gap) is 0.01.
_LARGEST_GAP = math.log(100) / 50


@dataclass(frozen=True)
class Match:
    """Pixels of one frame, as row * width + column, and where their points are in another."""

    pixels: Int64[np.ndarray, "n"]
    at: Places

    def only(self, chosen: Chosen) -> "Match":
        """The pixels at which `chosen`, one for each of them, is True."""
        if chosen.all():
            return self
        numbers = np.flatnonzero(chosen)
        return Match(pick(self.pixels, numbers), self.at.only(numbers))


@dataclass(frozen=True)
class Triple:
    """Pixels of a frame, where their points are in the next frame, and where they were in the one before."""

    pixels: Int64[np.ndarray, "n"]
    ahead: Places
    behind: Places

    def only(self, chosen: Chosen) -> "Triple":
        """The pixels at which `chosen`, one for each of them, is True."""
        numbers = np.flatnonzero(chosen)
        return Triple(pick(self.pixels, numbers), self.ahead.only(numbers), self.behind.only(numbers))


@dataclass(frozen=True)
class Landings:
    """Where the flow of a frame takes each pixel; found when first asked for, and once."""

    flow: Float32[np.ndarray, "h w 2"]

    @cached_property
    def at(self) -> tuple[Pixels, Pixels]:
        """Where each pixel lands, x and y."""
        height, width = self.flow.shape[:2]
        x, y = np.arange(width, dtype=np.float64), np.arange(height, dtype=np.float64)[:, None]
        return (x + self.flow[..., 0]).ravel(), (y + self.flow[..., 1]).ravel()

    @cached_property
    def places(self) -> Places:
        """What each pixel reads there."""
        return places_at(*self.at, *self.flow.shape[:2])


@dataclass(frozen=True)
class Correspondence:
    """Flow from one frame into another, and where the other one shows the same point."""

    to: Landings
    visible: Chosen

    def match(self, start: Chosen, end: Chosen | None = None) -> Match:
        """Pixels of `start` that land inside the image and, with `end`, read pixels of `end` alone."""
        pixels = np.flatnonzero(start)
        at = self.to.places.only(pixels)
        landed = at.inside if end is None else sees_only(end, at)
        return Match(pixels, at).only(landed)


@dataclass(frozen=True)
class Correspondences:
    """The flow of a pair of frames, there and back."""

    forward: Correspondence
    backward: Correspondence


def correspondences_of(pair: TwoWayFlow) -> Correspondences:
    """Flow between two frames and where it is visible, there and back."""
    return Correspondences(
        Correspondence(Landings(pair.forward), pair.forward_visible.ravel()),
        Correspondence(Landings(pair.backward), pair.backward_visible.ravel()),
    )


def triple(
    ahead: Correspondence, behind: Correspondence, before: Chosen | None, now: Chosen | None, after: Chosen | None
) -> Triple:
    """Pixels of a frame that are visible in the frames before and after as well.

    Args:
        ahead: flow from the frame into the next.
        behind: flow from the frame into the one before.
        before: pixels that may be read in the frame before; None is all.
        now: pixels of the frame that may be taken; None is all.
        after: pixels that may be read in the next frame; None is all.
    """
    visible = ahead.visible & behind.visible
    later = ahead.match(visible if now is None else visible & now, after)
    start = np.zeros(len(visible), bool)
    start[later.pixels] = True
    earlier = behind.match(start, before)
    kept = np.searchsorted(later.pixels, earlier.pixels)
    return Triple(earlier.pixels, later.at.only(kept), earlier.at)


@dataclass(frozen=True)
class RigidMove:
    """How the points of one camera's pixels project into another, for any depth d along the pixel's ray.

    The depth there is the third of d * ray + offset, the pixel (x, y) the first two over the third.
    """

    ray: Float64[np.ndarray, "3 n"]
    offset: Float64[np.ndarray, "3"]
    size: tuple[int, int]  # height and width of both images


def pose_move(K: Float64[np.ndarray, "3 3"], source: Pose, target: Pose, size: tuple[int, int]) -> RigidMove:
    """The move between two poses of a camera.

    Args:
        K: camera matrix, pixels; the middle of the first pixel is at 0, and its last row is 0, 0, 1.
        source: pose of the frame that points are from.
        target: pose of the frame that they are brought to.
        size: height and width of both images.
    """
    transform = np.linalg.inv(target) @ source
    turned = transform[:3, :3] @ np.linalg.inv(K)
    x, y = np.arange(size[1], dtype=np.float64), np.arange(size[0], dtype=np.float64)[:, None]
    ray = np.stack([(row[0] * x + (row[1] * y + row[2])).ravel() for row in K @ turned])
    return RigidMove(ray, K @ transform[:3, 3], size)


def rigid_match(truth: Pixels, kept: Chosen, target_log: Pixels, target_kept: Chosen, move: RigidMove) -> Match:
    """Static pixels, and where the label's depth and the poses put them.

    Kept where all neighbours of the landing are static and valid, and the label there is the same surface: |ln g_target
    - ln z| <= 0.01, so an occluded point is not.

    Args:
        truth: metres, of the source frame.
        kept: its static pixels that count.
        target_log: log of the label in the other frame, finite everywhere.
        target_kept: static pixels of the other frame that count.
        move: from the camera of the source to that of the other frame.
    """
    z, places = reproject(truth, move)
    surface = sample(target_log[None], places)[0]
    same = np.abs(surface - np.log(np.where(z > 0, z, 1))) <= 0.01
    pixels = np.flatnonzero(kept & same & sees_only(target_kept, places))
    return Match(pixels, places.only(pixels))


def reproject(truth: Pixels, move: RigidMove) -> tuple[Pixels, Places]:
    """Depth of every pixel in the other camera, and its place there: outside the image where it is not before it."""
    z = truth * move.ray[2] + move.offset[2]
    # Rounded, or a camera that stands still lands 1e-14 px beside each pixel and asks for one more neighbour.
    x, y = (np.where(z > 0, at[0], np.nan).round(6) for at in landing(truth[None], move, slice(None)))
    return z, places_at(x, y, *move.size)


def landing(depth: Layers, move: RigidMove, pixels: slice) -> tuple[Layers, Layers]:
    """Where the pixels land with each depth; anything where the point is not before the camera.

    Args:
        depth: metres, of each method at those pixels.
        move: from their camera to the other.
        pixels: which of the image's pixels `depth` has.

    Returns: columns x and rows y, pixels.
    """
    ray, offset = move.ray[:, pixels], move.offset
    with np.errstate(divide="ignore", invalid="ignore"):
        away = depth * ray[2] + offset[2]
        x, y = depth * ray[0], depth * ray[1]
        x += offset[0]
        y += offset[1]
        x /= away
        y /= away
    return x, y


def colours_of(frame: UInt8[np.ndarray, "h w 3"]) -> Colours:
    """A frame as layers R, G, B in [0, 1]."""
    return np.ascontiguousarray(frame.reshape(-1, 3).T) / 255.0


def alike(here: Colours, there: Colours) -> Bool[np.ndarray, "n"]:
    """Where exp(-50 |I - I'|) > 0.01: Khan et al. 2023 (TemporallyConsistentDepth, eval/metrics.py)."""
    gap = here - there
    return np.einsum("cn,cn->n", gap, gap) < _LARGEST_GAP**2


def photometric_match(
    correspondence: Correspondence, usable: Chosen, colours: Colours, next_colours: Colours, end: Chosen | None = None
) -> Match:
    """Pixels of a frame in the next one, where exp(-50 |I_t - warped I_(t+1)|) > 0.01.

    The mask of Khan et al. 2023: also no flow component above 250 px, the sign kept as there. Landings outside the
    image are left out; nothing else looks for occlusion.

    Args:
        correspondence: flow from the frame into the next.
        usable: pixels of the frame that may be taken.
        colours: of the frame, in [0, 1].
        next_colours: of the next frame.
        end: pixels that may be read in the next frame, for depth with holes; None is all.
    """
    match = correspondence.match(usable & (correspondence.to.flow <= 250).all(axis=-1).ravel(), end)
    same = alike(pick(colours, match.pixels), sample(next_colours, match.at))
    return match.only(same)


def trust(correspondences: Correspondences, colours: Colours, next_colours: Colours) -> Correspondences:
    """`correspondences` visible only where both ends also have one colour, by the threshold of `photometric_match`.

    The other frame first gets the mean colour of this one, channel by channel over the pixels that flow
    already trusts: light that changes from frame to frame is when depth flickers, and must not be looked away from.

    Args:
        correspondences: flow of a pair of frames, there and back.
        colours: of the first frame, in [0, 1].
        next_colours: of the second frame.
    """
    return Correspondences(
        _trusted(correspondences.forward, colours, next_colours),
        _trusted(correspondences.backward, next_colours, colours),
    )


def _trusted(correspondence: Correspondence, here: Colours, there: Colours) -> Correspondence:
    if not correspondence.visible.any():
        return correspondence
    warped, weight = sample(there, correspondence.to.places), correspondence.visible.astype(np.float64)
    mean, other_mean = (np.einsum("cn,n->c", colours, weight) / weight.sum() for colours in (here, warped))
    return Correspondence(
        correspondence.to, correspondence.visible & alike(here, warped * (mean / np.maximum(other_mean, 1e-3))[:, None])
    )
