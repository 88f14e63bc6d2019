"""What learns: the model of a config, what of it is trained, and everything that one step changes."""

import logging
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth.config import Config
from steadydepth.method.losses import absolute_loss, relative_loss
from steadydepth.method.parts import freeze_unused, is_encoder, train_only
from steadydepth.method.update import build_optimizer, learning_rate_at, set_learning_rate
from steadydepth.models.adapt import add_lora, checkpoint_gradients
from steadydepth.models.declare import check_claims
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.encoders import load_encoder_weights
from steadydepth.models.frozen import frozen_copy
from steadydepth.models.load import load_model
from steadydepth.training.guard import Guard
from steadydepth.training.step import train_step
from steadydepth.types import Batch, Claims, InputError, LossTerms

logger = logging.getLogger(__name__)


def build_model(config: Config) -> nn.Module:
    """The network of a config with its starting weights: the seed alone decides what is random."""
    if config.model.init is not None:
        model = load_model(config.model.init, config.model.claims)
        torch.manual_seed(config.run.seed)  # dropout draws from it
        return model
    torch.manual_seed(config.run.seed)
    model = DepthNet(
        encoder=config.model.encoder,
        decoder_width=config.model.decoder_width,
        min_depth=config.model.min_depth,
        max_depth=config.model.max_depth,
        claims=config.model.claims or "metric",
    )
    load_encoder_weights(model.encoder, config.model.encoder, config.model.weights)
    return model


def prepare_parts(model: nn.Module, config: Config) -> None:
    """Choose in place what of `model` learns, and how; what takes no part in the depth is reported and stays."""
    if not any(True for _ in model.parameters()):
        raise InputError(f"model.init: {config.model.init}: has no weights, and cannot be trained")
    if config.model.lora:
        add_lora(model, config.model.lora, is_encoder)
    if config.model.train:
        train_only(model, config.model.train)
    if config.model.checkpointing:
        checkpoint_gradients(model)
    if unused := freeze_unused(model, config.data.height, config.data.width):
        few = ", ".join(unused[:8]) + ", ..." * (len(unused) > 8)
        logger.info("%s: %d parameters take no part in the depth and stay: %s", config.run.folder, len(unused), few)


def relative_weight_at(step: int, *, steps: int, weight: float, ramp: float) -> float:
    """Weight of the relative loss at a step: grows linearly over the share `ramp` of the steps, then stays."""
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """A running average of weights and norm statistics: average <- d average + (1 - d) weights.

    d = min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not an average of its start.
    """

    def blend(average: torch.Tensor, weights: torch.Tensor, n: torch.Tensor | int) -> torch.Tensor:
        if not average.is_floating_point():
            return weights
        # A tensor, not a number: reading `n` would wait for the device, once for each weight.
        share = torch.as_tensor((1 + n) / (10 + n)).clamp(max=decay)
        return torch.lerp(weights, average, share.to(weights.dtype))

    return AveragedModel(model, avg_fn=blend, use_buffers=True)


class Run:
    """A run under way: everything that one step changes, and that a checkpoint must hold."""

    def __init__(self, config: Config) -> None:
        # Importing Accelerate costs a second: not at the import of this module.
        from accelerate import Accelerator

        self.config = config
        self.accelerator = Accelerator(
            cpu=config.run.device == "cpu", mixed_precision=config.run.precision, step_scheduler_with_optimizer=False
        )
        model = build_model(config)
        labels = {one.labels for one in config.data.all_sources()}
        self.anchor = frozen_copy(model).to(self.accelerator.device) if "anchor" in labels else None
        # Measured depth holds the picture by itself, and may well change it.
        guarded = self.anchor if "depth" not in labels else None
        self.guard = Guard(guarded, least=config.loss.least_structure) if guarded is not None else None
        self.claims: Claims = model.claims  # type: ignore[assignment]
        prepare_parts(model.to(self.accelerator.device), config)
        model = model.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(
            model,
            rate=config.optim.rate,
            encoder_rate=config.optim.encoder_rate,
            weight_decay=config.optim.weight_decay,
            layer_decay=config.optim.layer_decay,
        )
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.average = average_weights(self.accelerator.unwrap_model(self.model), config.optim.average)
        self.step, self.stopped = 0, False
        # Sums of the losses since the last line of the log; on the device, so that no step waits for them.
        self.window = torch.zeros(3, device=self.accelerator.device)
        # The same of each source: clips, absolute, relative.
        self.of_sources = torch.zeros(len(config.data.all_sources()), 3, device=self.accelerator.device)
        self.losses = partial(absolute_loss, kind=config.loss.absolute, smoothness_weight=config.loss.smoothness)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "window": self.window,
            "of_sources": self.of_sources,
            "random": torch.get_rng_state(),
            "guard": None if self.guard is None else self.guard.state(),
            "stopped": self.stopped,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.window = state["step"], state["window"].to(self.window.device)
        self.of_sources = state["of_sources"].to(self.window.device)
        torch.set_rng_state(state["random"].clone())
        self.stopped = state["stopped"]
        if self.guard is not None:
            self.guard.restore(state["guard"])

    def prepare_to_learn(self) -> None:
        """Training mode; norm layers keep their statistics from the step on that the config says.

        Until then a batch is normalised by itself, which learns fast; from then on the network that learns is the
        network that will run, and what it does about light that changes is what it will do.
        """
        self.model.train()
        if self.step >= self.config.optim.norm_learns * self.config.optim.steps:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()

    def keep_watch(self, batch: Batch) -> dict[str, float]:
        """What the guard sees, for the log; when it is too little the run stops, back at the weights that were good."""
        if self.guard is None:
            return {}
        average, seen = self.average.module, batch.frames
        own = torch.tensor(self.guard.structure(average, seen), device=seen.device)
        # All processes together, or the others would go on when one has stopped.
        structure = float(self.accelerator.reduce(own, reduction="mean"))
        if self.guard.holds(structure):
            self.guard.keep(average)
        else:
            self.stopped = True
            average.load_state_dict(self.guard.kept or average.state_dict())
            logger.warning(
                "%s: stopped after step %d: %.3f of the starting model's picture is left, loss.least_structure is %g; "
                "the weights before are kept. A smaller loss.relative_weight or optim.rate goes further.",
                self.config.run.folder, self.step, structure, self.guard.least,
            )  # fmt: skip
        return {"structure": structure}

    def look_at_claims(self, batch: Batch) -> None:
        """Before the first step: InputError where what the model says is seen not to be what it claims."""
        self.model.eval()
        with torch.no_grad():
            said, _ = self.model(batch.frames)
        check_claims(said, self.claims, str(self.config.model.init or "model"))

    def learn(self, batch: Batch) -> LossTerms:
        """One step of the method on one batch."""
        if self.step == 0:
            self.look_at_claims(batch)
        self.prepare_to_learn()
        optim, loss = self.config.optim, self.config.loss
        rate = learning_rate_at(self.step, steps=optim.steps, rate=optim.rate, warmup=optim.warmup)
        set_learning_rate(self.optimizer, rate)
        weight = relative_weight_at(self.step, steps=optim.steps, weight=loss.relative_weight, ramp=loss.relative_ramp)
        terms = train_step(
            self.model,
            optimizer=self.optimizer,
            batch=batch,
            relative_weight=weight,
            max_grad_norm=optim.max_grad_norm,
            absolute=self._absolute,
            relative=partial(
                relative_loss,
                kind=loss.relative,
                robust=loss.robust,
                trim=loss.trim,
                moving_weight=loss.moving_weight,
                response_weight=loss.response_weight,
                both_frames=loss.both_frames,
            ),
            lags=loss.lags,
            claims=self.claims,
            anchor=self.anchor,
            window=loss.anchor_window,
            backward=self.accelerator.backward,
        )
        self.average.update_parameters(self.accelerator.unwrap_model(self.model))
        self.step += 1
        return terms

    def _absolute(self, *arguments: Any, frames: torch.Tensor) -> torch.Tensor:
        return self.losses(*arguments, frames=frames if self.config.loss.edge_aware else None)
