"""What a network makes of images before its last layer turns it into depth."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from steadydepth.types import InputError

_APPLIED = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def last_layer(model: nn.Module, height: int, width: int) -> nn.Module:
    """The last convolution or linear layer that a forward pass of `model` calls.

    Args:
        model: a `VideoDepthModel`.
        height: rows of the image that it is asked about.
        width: columns of the image.

    Raises:
        InputError: there is none, or it is not given all frames of a clip at once, one by one along its first axis.
    """
    n_frames, own = 2, next(model.parameters())
    called: list[tuple[nn.Module, Tensor]] = []
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: called.append((layer, inputs[0])))
        for layer in model.modules()
        if isinstance(layer, _APPLIED)
    ]
    training = model.training
    model.eval()
    with torch.no_grad():
        model(torch.zeros((1, n_frames, 3, height, width), device=own.device))
    model.train(training)
    for handle in handles:
        handle.remove()
    if not called or len(called[-1][1]) != n_frames:
        raise InputError(
            "loss.relative_features: the network has no last layer that is given all frames of a clip at once: "
            "leave the key out"
        )
    return called[-1][0]


@contextmanager
def features_before(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """A list to which each call of `layer` inside adds what the layer is given; stays empty for None."""
    found: list[Tensor] = []
    if layer is None:
        yield found
        return
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        handle.remove()
