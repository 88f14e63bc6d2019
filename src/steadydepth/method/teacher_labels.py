"""Labels for video that has none: the depth that a frozen teacher predicts, before the four steps."""

import math
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from steadydepth.method.alignment import as_depth, as_values
from steadydepth.method.pairing import Motion, Visible, pair_with_previous
from steadydepth.method.sequence import process_sequence
from steadydepth.method.sources import Clips, clips_of_sources, take_clips
from steadydepth.types import Batch, Claims, Depth

# Flicker changes depth by less from one frame to the next; a larger change is another surface.
SAME_SURFACE = math.log(1.25)


def label_clips(batch: Batch, *, teacher: nn.Module | None, window: int = 1) -> Batch:
    """The batch with the teacher's depth, everywhere valid, in place of the label of the clips labelled `teacher`.

    The teacher is needed because temporal consistency alone is best served by a constant.

    Args:
        batch: `labels` and `source` give the clips that are labelled; without any it is returned as it is.
        teacher: the frozen copy of the starting model; needed where a clip is labelled `teacher`.
        window: frames over which the teacher's depth is averaged along the motion; 1 takes it as it is.

    Returns: a new batch; no gradient reaches its depth, in the units that the teacher claims.
    """
    for clips in clips_of_sources(batch).values():
        part = take_clips(batch, clips)
        if part.labels[:1] == ("teacher",):
            assert teacher is not None
            batch = _label(batch, clips, teacher_depth(teacher, part, window=window))
    return batch


def teacher_depth(teacher: nn.Module, batch: Batch, *, window: int) -> Depth:
    """What the teacher predicts for each frame, averaged along the motion over `window` frames; without a gradient.

    Args:
        teacher: a `VideoDepthModel`.
        batch: clips with their motion; labels are not used.
        window: frames, at least 1.

    Returns: (b, t, h, w), in the units that the teacher claims.
    """
    with torch.no_grad():
        predicted, _ = process_sequence(teacher, batch.frames)
        if window == 1:
            return predicted
        # Averaged in its logarithm, which only depth has: disparity and affine depth may lie about 0.
        claims = cast(Claims, teacher.claims)
        depth = average_along(as_depth(predicted, predicted, claims), batch.motion, batch.visible, window=window)
        return as_values(depth, predicted, claims)


def _label(batch: Batch, clips: Clips, depth: Depth) -> Batch:
    if isinstance(clips, slice):
        return replace(batch, depth=depth, valid=torch.ones_like(batch.valid))
    labels, valid = batch.depth.clone(), batch.valid.clone()
    labels[clips], valid[clips] = depth, True
    return replace(batch, depth=labels, valid=valid)


def average_along(depth: Depth, motion: Motion, visible: Visible, *, window: int) -> Depth:
    """Each depth image averaged in log depth with up to `window` - 1 images before it, warped along the motion.

    Args:
        depth: above 0.
        motion: from each frame to the one before it, pixels; None compares the same pixel.
        visible: True where the previous frame sees the point; None takes all as visible.
        window: at least 1; the first frames of a clip have fewer neighbours.

    Returns: depth of the same shape. A neighbour counts where the point is visible in every frame between, and where
        its depth is within 25 % of the depth here: beyond that it is another surface.
    """
    log_depth, everywhere = depth.log(), torch.ones_like(depth, dtype=torch.bool)
    total, count = log_depth.clone(), torch.ones_like(depth)
    for offset in range(1, min(window, depth.shape[1])):
        earlier = pair_with_previous(depth, everywhere, motion, visible, frame_offsets=(offset,))
        difference = earlier.previous.log() - log_depth[:, offset:]
        same = earlier.valid & (difference.abs() < SAME_SURFACE)
        total[:, offset:] += torch.where(same, difference + log_depth[:, offset:], 0)
        count[:, offset:] += same
    return (total / count).exp()
