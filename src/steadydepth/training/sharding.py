"""Weights shared out over processes (FSDP2): each holds a part of every tensor, and a checkpoint holds them whole."""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map


def shard(model: nn.Module) -> None:
    """Share out the weights of `model` in place: they are gathered for a pass and its gradient, and let go again."""
    device = next(model.parameters()).device.type
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    # FSDP2 hangs its work on what the network returns, and loses it with a view.
    model.register_forward_hook(lambda _, __, said: (said[0].clone(), said[1]))
    # Let go after a pass without a gradient too, or the optimizer would find whole weights.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)


def gather(state: Any) -> Any:
    """The same state with whole tensors in place of shared ones; all processes together."""

    def whole(value: Any) -> Any:
        return value.full_tensor() if isinstance(value, DTensor) else value

    return tree_map(whole, state)


def spread(state: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whole tensors shared out as those of the same names in `like` are; numbers stay whole."""
    return {name: _spread(value, like[name]) for name, value in state.items()}


def _spread(value: Any, like: Tensor) -> Any:
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.ndim == 0:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)
