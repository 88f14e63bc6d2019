"""Stabilising without labels stops before the image is lost: the best weights so far are kept."""

from typing import Any

import torch
from torch import nn

from steadydepth.method.alignment import as_depth
from steadydepth.metrics.accuracy import log_depth_correlation
from steadydepth.models.declare import claims_of
from steadydepth.types import Frames


class Guard:
    """Watches how much of the frozen copy's image a model keeps, and holds the last weights that kept enough."""

    def __init__(self, teacher: nn.Module, *, least: float) -> None:
        self.teacher, self.least = teacher, least
        self.kept: dict[str, torch.Tensor] | None = None

    def log_depth_correlation(self, model: nn.Module, frames: Frames) -> float:
        """Correlation of log depth with the frozen copy's over all pixels; 0 for a constant prediction."""
        training = model.training
        model.eval()
        with torch.no_grad():
            depth, _ = model(frames)
            predicted, _ = self.teacher(frames)
        model.train(training)
        depth, predicted = (as_depth(one, predicted, claims_of(self.teacher)) for one in (depth, predicted))
        kept = log_depth_correlation(depth.float().flatten(0, 1).cpu(), predicted.float().flatten(0, 1).cpu())[
            "log_depth_correlation"
        ]
        return float(kept.nan_to_num(0))

    def keep(self, model: nn.Module) -> None:
        """Remember the weights as they are now."""
        self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def holds(self, log_depth_correlation: float) -> bool:
        """Whether so much is enough; always where the least is 0."""
        return log_depth_correlation >= self.least or self.least == 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"kept": self.kept}

    def restore(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]
