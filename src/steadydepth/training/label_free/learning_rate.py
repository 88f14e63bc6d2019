"""The learning rate that suits a model, found from the model itself by a few steps at each of several."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from steadydepth.method.losses import calculate_losses
from steadydepth.method.pairing import pair_clips
from steadydepth.method.sequence import process_sequence
from steadydepth.method.update import build_optimizer
from steadydepth.training.setup import Setup
from steadydepth.training.step import set_training_mode, train_step
from steadydepth.types import Batch

logger = logging.getLogger(__name__)

RATES = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
N_STEPS = 8  # at each of them
N_KEPT = 2  # batches more, on which they are compared
MOST = 1.5e-3  # above it the guard of most runs went back, which costs more than a smaller rate does
WORSE = 1.02  # times the loss before any step: a rate that leaves more was too large for so few steps
ENOUGH = 1.2  # times it: larger rates are not tried
# Hundreds of steps, with a rate that falls in the end, take more than eight do. How much more depends on how many
# different scenes there are: with a dozen a large rate costs accuracy on all others, with a hundred it gains some
# (docs/experiments.md).
SCENES, LONGER = (20.0, 100.0), (1.5, 8.0)  # from so many on, so many times the rate


@dataclass(frozen=True)
class FoundRate:
    """What a range test of the learning rate found."""

    learning_rate: float
    losses: dict[float, float]  # after the steps at each rate that was tried; at 0 before any
    step_s: float  # that a step took


def find_learning_rate(setup: Setup, model: nn.Module, batches: Sequence[Batch], *, n_scenes: int) -> FoundRate:
    """Try learning rates from the lowest up, each from the same start, until they make the loss worse.

    Args:
        setup: of the run, with its teacher's depth.
        model: the network at its start; it is as before afterwards.
        batches: `N_STEPS` to train on and `N_KEPT` to compare on, on the device.
        n_scenes: videos, or pieces of long ones, that the run learns from: the more, the larger the rate.

    Returns: `times_longer` times the rate at which the loss begins to become worse, at most `MOST`.
    """
    start = {name: value.detach().clone() for name, value in model.state_dict().items()}
    losses, spent = {0.0: _loss(setup, model, batches[N_STEPS:])}, list[float]()
    for rate in RATES:
        spent += _take_steps(setup, model, batches[:N_STEPS], rate)
        losses[rate] = _loss(setup, model, batches[N_STEPS:])
        model.load_state_dict(start)
        logger.info("%s: learning rate %g: loss %.4f", setup.config.run.folder, rate, losses[rate])
        if not losses[rate] <= ENOUGH * losses[0.0]:
            break
    found = float(f"{min(times_longer(n_scenes) * largest_rate(losses), MOST):.2g}")  # for people to read
    # The first step of all warms up what the others find warm.
    return FoundRate(found, losses, sorted(spent)[len(spent) // 2])


def largest_rate(losses: dict[float, float]) -> float:
    """The rate at which the loss begins to become worse, between those that were tried by their logarithms.

    Args:
        losses: after the steps at each rate, from the lowest up; at 0 before any.
    """
    most, before = WORSE * losses[0.0], 0.0
    for rate, loss in list(losses.items())[1:]:
        if not loss <= most:
            if not before or not math.isfinite(loss):
                return before or rate
            share = (most - losses[before]) / (loss - losses[before])
            return before * (rate / before) ** share
        before = rate
    return before


def times_longer(n_scenes: int) -> float:
    """How many times the largest rate for eight steps is taken for hundreds of them, by the scenes there are."""
    return float(np.interp(n_scenes, SCENES, LONGER))


def _take_steps(setup: Setup, model: nn.Module, batches: Sequence[Batch], rate: float) -> list[float]:
    """Train `model` on the batches; the seconds of each step."""
    optim, loss = setup.config.optim, setup.config.loss
    set_training_mode(model, freeze_batch_norm=True)
    optimizer = build_optimizer(
        model, learning_rate=rate, encoder_learning_rate=optim.encoder_learning_rate, weight_decay=optim.weight_decay
    )
    spent = []
    for batch in batches:
        started = time.perf_counter()
        train_step(
            model, optimizer, batch, relative_weight=loss.relative_weight, max_grad_norm=optim.max_grad_norm,
            absolute=setup.absolute, relative=setup.relative, frame_offsets=loss.frame_offsets, claims=setup.claims,
        )  # fmt: skip
        spent.append(time.perf_counter() - started)
    return spent


@torch.no_grad()
def _loss(setup: Setup, model: nn.Module, batches: Sequence[Batch]) -> float:
    """Mean target over the batches in evaluation mode."""
    loss = setup.config.loss
    model.eval()
    targets = []
    for batch in batches:
        depth, _ = process_sequence(model, batch.frames)
        pairs = pair_clips(depth, batch, claims=setup.claims, frame_offsets=loss.frame_offsets)
        terms = calculate_losses(
            pairs, relative_weight=loss.relative_weight, absolute=setup.absolute, relative=setup.relative
        )
        targets.append(float(terms.target))
    return sum(targets) / len(targets)
