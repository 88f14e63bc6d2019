"""One step of the method: the four steps by name, with labels and without."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadydepth.method.aligning import align_clips
from steadydepth.method.losses import absolute_loss, relative_loss, target_loss
from steadydepth.method.pairing import Motion, Seen, pair_with_previous, unchanged
from steadydepth.method.sequence import process_sequence
from steadydepth.method.update import update_weights
from steadydepth.types import Batch, Claims, Depth, DepthPairs, LossTerms

EDGE = math.log(1.25)  # flicker changes depth by less from one frame to the next, the edge of a thing by more


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
    claims: Claims = "metric",
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> LossTerms:
    """Learn once from labelled clips; return the losses before the update."""
    said, _ = process_sequence(model, batch.frames)
    depth = align_clips(said, batch.depth, batch.valid, claims)

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
    window: int = 1,
    backward: Callable[[Tensor], Any] = Tensor.backward,
) -> LossTerms:
    """Learn once from clips without labels; return the losses before the update.

    The frozen `anchor` labels each frame, because steadiness alone is best served by a constant; a point seen in two
    frames is taken to keep its depth from one to the next. With a `window` of more than one frame the label is
    averaged along the motion.
    """
    depth, _ = process_sequence(model, batch.frames)
    with torch.no_grad():
        label, _ = process_sequence(anchor, batch.frames)
        label = average_along(label, batch.motion, batch.seen, window=window)
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


def average_along(depth: Depth, motion: Motion, seen: Seen, *, window: int) -> Depth:
    """Each depth image averaged in log depth with those of up to `window` - 1 frames before it, brought here.

    A point counts where it was seen all along, and where its depth there is within EDGE of its depth here: beyond
    that it is another surface, or was one. The first frames of a clip have fewer neighbours.
    """
    log_depth, everywhere = depth.log(), torch.ones_like(depth, dtype=torch.bool)
    total, count = log_depth.clone(), torch.ones_like(depth)
    for lag in range(1, min(window, depth.shape[1])):
        earlier = pair_with_previous(depth, everywhere, motion, seen, lags=(lag,))
        away = earlier.previous.log() - log_depth[:, lag:]
        same = earlier.valid & (away.abs() < EDGE)
        total[:, lag:] += torch.where(same, away + log_depth[:, lag:], 0)
        count[:, lag:] += same
    return (total / count).exp()
