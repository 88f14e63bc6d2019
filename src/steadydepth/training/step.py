"""One step of the method: the four steps by name, with labels and without."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadydepth.method.losses import absolute_loss, relative_loss, target_loss
from steadydepth.method.pairing import pair_with_previous, unchanged
from steadydepth.method.sequence import process_sequence
from steadydepth.method.update import update_weights
from steadydepth.types import Batch, DepthPairs, LossTerms


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    relative_weight: float,
    max_grad_norm: float,
    absolute: Callable[..., Tensor] = absolute_loss,
    relative: Callable[[DepthPairs, DepthPairs], Tensor] = relative_loss,
    lags: Sequence[int] = (1,),
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> LossTerms:
    """Learn once from labelled clips; return the losses before the update."""
    depth, _ = process_sequence(model, batch.frames)

    predicted = pair_with_previous(depth, batch.valid, batch.motion, batch.seen, lags=lags)
    truth = pair_with_previous(batch.depth, batch.valid, batch.motion, batch.seen, lags=lags)

    loss = target_loss(
        absolute=absolute(depth, batch.depth, batch.valid, frames=batch.frames),
        relative=relative(predicted, truth),
        weight=relative_weight,
    )
    update_weights(model, optimizer, loss.target, max_grad_norm, backward=backward)
    return loss


def stabilise_step(
    model: nn.Module,
    anchor: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    relative_weight: float,
    max_grad_norm: float,
    absolute: Callable[..., Tensor] = absolute_loss,
    relative: Callable[[DepthPairs, DepthPairs], Tensor] = relative_loss,
    lags: Sequence[int] = (1,),
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> LossTerms:
    """Learn once from clips without labels; return the losses before the update.

    The frozen `anchor` labels each frame, because steadiness alone is best served by a constant; a point seen in two
    frames is taken to keep its depth from one to the next.
    """
    depth, _ = process_sequence(model, batch.frames)
    with torch.no_grad():
        label, _ = process_sequence(anchor, batch.frames)
    everywhere = torch.ones_like(batch.valid)

    predicted = pair_with_previous(depth, everywhere, batch.motion, batch.seen, lags=lags)
    truth = unchanged(predicted)

    loss = target_loss(
        absolute=absolute(depth, label, everywhere, frames=batch.frames),
        relative=relative(predicted, truth),
        weight=relative_weight,
    )
    update_weights(model, optimizer, loss.target, max_grad_norm, backward=backward)
    return loss
