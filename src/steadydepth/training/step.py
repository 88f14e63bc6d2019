"""One training step: the four steps of the method by name, and what a run does around them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from steadydepth.method.absolute_loss import absolute_loss
from steadydepth.method.losses import AbsoluteLoss, RelativeLoss, calculate_losses, mean_over_parts
from steadydepth.method.pairing import pair_clips
from steadydepth.method.relative_loss import relative_loss
from steadydepth.method.sequence import process_sequence
from steadydepth.method.update import learning_rate_at, set_learning_rate, update_weights
from steadydepth.models.claimed import check_claims
from steadydepth.models.features import features_before
from steadydepth.training.setup import Setup
from steadydepth.training.state import TrainingState
from steadydepth.types import Batch, Claims, LossTerms


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    relative_weight: float,
    max_grad_norm: float,
    absolute: AbsoluteLoss = absolute_loss,
    relative: RelativeLoss = relative_loss,
    feature_weight: float = 0.0,
    last_layer: nn.Module | None = None,
    frame_offsets: Sequence[int] = (1,),
    claims: Claims = "metric",
    parts: int = 1,
    backward: Callable[[Tensor], Any] = Tensor.backward,
    clip: Callable[..., Tensor] = nn.utils.clip_grad_norm_,
) -> LossTerms:
    """Train `model` on one batch of clips, in place.

    Args:
        model: a `VideoDepthModel`, wrapped for several processes or not.
        optimizer: of its weights.
        batch: clips (b, t, 3, h, w) with their labels and motion; clips of several sources pass together.
        relative_weight: of the relative loss in the target, at least 0.
        max_grad_norm: a longer gradient is scaled to this norm.
        absolute: the loss of each frame against its label.
        relative: the loss of each change against the true change.
        feature_weight: inside the relative loss, of `feature_difference` of what `last_layer` is given.
        last_layer: of the network; None where features are not compared.
        frame_offsets: frame i is paired with frame i - offset, for each of them.
        claims: what the numbers of the model mean.
        parts: the clips pass in so many equal parts, for less memory; the gradients of the parts are averaged.
        backward: for launchers that scale the loss.
        clip: for launchers that gather gradients over processes; returns the norm before clipping.

    Returns: the losses before the update, detached, as means over the parts; `is_finite` is False where the gradient
        was not finite and no weight was changed.
    """
    optimizer.zero_grad(set_to_none=True)
    found = []
    for part, clips in enumerate(batch.split(parts), start=1):
        with _synchronised(model, when=part == parts), features_before(last_layer) as features:
            depth, _ = process_sequence(model, clips.frames)
            pairs = pair_clips(
                depth, clips, claims=claims, frame_offsets=frame_offsets, features=features[0] if features else None
            )
            losses = calculate_losses(
                pairs, relative_weight=relative_weight, absolute=absolute, relative=relative,
                feature_weight=feature_weight,
            )  # fmt: skip
            is_finite = update_weights(
                model, optimizer, losses.target,
                max_grad_norm=max_grad_norm, part=part, parts=parts, backward=backward, clip=clip,
            )  # fmt: skip
        found.append(losses)
    return replace(mean_over_parts(found), is_finite=is_finite)


def _synchronised(model: nn.Module, *, when: bool) -> AbstractContextManager[Any]:
    """Processes average their gradients once a step, with its last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not when else nullcontext()


def take_step(setup: Setup, state: TrainingState, batch: Batch) -> tuple[TrainingState, LossTerms]:
    """The next state of a run and the losses of the step: schedules, `train_step`, and the running average.

    Args:
        setup: of the run.
        state: its weights are changed in place, so it is not used again.
        batch: the clips that this process takes of the step, on its device.

    Returns: the state after the step. Where the gradient was not finite the step is counted as skipped, and weights,
        average, optimizer and norm statistics are as they were.

    Raises:
        InputError: before the first step, where the predictions contradict what the model claims.
    """
    optim, loss, step = setup.config.optim, setup.config.loss, state.step
    if step == 0:
        _check_claims(setup, state.model, batch)
    set_training_mode(state.model, freeze_batch_norm=step >= optim.freeze_batch_norm_after * optim.steps)
    network = setup.accelerator.unwrap_model(state.model)
    # The forward pass updates norm statistics; a skipped step must not.
    statistics = [buffer.clone() for buffer in network.buffers()]
    learning_rate = learning_rate_at(step, steps=optim.steps, learning_rate=optim.learning_rate, warmup=optim.warmup)
    set_learning_rate(state.optimizer, learning_rate * state.rate_share)
    terms = train_step(
        state.model,
        state.optimizer,
        batch,
        relative_weight=relative_weight_at(
            step, steps=optim.steps, weight=loss.relative_weight, ramp=loss.relative_ramp
        ),
        max_grad_norm=optim.max_grad_norm,
        absolute=setup.absolute,
        relative=setup.relative,
        feature_weight=loss.relative_features,
        last_layer=setup.last_layer,
        frame_offsets=loss.frame_offsets,
        claims=setup.claims,
        parts=optim.accumulate,
        backward=setup.backward,
        clip=setup.accelerator.clip_grad_norm_,
    )
    if terms.is_finite:
        state.average.update_parameters(network)
        return replace(state, step=step + 1, skipped_in_a_row=0), terms
    for buffer, before in zip(network.buffers(), statistics, strict=True):
        buffer.copy_(before)
    if setup.accelerator.scaler is not None:
        setup.accelerator.scaler.update()  # fp16: the next step takes a smaller scale of the loss
    return replace(state, step=step + 1, skipped_in_a_row=state.skipped_in_a_row + 1), terms


def relative_weight_at(step: int, *, steps: int, weight: float, ramp: float) -> float:
    """Weight of the relative loss at a step: grows linearly over the share `ramp` of the steps, then stays.

    Args:
        step: 0 for the first step.
        steps: of the run.
        weight: that of the last step, at least 0.
        ramp: in [0, 1].
    """
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising


def set_training_mode(model: nn.Module, *, freeze_batch_norm: bool) -> None:
    """Training mode in place; with `freeze_batch_norm` the norm layers keep and use their running statistics.

    Until then a batch is normalised by itself, which trains fast; from then on the network that is trained is the
    network that will run. Norm layers whose weights are not trained always do.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            trained = [one.requires_grad for one in module.parameters()]
            is_frozen = bool(trained) and not any(trained)
            module.train(not (freeze_batch_norm or is_frozen))


def _check_claims(setup: Setup, model: nn.Module, batch: Batch) -> None:
    model.eval()
    # Compiling takes minutes; not for this one call.
    eager = torch.compiler.set_stance("force_eager") if setup.config.run.compile else nullcontext()
    with torch.no_grad(), eager:
        predicted, _ = model(batch.frames)
    check_claims(predicted, setup.claims, str(setup.config.model.init or "model"))
