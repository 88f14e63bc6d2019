"""Step 1, sequence processing: frames in, depth of the same length out."""

from typing import Any

import torch

from steadydepth.types import Depth, Frames, InputError, VideoDepthModel


def process_sequence(
    model: VideoDepthModel, frames: Frames, state: Any = None, *, chunk: int | None = None
) -> tuple[Depth, Any]:
    """One depth image for each frame, in order, and the state that the last frame left.

    With `chunk`, that many frames at a time: the same numbers for less memory, since the state goes on from each to
    the next.
    """
    length = frames.shape[1]
    if length == 0:
        raise InputError("a clip needs at least one frame")
    depths = []
    for part in frames.split(chunk or length, dim=1):
        depth, state = model(part, state)
        depths.append(depth)
    return torch.cat(depths, dim=1), state
