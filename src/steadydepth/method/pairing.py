"""Step 2, image acquisition: each depth image beside the one before it, or beside one further back."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from steadydepth.method.alignment import align_to_labels
from steadydepth.ops.warp import as_grid, chain, follow, snap_to_known, warp
from steadydepth.types import Batch, Claims, Depth, DepthPairs, Frames, Valid

Motion = Float[Tensor, "b p h w 2"] | None
Visible = Bool[Tensor, "b p h w"] | None


@dataclass(frozen=True)
class PairedClips:
    """The clips of one source with all that their losses compare, in the same units."""

    frames: Frames
    depth: Depth  # predicted
    valid: Valid
    truth: Depth | None  # None: the clips have no label
    pairs: tuple[DepthPairs, DepthPairs] | None  # predicted and true; None: single images
    features: Float[Tensor, "b t *_"] | None = None  # of the network, before its last layer
    stills: Bool[Tensor, "b"] | None = None  # which clips are one frame in several draws of light


@dataclass(frozen=True)
class Correspondence:
    """Where each pixel of a frame was in the one `offset` before it."""

    offset: int
    grid: Float[Tensor, "n h w 2"] | None  # where each pixel was, as `ops.warp.warp` wants it; None for the same pixel
    valid: Bool[Tensor, "b q h w"]  # True where there is something at both ends


def pair_clips(
    predicted: Depth,
    batch: Batch,
    *,
    claims: Claims = "metric",
    frame_offsets: Sequence[int] = (1,),
    features: Float[Tensor, "n *_"] | None = None,
) -> dict[int, PairedClips]:
    """Predicted depth and its label in the same units, each with its pairs along one and the same motion.

    `align_to_labels` says which units. Without a label a point is taken to keep its depth from one frame to the next.

    Args:
        predicted: depth of the frames of `batch`, in the units of `claims`.
        batch: clips with their labels.
        claims: what the numbers of the model mean.
        frame_offsets: frame i is paired with frame i - offset, for each of them; at least 1.
        features: of the network before its last layer, those of each frame (n = b t), where they are to be alike.

    Returns: the clips of each source, by its number; all clips of a source have the same kind of label.
    """
    found = {}
    for source, (places, clips) in batch.by_source().items():
        depth, truth = align_to_labels(predicted[places], clips, claims)
        pairs = None if "single" in clips.labels else _pair_both(depth, truth, clips, frame_offsets)
        found[source] = PairedClips(clips.frames, depth, clips.valid, truth, pairs)
        if features is not None and pairs is not None:
            of_clips = features.unflatten(0, batch.frames.shape[:2])[places]
            found[source] = replace(found[source], features=of_clips, stills=clips.is_still)
    return found


def _pair_both(
    depth: Depth, truth: Depth | None, batch: Batch, frame_offsets: Sequence[int]
) -> tuple[DepthPairs, DepthPairs]:
    """Predicted and true pairs, along correspondences that are found once for both."""
    valid = torch.ones_like(batch.valid) if truth is None else batch.valid
    correspondences = _correspondences(valid, batch.motion, batch.visible, frame_offsets)
    predicted = _pair_along(depth, valid, correspondences)
    return predicted, unchanged(predicted) if truth is None else _pair_along(truth, valid, correspondences)


def pair_with_previous(
    depth: Depth, valid: Valid, motion: Motion = None, visible: Visible = None, *, frame_offsets: Sequence[int] = (1,)
) -> DepthPairs:
    """Frame i beside frame i - 1 of the same clip: at the same pixel, or warped along `motion`.

    Args:
        depth: at invalid pixels it may be anything.
        valid: True where the depth counts.
        motion: from each frame to the one before it, pixels; None pairs the same pixel.
        visible: True where the previous frame sees the point; None takes all as visible.
        frame_offsets: frame i is paired with frame i - offset for each of them, one after another along p: longer
            offsets limit slow drift. Motion over several frames is chained, and a point must be visible in all of them.

    Returns: pairs (b, p, h, w). A pair is valid where both pixels are and, with `motion`, where the previous frame sees
        the point and all four pixels around it are valid. Where not all of them are, the nearest is taken if that one
        is: prediction and label are then compared at the same two pixels. A clip that is too short for an offset gives
        no pairs for it (p = 0 for one frame).
    """
    return _pair_along(depth, valid, _correspondences(valid, motion, visible, frame_offsets))


def _correspondences(
    valid: Valid, motion: Motion, visible: Visible, frame_offsets: Sequence[int]
) -> tuple[Correspondence, ...]:
    """Correspondences of a clip over each of `frame_offsets`, found once for all that is paired along them."""
    return tuple(_correspondence(valid, *chain(motion, visible, offset), offset) for offset in frame_offsets)


def _correspondence(valid: Valid, motion: Motion, visible: Visible, offset: int) -> Correspondence:
    current, previous = valid[:, offset:], valid[:, : max(valid.shape[1] - offset, 0)]
    grid = None
    if motion is not None:
        at, known = snap_to_known(previous.flatten(0, 1), follow(motion.flatten(0, 1)))
        previous = known.unflatten(0, current.shape[:2])
        grid = as_grid(at, *valid.shape[-2:])
    both = current & previous
    return Correspondence(offset, grid, both if visible is None else both & visible)


def _pair_along(depth: Depth, valid: Valid, correspondences: Sequence[Correspondence]) -> DepthPairs:
    """As `pair_with_previous`, harmless pairs, along correspondences that were found for the same `valid`."""
    safe = torch.where(valid, depth, 1)  # before any logarithm, or NaN reaches the gradient
    found = [(safe[:, one.offset :], _previous(safe, one), one.valid) for one in correspondences]
    if len(found) == 1:
        return DepthPairs(*found[0], harmless=True)
    current, previous, both = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    return DepthPairs(current, previous, both, harmless=True)


def _previous(depth: Depth, correspondence: Correspondence) -> Float[Tensor, "b q h w"]:
    """The depth at the other end of each correspondence."""
    previous = depth[:, : max(depth.shape[1] - correspondence.offset, 0)]
    if correspondence.grid is None:
        return previous
    return warp(previous.flatten(0, 1), correspondence.grid).view_as(previous)


def unchanged(pairs: DepthPairs) -> DepthPairs:
    """The true pairs where there is no label: each point keeps its depth from one frame to the next."""
    ones = torch.ones_like(pairs.current)
    return DepthPairs(ones, ones, pairs.valid, harmless=True)
