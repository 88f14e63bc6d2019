"""Step 4, weight update: the optimizer, its learning rate, and one step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from steadydepth.method.parameter_groups import rate_shares


def build_optimizer(
    model: nn.Module,
    *,
    learning_rate: float,
    encoder_learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """AdamW with a group for each learning rate and weight decay; biases and norms have no decay.

    Args:
        model: its parameters that need a gradient are optimized.
        learning_rate: the highest, of the decoder.
        encoder_learning_rate: that of the encoder, as a share of `learning_rate`.
        weight_decay: of parameters with more than one axis.
        layer_decay: learning rate of each layer of the encoder, as a share of that of the layer after it; in (0, 1].

    Returns: the optimizer; each group keeps its share of the learning rate under `share`, for `set_learning_rate`.
    """
    shares = rate_shares(model, encoder_learning_rate=encoder_learning_rate, layer_decay=layer_decay)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((shares[name], decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": learning_rate * share, "share": share, "weight_decay": decay}
            for (share, decay), parameters in groups.items()
        ],
        fused=True,
    )


def learning_rate_at(step: int, *, steps: int, learning_rate: float, warmup: float) -> float:
    """Learning rate of a step: linear growth over the share `warmup` of the steps, then a cosine down to 1 %.

    Args:
        step: 0 for the first step.
        steps: of the run.
        learning_rate: the highest.
        warmup: in [0, 1].
    """
    rising = max(round(warmup * steps), 1)
    if step < rising:
        return learning_rate * (step + 1) / rising
    progress = (step - rising) / max(steps - rising, 1)
    return learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group of `build_optimizer` its share of `learning_rate`, which is that of the decoder.

    Args:
        optimizer: from `build_optimizer`; it is changed in place.
        learning_rate: of the decoder.
    """
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["share"]


def update_weights(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    target: Float[Tensor, ""],
    *,
    max_grad_norm: float,
    part: int = 1,
    parts: int = 1,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    clip: Callable[..., Tensor] = nn.utils.clip_grad_norm_,
) -> bool:
    """One step down the gradient of `target`.

    Args:
        model: its gradients are 0 or None before the first part.
        optimizer: of the weights of `model`.
        target: the loss of this part of the clips.
        max_grad_norm: a longer gradient is scaled to this norm.
        part: which part of the clips of a step this is, from 1 on; the weights change with the last.
        parts: how many there are; their gradients are averaged.
        backward: for launchers that scale the loss.
        clip: for launchers that gather gradients over processes; returns the norm before clipping.

    Returns: False where the gradient is not finite: no weight has changed then, nor anything else.
    """
    # Where the target is not finite all of its gradient becomes so, and so does the average over all processes.
    spread = target * torch.where(target.detach().isfinite(), 1.0, torch.nan)
    backward(spread / parts)
    if part < parts:
        return True
    is_finite = math.isfinite(float(clip(model.parameters(), max_grad_norm)))
    if is_finite:
        optimizer.step()
    return is_finite
