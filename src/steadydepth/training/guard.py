"""Stabilising without labels stops before the picture is lost: the best weights so far are kept."""

from typing import Any

import torch
from torch import nn

from steadydepth.method.aligning import as_depth
from steadydepth.metrics.accuracy import structure
from steadydepth.types import Frames


class Guard:
    """Watches how much of the frozen copy's picture a model keeps, and holds the last weights that kept enough."""

    def __init__(self, anchor: nn.Module, *, least: float) -> None:
        self.anchor, self.least = anchor, least
        self.kept: dict[str, torch.Tensor] | None = None

    def structure(self, model: nn.Module, frames: Frames) -> float:
        """Correlation of log depth with the frozen copy's over all pixels; 0 for a constant prediction."""
        training = model.training
        model.eval()
        with torch.no_grad():
            depth, _ = model(frames)
            said, _ = self.anchor(frames)
        model.train(training)
        depth, said = (as_depth(one, said, getattr(self.anchor, "claims", "metric")) for one in (depth, said))
        kept = structure(depth.float().flatten(0, 1).cpu(), said.float().flatten(0, 1).cpu())["structure"]
        return float(kept.nan_to_num(0))

    def keep(self, model: nn.Module) -> None:
        """Remember the weights as they are now."""
        self.kept = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def holds(self, structure: float) -> bool:
        """Whether so much is enough; always where the least is 0."""
        return structure >= self.least or self.least == 0

    def state(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"kept": self.kept}

    def restore(self, state: dict[str, Any]) -> None:
        self.kept = state["kept"]
