"""The guard of runs without labels: it stops a run before the teacher's image is lost, and keeps the weights before."""

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from steadydepth.method.alignment import as_depth
from steadydepth.method.sequence import process_sequence
from steadydepth.metrics.accuracy import log_depth_correlation
from steadydepth.models.declare import claims_of
from steadydepth.training.processes import spread
from steadydepth.types import Frames

if TYPE_CHECKING:
    from accelerate import Accelerator


class Guard:
    """Compares a model's log depth with its teacher's, and holds the last weights that were close enough."""

    def __init__(self, teacher: nn.Module, *, least: float) -> None:
        self.teacher = teacher
        self.least = least  # correlation of log depth in [0, 1]; 0 never stops
        self.kept: dict[str, torch.Tensor] | None = None
        self.stopped = False

    def check(self, model: nn.Module, frames: Frames, accelerator: "Accelerator") -> float:
        """Keep the weights of `model` if they are good enough; else stop, and put back those that were.

        Args:
            model: the running average of the weights.
            frames: those that this process takes of the step.
            accelerator: all processes call this together, and decide by the mean of their correlations.

        Returns: the log-depth correlation with the teacher.
        """
        own = torch.tensor(self.log_depth_correlation(model, frames), device=frames.device)
        correlation = float(accelerator.reduce(own, reduction="mean"))
        if correlation >= self.least or self.least == 0:
            self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
        else:
            self.stopped = True
            model.load_state_dict(self.kept or model.state_dict())
        return correlation

    def log_depth_correlation(self, model: nn.Module, frames: Frames) -> float:
        """Correlation of log depth with the teacher's over all pixels; 0 for a constant prediction."""
        training = model.training
        model.eval()
        with torch.no_grad():
            depth, _ = process_sequence(model, frames)
            predicted, _ = process_sequence(self.teacher, frames)
        model.train(training)
        depth, predicted = (as_depth(one, predicted, claims_of(self.teacher)) for one in (depth, predicted))
        correlation = log_depth_correlation(depth.float().flatten(0, 1).cpu(), predicted.float().flatten(0, 1).cpu())
        return float(correlation["log_depth_correlation"].nan_to_num(0))

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it; tensors may be sharded."""
        return {"kept": self.kept, "stopped": self.stopped}

    def load_state_dict(self, state: dict[str, Any], model: nn.Module) -> None:
        """Go on from what `state_dict` returned, with weights sharded as those of `model`."""
        self.kept = state["kept"] and spread(state["kept"], model.state_dict())
        self.stopped = state["stopped"]
