"""Step 4, weight update: the optimizer, its learning rate, and one step."""

import math
from collections.abc import Callable

import torch
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
    """AdamW in groups: the encoder at its share of `learning_rate`, early layers below, no decay of norms and biases.

    Each group keeps its share of the rate under `share`, for `set_learning_rate`.
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
    """Rate of step 0, 1, ...: linear growth over the share `warmup` of the steps, then a cosine down to 1 %."""
    rising = max(round(warmup * steps), 1)
    if step < rising:
        return learning_rate * (step + 1) / rising
    progress = (step - rising) / max(steps - rising, 1)
    return learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Give every group its share of `learning_rate`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["share"]


def update_weights(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    max_grad_norm: float,
    *,
    clip: Callable[..., Tensor] = nn.utils.clip_grad_norm_,
) -> float:
    """One step down the gradient that the weights hold; its length before cutting is returned.

    Where that is not finite no weight changes, nor anything else. `clip` is for launchers that have scaled the loss.
    """
    length = float(clip(model.parameters(), max_grad_norm))
    if math.isfinite(length):
        optimizer.step()
    return length
