"""Step 1, sequence processing: frames in, depth of the same length out."""

from collections.abc import Callable
from typing import Any

import torch

from steadydepth.types import Depth, Frames, InputError, State


def process_sequence(
    model: Callable[[Frames, State | None], tuple[Depth, State]], frames: Frames
) -> tuple[Depth, State]:
    """One depth image for each frame, in order, and the state that the last frame left.

    Args:
        model: called as a `VideoDepthModel`; wrapped for several processes or not.
        frames: (b, t, 3, h, w), RGB in [0, 1]; t >= 1.

    Returns: depth (b, t, h, w) in the units of what the model claims, and its state.

    Raises:
        InputError: there is no frame.
        TypeError: the model returns no depth, or a state that is not a dict of tensors batched as the frames are.
    """
    if frames.shape[1] == 0:
        raise InputError("a clip needs at least one frame")
    depth, state = check_outputs(model(frames, None))
    return depth, check_state(state, len(frames))


def check_outputs(outputs: Any) -> tuple[torch.Tensor, Any]:
    """What a model returned, where it honours the contract: depth and a state, which `check_state` checks.

    Raises:
        TypeError: it is something else, such as the depth alone of a network of images.
    """
    if not isinstance(outputs, tuple | list) or len(outputs) != 2 or not isinstance(outputs[0], torch.Tensor):
        raise TypeError(
            f"the model returned {type(outputs).__name__}; it returns a tensor of depth (b, t, h, w) and a state, {{}} "
            "for none; models.per_frame.PerFrame makes such a model of a network of images"
        )
    return outputs[0], outputs[1]


def check_state(state: object, batch: int) -> State:
    """`state` itself where it honours the contract: a dict of tensors whose first axis has `batch` entries.

    Args:
        state: what a model returned.
        batch: number of clips.

    Raises:
        TypeError: it does not; states of several streams could not be stacked, nor exported.
    """
    if not isinstance(state, dict):
        raise TypeError(f"the model returned a state of {type(state).__name__}; it is a dict of tensors, {{}} for none")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or len(value) != batch:
            kind = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"the state {name!r} is {kind}; it is a tensor whose first axis is the batch of {batch}")
    return state
