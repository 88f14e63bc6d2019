"""The teacher: a frozen copy of a model that labels unlabelled video."""

import copy

from torch import nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that takes no gradient and shares no memory with `model`."""
    return copy.deepcopy(model).eval().requires_grad_(requires_grad=False)
