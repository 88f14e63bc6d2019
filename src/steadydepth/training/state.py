"""The training state, a value that each step takes and returns; what watches it; and both as a checkpoint."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from steadydepth.training.guard import Guard
from steadydepth.training.log import LossMeter
from steadydepth.training.processes import gather, random_state, set_random_state, spread
from steadydepth.training.validation import EarlyStopping

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainingState:
    """What a run has learned after `step` steps.

    Weights are updated in place, because two copies of them would not fit: a state that was handed to a step is not
    used again.
    """

    model: nn.Module  # as it is trained: wrapped for several processes, compiled, sharded
    average: AveragedModel  # the running average of its weights, which is saved
    optimizer: torch.optim.Optimizer
    step: int = 0  # steps taken
    rate_share: float = 1.0  # of the learning rate of the schedule; halved when the guard backs off
    skipped_in_a_row: int = 0  # the last steps, whose gradients were not finite


@dataclass(frozen=True)
class Watchers:
    """What looks at a run while it trains; none of them changes another."""

    meter: LossMeter
    early_stopping: EarlyStopping
    guard: Guard | None  # None where measured depth holds the image

    @property
    def stopped(self) -> bool:
        """Whether one of them has ended the run."""
        return self.early_stopping.stopped or (self.guard is not None and self.guard.stopped)


def pack(state: TrainingState, watchers: Watchers, accelerator: "Accelerator") -> dict[str, Any]:
    """What a checkpoint holds, with complete tensors; called in all processes together.

    Args:
        state: of the run.
        watchers: of the run.
        accelerator: of the run.
    """
    from accelerate.utils import broadcast, gather_object

    model = accelerator.unwrap_model(state.model)
    # Each process has norm statistics of its own clips; a run that is resumed has those of the first. The average's own
    # count of steps is the same in all, and on the CPU, from where NCCL sends nothing.
    broadcast([*model.buffers(), *state.average.module.buffers()])
    own = {"meter": watchers.meter.state_dict(), "random": random_state(accelerator.device)}
    return {
        "step": state.step,
        "rate_share": state.rate_share,
        "skipped_in_a_row": state.skipped_in_a_row,
        "model": gather(model.state_dict()),
        "average": gather(state.average.state_dict()),
        "optimizer": gather(state.optimizer.state_dict()),
        "scaler": accelerator.scaler and accelerator.scaler.state_dict(),
        "processes": gather_object([own]),
        "early_stopping": watchers.early_stopping.state_dict(),
        "guard": watchers.guard and gather(watchers.guard.state_dict()),
    }


def unpack(
    packed: dict[str, Any], state: TrainingState, watchers: Watchers, accelerator: "Accelerator"
) -> TrainingState:
    """The state that was packed, sharded as `state` is; watchers and random numbers continue from there as well.

    With another number of processes than before, the first takes all sums of losses and dropout begins anew.

    Args:
        packed: from `pack`, or read from a checkpoint.
        state: as `set_up` returned it; its modules and optimizer are changed in place.
        watchers: as `set_watchers` returned them; they are changed in place.
        accelerator: of the run.
    """
    model = accelerator.unwrap_model(state.model)
    model.load_state_dict(spread(packed["model"], model.state_dict()))
    state.average.load_state_dict(spread(packed["average"], state.average.state_dict()))
    weights = [weight for group in state.optimizer.param_groups for weight in group["params"]]
    # The moments are sharded as the weights that they belong to.
    moments = {
        number: spread(held, dict.fromkeys(held, weights[number]))
        for number, held in packed["optimizer"]["state"].items()
    }
    state.optimizer.load_state_dict(packed["optimizer"] | {"state": moments})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(packed["scaler"])
    processes = packed["processes"]
    if len(processes) == accelerator.num_processes:
        own = processes[accelerator.process_index]
        set_random_state(own["random"], accelerator.device)
        processes = [own]
    elif not accelerator.is_main_process:
        processes = []
    for own in processes:
        watchers.meter.add_state_dict(own["meter"])
    watchers.early_stopping.load_state_dict(packed["early_stopping"])
    if watchers.guard is not None:
        watchers.guard.load_state_dict(packed["guard"], state.average.module)
    return replace(state, **{name: packed[name] for name in ("step", "rate_share", "skipped_in_a_row")})


def back_off(state: TrainingState, accelerator: "Accelerator") -> TrainingState:
    """The state that continues from the weights of the average, with half of the learning rate and no momentum.

    Args:
        state: its average has the weights to go back to; it is not used again.
        accelerator: of the run.
    """
    accelerator.unwrap_model(state.model).load_state_dict(state.average.module.state_dict())
    state.optimizer.state.clear()
    return replace(state, rate_share=state.rate_share / 2)
