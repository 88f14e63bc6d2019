"""What learns: everything that one step changes."""

import copy
import logging
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from steadydepth.config import Config
from steadydepth.method.losses import absolute_loss, relative_loss
from steadydepth.method.update import build_optimizer, learning_rate_at, set_learning_rate
from steadydepth.models.declare import check_claims
from steadydepth.models.frozen import frozen_copy
from steadydepth.training.guard import Guard
from steadydepth.training.processes import gather, open_accelerator, random_state, set_random_state, shard, spread
from steadydepth.training.setup import average_weights, build_model, prepare_parts
from steadydepth.training.step import train_step
from steadydepth.types import Batch, Claims, LossTerms

logger = logging.getLogger(__name__)


def relative_weight_at(step: int, *, steps: int, weight: float, ramp: float) -> float:
    """Weight of the relative loss at a step: grows linearly over the share `ramp` of the steps, then stays."""
    rising = ramp * steps
    return weight if step >= rising else weight * step / rising


class Run:
    """A run under way: everything that one step changes, and that a checkpoint must hold."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.accelerator = open_accelerator(config)
        model = build_model(config)
        if not self.accelerator.is_main_process:
            # Dropout of its own; the first process goes on as one that is alone.
            torch.manual_seed(config.run.seed + self.accelerator.process_index)
        labels = {one.labels for one in config.data.all_sources()}
        self.teacher = frozen_copy(model).to(self.accelerator.device) if "teacher" in labels else None
        # Measured depth holds the image by itself, and may well change it.
        guarded = self.teacher if "depth" not in labels else None
        self.guard = Guard(guarded, least=config.loss.min_log_depth_correlation) if guarded is not None else None
        self.claims: Claims = model.claims  # type: ignore[assignment]
        prepare_parts(model.to(self.accelerator.device), config)
        # FSDP2 takes no other order than the usual one.
        model = model.to(memory_format=torch.contiguous_format if config.run.shard else torch.channels_last)
        self.average = average_weights(model, config.optim.average)
        self.whole = self.average.module
        if config.run.shard:
            self.whole = copy.deepcopy(model).cpu()
            shard(model)
            shard(self.average.module)
        optimizer = build_optimizer(
            model,
            learning_rate=config.optim.learning_rate,
            encoder_learning_rate=config.optim.encoder_learning_rate,
            weight_decay=config.optim.weight_decay,
            layer_decay=config.optim.layer_decay,
        )
        # A sharded model gathers its gradients itself: in Accelerate's words, as one that is only evaluated.
        self.model = self.accelerator.prepare_model(model, evaluation_mode=config.run.shard)
        if config.run.compile:
            # In place: Accelerate would wrap it, and give the weights of checkpoints other names.
            self.model.compile()
        self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        self.step, self.stopped = 0, False
        self.skipped_in_a_row = 0
        self.least_distance: float | None = None  # of the best validation so far
        self.validations_since = 0
        # Sums since the last line of the log, and the steps they are of; on the device, so that no step waits for them.
        self.window = torch.zeros(4, device=self.accelerator.device)
        # The same of each source: clips, absolute, relative.
        self.of_sources = torch.zeros(len(config.data.all_sources()), 3, device=self.accelerator.device)
        self.backward: Callable[[torch.Tensor], Any] = self.accelerator.backward
        self.absolute: Callable[..., torch.Tensor] = partial(
            absolute_loss,
            kind=config.loss.absolute,
            gradient_weight=config.loss.gradient,
            smoothness_weight=config.loss.smoothness,
        )
        self.relative: Callable[..., torch.Tensor] = partial(
            relative_loss,
            kind=config.loss.relative,
            robust=config.loss.robust,
            trim=config.loss.trim,
            moving_weight=config.loss.moving_weight,
            gradient_weight=config.loss.relative_gradient,
            motion_gain_weight=config.loss.motion_gain_weight,
            both_frames=config.loss.both_frames,
        )

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold; all processes together, for each has random numbers and sums of its own."""
        from accelerate.utils import broadcast, gather_object

        # Each process has norm statistics of its own clips; one that resumes has those of the first.
        broadcast([*self.accelerator.unwrap_model(self.model).buffers(), *self.average.buffers()])
        own = {"window": self.window, "of_sources": self.of_sources, "random": random_state(self.window.device)}
        return {
            "step": self.step,
            "skipped_in_a_row": self.skipped_in_a_row,
            "model": gather(self.accelerator.unwrap_model(self.model).state_dict()),
            "average": gather(self.average.state_dict()),
            "optimizer": gather(self.optimizer.state_dict()),
            "scaler": self.accelerator.scaler and self.accelerator.scaler.state_dict(),
            "processes": gather_object([own]),
            "guard": None if self.guard is None else gather(self.guard.state()),
            "stopped": self.stopped,
            "validation": (self.least_distance, self.validations_since),
        }

    def restore(self, state: dict[str, Any]) -> None:
        network = self.accelerator.unwrap_model(self.model)
        network.load_state_dict(spread(state["model"], network.state_dict()))
        self.average.load_state_dict(spread(state["average"], self.average.state_dict()))
        self.optimizer.load_state_dict(self._spread_moments(state["optimizer"]))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step, self.skipped_in_a_row, self.stopped = state["step"], state["skipped_in_a_row"], state["stopped"]
        self.least_distance, self.validations_since = state["validation"]
        self._restore_own(state["processes"])
        if self.guard is not None:
            kept = state["guard"]["kept"]
            self.guard.restore({"kept": kept and spread(kept, self.average.module.state_dict())})

    def _spread_moments(self, optimizer: dict[str, Any]) -> dict[str, Any]:
        """Moments shared out as the weights that they belong to."""
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        moments = {
            number: spread(held, dict.fromkeys(held, weights[number])) for number, held in optimizer["state"].items()
        }
        return optimizer | {"state": moments}

    def _restore_own(self, processes: list[dict[str, Any]]) -> None:
        """What each process had; with another number of them the first takes all sums and dropout begins anew."""
        if len(processes) == self.accelerator.num_processes:
            own = processes[self.accelerator.process_index]
            set_random_state(own["random"])
            processes = [own]
        elif not self.accelerator.is_main_process:
            processes = []
        for own in processes:
            self.window += own["window"].to(self.window.device)
            self.of_sources += own["of_sources"].to(self.window.device)

    def averaged(self) -> nn.Module:
        """The model that is saved: the running average, none of it shared out; all processes together."""
        if self.whole is not self.average.module:
            self.whole.load_state_dict(gather(self.average.module.state_dict()))
        return self.whole

    def any_process(self, mine: bool) -> bool:
        """Whether it is so in at least one process: all of them get one answer."""
        if self.accelerator.num_processes == 1:
            return mine
        found = self.accelerator.reduce(torch.tensor(float(mine), device=self.window.device), reduction="sum")
        return bool(found > 0)

    def take_sums(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`window` and `of_sources` over all processes; they begin anew."""
        found = [self.accelerator.reduce(sums.clone(), reduction="sum") for sums in (self.window, self.of_sources)]
        self.window.zero_()
        self.of_sources.zero_()
        return found[0], found[1]

    def prepare_to_learn(self) -> None:
        """Training mode; norm layers keep their statistics from the step on that the config says.

        Until then a batch is normalised by itself, which learns fast; from then on the network that learns is the
        network that will run, and what it does about light that changes is what it will do.
        """
        self.model.train()
        if self.step >= self.config.optim.freeze_batch_norm_after * self.config.optim.steps:
            for module in self.model.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.eval()

    def keep_watch(self, batch: Batch) -> dict[str, float]:
        """What the guard sees, for the log; when it is too little the run stops, back at the weights that were good."""
        if self.guard is None:
            return {}
        average, visible = self.average.module, batch.frames
        own = torch.tensor(self.guard.log_depth_correlation(average, visible), device=visible.device)
        # All processes together, or the others would go on when one has stopped.
        log_depth_correlation = float(self.accelerator.reduce(own, reduction="mean"))
        if self.guard.holds(log_depth_correlation):
            self.guard.keep(average)
        else:
            self.stopped = True
            average.load_state_dict(self.guard.kept or average.state_dict())
            logger.warning(
                "%s: stopped after step %d: the log-depth correlation with the starting model is %.3f, below "
                "loss.min_log_depth_correlation %g; the weights before are kept. A smaller "
                "loss.relative_weight or optim.learning_rate goes further.",
                self.config.run.folder, self.step, log_depth_correlation, self.guard.least,
            )  # fmt: skip
        return {"log_depth_correlation": log_depth_correlation}

    def look_at_claims(self, batch: Batch) -> None:
        """Before the first step: InputError where what the model says is seen not to be what it claims."""
        self.model.eval()
        # Compiling takes minutes; not for this one call.
        as_it_is = torch.compiler.set_stance("force_eager") if self.config.run.compile else nullcontext()
        with torch.no_grad(), as_it_is:
            predicted, _ = self.model(batch.frames)
        check_claims(predicted, self.claims, str(self.config.model.init or "model"))

    def learn(self, batch: Batch) -> LossTerms:
        """One step of the method on one batch."""
        if self.step == 0:
            self.look_at_claims(batch)
        self.prepare_to_learn()
        network = self.accelerator.unwrap_model(self.model)
        # The forward pass moves norm statistics; a skipped step must not.
        before = [buffer.clone() for buffer in network.buffers()]
        optim, loss = self.config.optim, self.config.loss
        learning_rate = learning_rate_at(
            self.step, steps=optim.steps, learning_rate=optim.learning_rate, warmup=optim.warmup
        )
        set_learning_rate(self.optimizer, learning_rate)
        weight = relative_weight_at(self.step, steps=optim.steps, weight=loss.relative_weight, ramp=loss.relative_ramp)
        terms = train_step(
            self.model,
            optimizer=self.optimizer,
            batch=batch,
            relative_weight=weight,
            max_grad_norm=optim.max_grad_norm,
            absolute=self._absolute,
            relative=self.relative,
            frame_offsets=loss.frame_offsets,
            claims=self.claims,
            teacher=self.teacher,
            window=loss.teacher_window,
            parts=optim.accumulate,
            backward=self.backward,
            clip=self.accelerator.clip_grad_norm_,
        )
        self.step += 1
        if terms.is_finite:
            self.skipped_in_a_row = 0
            self.average.update_parameters(network)
            self._count(terms)
        else:
            self.skipped_in_a_row += 1
            self._undo(dict(zip(network.buffers(), before, strict=True)))
        return terms

    def _count(self, terms: LossTerms) -> None:
        one = torch.ones_like(terms.target)
        self.window += torch.stack((terms.absolute, terms.relative, terms.target, one))
        for source, sums in terms.of_sources.items():
            self.of_sources[source] += sums

    def _undo(self, buffers: dict[torch.Tensor, torch.Tensor]) -> None:
        """A step that was skipped leaves nothing but a smaller scale of the loss, where fp16 has one."""
        for buffer, before in buffers.items():
            buffer.copy_(before)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.update()

    def _absolute(self, *arguments: Any, frames: torch.Tensor) -> torch.Tensor:
        return self.absolute(*arguments, frames=frames if self.config.loss.edge_aware else None)
