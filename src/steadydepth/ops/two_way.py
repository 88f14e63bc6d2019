"""Optical flow of a whole clip, there and back, and where it can be trusted: from labels, or from the frames alone."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from steadydepth.ops.flow import consistent, dis_flow, invert_flow

# OpenCV's DIS refuses smaller pictures.
LEAST_SIDE_PX = 12


@dataclass(frozen=True)
class TwoWayFlow:
    """Flow between neighbouring frames in pixels (x, y); `seen` is True where the other frame shows the same point."""

    forward: Float32[np.ndarray, "p h w 2"]  # on frame i, into i + 1
    backward: Float32[np.ndarray, "p h w 2"]  # on frame i + 1, into i
    forward_seen: Bool[np.ndarray, "p h w"]
    backward_seen: Bool[np.ndarray, "p h w"]


def two_way_from_frames(frames: UInt8[np.ndarray, "t h w 3"]) -> TwoWayFlow:
    """DIS flow both ways between neighbouring frames; seen where the two agree (`ops.flow.consistent`).

    Pictures smaller than 12 x 12 px have no DIS flow: nothing is seen.
    """
    t, height, width, _ = frames.shape
    if min(height, width) < LEAST_SIDE_PX:
        nothing = np.zeros((t - 1, height, width), bool)
        still = np.zeros((t - 1, height, width, 2), np.float32)
        return TwoWayFlow(still, still, nothing, nothing)
    pairs = [(frames[i], frames[i + 1]) for i in range(t - 1)]
    there = [dis_flow(before, after) for before, after in pairs]
    back = [dis_flow(after, before) for before, after in pairs]
    return _checked(there, back, height, width)


def two_way_from_labels(
    flow: Float32[np.ndarray, "p h w 2"],
    flow_valid: Bool[np.ndarray, "p h w"],
    depth: Float32[np.ndarray, "t h w"],
    valid: Bool[np.ndarray, "t h w"],
) -> TwoWayFlow:
    """Label flow and its inverse; seen where both exist and agree, so an occluded pixel is not.

    Where several pixels land on one, the nearest in label depth wins; a pixel without label depth never hides another.
    """
    height, width = flow.shape[1:3]
    order = np.where(valid, depth, np.float32(np.inf))[: len(flow)]
    inverse = [invert_flow(*pair) for pair in zip(flow, flow_valid, order, strict=True)]
    back = [backward for backward, _ in inverse]
    found = _checked(list(flow), back, height, width)
    shown = np.array([seen for _, seen in inverse], bool).reshape(-1, height, width)
    return TwoWayFlow(found.forward, found.backward, found.forward_seen & flow_valid, found.backward_seen & shown)


def _checked(there: list[np.ndarray], back: list[np.ndarray], height: int, width: int) -> TwoWayFlow:
    def stack(images: list[np.ndarray], kind: type, *channels: int) -> np.ndarray:
        return np.array(images, kind).reshape(-1, height, width, *channels)

    return TwoWayFlow(
        forward=stack(there, np.float32, 2),
        backward=stack(back, np.float32, 2),
        forward_seen=stack([consistent(f, b) for f, b in zip(there, back, strict=True)], bool),
        backward_seen=stack([consistent(b, f) for f, b in zip(there, back, strict=True)], bool),
    )
