"""Optical flow of a pair of frames or of a clip, there and back: from labels, or from the frames alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from steadydepth.ops.fast_flow import LEAST_SIDE_PX
from steadydepth.ops.optical_flow import DepthImage, Flow, Image, Mask, consistent, dis_flow, invert_flow


@dataclass(frozen=True)
class TwoWayFlow:
    """Flow between two frames, or between neighbours of a clip (p), in pixels (x, y).

    Visible where the other frame shows the same point.
    """

    forward: Float32[np.ndarray, "*p h w 2"]  # on frame i, into i + 1
    backward: Float32[np.ndarray, "*p h w 2"]  # on frame i + 1, into i
    forward_visible: Bool[np.ndarray, "*p h w"]
    backward_visible: Bool[np.ndarray, "*p h w"]

    def pair(self, number: int) -> "TwoWayFlow":
        """The flow between frame `number` of a clip and the next."""
        return TwoWayFlow(*(part[number] for part in vars(self).values()))


def backward_from_frames(before: Image, after: Image) -> tuple[Flow, Mask]:
    """DIS flow from `after` back into `before` in pixels (x, y), and where it agrees with the flow there.

    Args:
        before: RGB.
        after: RGB, of the same size.

    Returns: the flow on `after`; True where it is forward-backward consistent, nowhere below 12 x 12 px.
    """
    there, back = _dis_both_ways(before, after)
    return back, consistent(back, there) & (min(back.shape[:2]) >= LEAST_SIDE_PX)


def _dis_both_ways(before: Image, after: Image) -> tuple[Flow, Flow]:
    if min(before.shape[:2]) < LEAST_SIDE_PX:
        still = np.zeros((*before.shape[:2], 2), np.float32)
        return still, still
    return dis_flow(before, after), dis_flow(after, before)


def pair_from_frames(before: Image, after: Image) -> TwoWayFlow:
    """DIS flow both ways between two frames; visible where the two agree (`ops.optical_flow.consistent`).

    Images smaller than 12 x 12 px have no DIS flow: nothing is visible.
    """
    there, back = _dis_both_ways(before, after)
    is_known = min(before.shape[:2]) >= LEAST_SIDE_PX
    return TwoWayFlow(there, back, consistent(there, back) & is_known, consistent(back, there) & is_known)


def pair_from_labels(flow: Flow, flow_valid: Mask, depth: DepthImage, valid: Mask) -> TwoWayFlow:
    """Label flow and its inverse; visible where both exist and agree, so an occluded pixel is not.

    Where several pixels land on one, the nearest in label depth wins; a pixel without label depth never hides another.

    Args:
        flow: forward, from the frame into the next, pixels (x, y).
        flow_valid: where it is known.
        depth: of the frame, metres; anything where not valid.
        valid: where it was measured.
    """
    back, shown = invert_flow(flow, flow_valid, np.where(valid, depth, np.float32(np.inf)))
    return TwoWayFlow(flow, back, consistent(flow, back) & flow_valid, consistent(back, flow) & shown)


def two_way_from_labels(
    flow: Float32[np.ndarray, "p h w 2"],
    flow_valid: Bool[np.ndarray, "p h w"],
    depth: Float32[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
) -> TwoWayFlow:
    """`pair_from_labels` of each frame and the next.

    Args:
        flow: forward, frame i into i + 1, pixels (x, y).
        flow_valid: where it is known.
        depth: metres; anything where not valid.
        valid: where it was measured.
    """
    each = zip(flow, flow_valid, depth[: len(flow)], valid[: len(flow)], strict=True)
    return stack_pairs([pair_from_labels(*labels) for labels in each], *flow.shape[1:3])


def stack_pairs(pairs: list[TwoWayFlow], height: int, width: int) -> TwoWayFlow:
    """The pairs of a clip as one, of height x width even when there is none.

    Args:
        pairs: in the order of the frames.
        height: rows of the image.
        width: columns of the image.
    """
    flow = np.empty((2, len(pairs), height, width, 2), np.float32)
    visible = np.empty((2, len(pairs), height, width), bool)
    for number, pair in enumerate(pairs):
        flow[:, number] = pair.forward, pair.backward
        visible[:, number] = pair.forward_visible, pair.backward_visible
    return TwoWayFlow(*flow, *visible)
