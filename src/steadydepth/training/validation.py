"""Validation while a run is under way: the evaluator's own metrics, the best model kept, and when to stop."""

import logging
from typing import Any

from steadydepth.config import Config
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.evaluation.evaluate import evaluate
from steadydepth.metrics.protocols import METRICS
from steadydepth.models.adapt import without_lora
from steadydepth.training.checkpoint import save_model
from steadydepth.training.state import Run
from steadydepth.types import InputError

logger = logging.getLogger(__name__)

BEST = "best"


def check_validation(config: Config) -> None:
    """InputError before anything starts where `data.validation` has no clips, or `run.best_by` is nothing to go by."""
    if config.data.validation is not None:
        find_sequences(config.data.validation)
    check_metric("run.best_by", config.run.best_by)


def check_metric(key: str, metric: str) -> None:
    """InputError where `metric`, the value of `key`, is nothing to go by."""
    usable = [name for name, one in METRICS.items() if one.better != "-"]
    if metric not in usable:
        raise InputError(f"{key}: {metric}: is no metric with a best value; choose {', '.join(usable)}")


def validate(run: Run) -> dict[str, float]:
    """Means of the running average over the clips of `data.validation`; all processes together, the first works.

    The best model so far is written to best/ in the run folder; after `run.patience` validations without a better one
    the run stops.
    """
    from accelerate.utils import broadcast_object_list

    config, model = run.config, run.averaged()
    means: dict[str, Any] = {}
    if run.accelerator.is_main_process:
        report = evaluate(model, str(config.data.validation), controls=False)
        means = {name: value for name, value in report["mean"].items() if value is not None}
    means = broadcast_object_list([means])[0]
    if config.run.best_by not in means:
        raise InputError(
            f"{config.data.validation}: these clips give no {config.run.best_by}: choose another run.best_by"
        )
    found = distance_from_best(config.run.best_by, means[config.run.best_by])
    if run.least_distance is None or found < run.least_distance:
        run.least_distance, run.validations_since = found, 0
        if run.accelerator.is_main_process:
            save_model(without_lora(model), config.run.folder / BEST)
    else:
        run.validations_since += 1
    if config.run.patience and run.validations_since >= config.run.patience:
        run.stopped = True
        logger.info(
            "%s: stopped after step %d: %s has not been better for %d validations; best/ holds the best model",
            config.run.folder, run.step, config.run.best_by, run.validations_since,
        )  # fmt: skip
    return means


def distance_from_best(metric: str, value: float) -> float:
    """Less is better, whichever way the metric itself goes."""
    return {"lower": value, "higher": -value, "nearer 1": abs(value - 1)}[METRICS[metric].better]
