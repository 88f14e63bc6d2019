"""Validation during a run with the metrics of evaluate: the best model is kept, and early stopping."""

import logging
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from steadydepth.config import Config
from steadydepth.data.sequence_folder import find_sequences, open_sequence
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.metrics.protocols import METRICS
from steadydepth.models.adapt import without_lora
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

BEST = "best"


def check_validation(config: Config) -> None:
    """See, before anything starts, that `data.validation` and `run.best_by` can choose the best model.

    Raises:
        InputError: they cannot.
    """
    check_metric("run.best_by", config.run.best_by)
    folder, metric = config.data.validation, config.run.best_by
    if folder is None:
        return
    paths = find_sequences(folder)
    if not metric.endswith("_flow") and not any(map(_has_depth, paths)):
        raise InputError(
            f"{folder}: no sequence has depth/, which {metric} needs: add it, or set run.best_by=flicker_flow"
        )


def _has_depth(path: Path) -> bool:
    with suppress(InputError):  # evaluating names it
        return open_sequence(path).has_depth
    return False


def check_metric(key: str, metric: str) -> None:
    """See that the metric that a key of a config names can choose the best model.

    Raises:
        InputError: it is no metric with a best value.
    """
    # Those three need a second model, or another script's rule.
    beside = ("edges_kept", "log_depth_correlation", "opw_nvds")
    usable = [name for name, one in METRICS.items() if one.better != "-" and name not in beside]
    if metric not in usable:
        raise InputError(f"{key}: {metric}: is no metric with a best value; choose {', '.join(usable)}")


@dataclass
class EarlyStopping:
    """The best validation so far, and how many there have been since."""

    patience: int  # validations in a row that are no better; 0 never stops
    least_distance: float | None = None  # of the best one (`distance_from_best`)
    since: int = 0

    @property
    def stopped(self) -> bool:
        """Whether so many validations in a row were no better that continuing is of no use."""
        return 0 < self.patience <= self.since

    def is_best(self, distance: float) -> bool:
        """Take note of a validation; whether it is better than all before it."""
        better = self.least_distance is None or distance < self.least_distance
        if better:
            self.least_distance, self.since = distance, 0
        else:
            self.since += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"least_distance": self.least_distance, "since": self.since}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self.least_distance, self.since = state["least_distance"], state["since"]


def validate(
    model: nn.Module, config: Config, early_stopping: EarlyStopping, *, step: int, accelerator: "Accelerator"
) -> dict[str, float]:
    """Evaluate `model` on `data.validation`; called in all processes together, the first works.

    The best model so far is written to best/ in the run folder. After `run.patience` validations without a better one
    `early_stopping` has stopped.

    Args:
        model: all processes have the same.
        config: of the run.
        early_stopping: what was best so far; changed in place.
        step: number of the step after which this is.
        accelerator: of the run.

    Returns: the means of the metrics over the clips.

    Raises:
        InputError: the clips give no `run.best_by`.
    """
    from accelerate.utils import broadcast_object_list

    means: dict[str, Any] = {}
    if accelerator.is_main_process:
        report = evaluate(model, str(config.data.validation), controls=False)
        means = {name: value for name, value in report["mean"].items() if value is not None}
    means = broadcast_object_list([means])[0]
    if config.run.best_by not in means:
        raise InputError(
            f"{config.data.validation}: these clips give no {config.run.best_by}: choose another run.best_by"
        )
    if early_stopping.is_best(distance_from_best(config.run.best_by, means[config.run.best_by])):
        if accelerator.is_main_process:
            save_model(without_lora(model), config.run.folder / BEST)
    elif early_stopping.stopped:
        logger.info(
            "%s: stopped after step %d: %s has not been better for %d validations; best/ holds the best model",
            config.run.folder, step, config.run.best_by, early_stopping.since,
        )  # fmt: skip
    return means


def distance_from_best(metric: str, value: float) -> float:
    """A number that is smaller where the value of the metric is better, whichever direction the metric has."""
    return {"lower": value, "higher": -value, "nearer 1": abs(value - 1)}[METRICS[metric].better]
