"""A run on the workers of a Ray cluster, in place of the processes that torchrun starts."""

import logging
import os
from pathlib import Path
from typing import Any

from steadydepth.config import Config
from steadydepth.config_files import load_config
from steadydepth.errors import InputError, import_extra
from steadydepth.training.loop import train


def train_on_ray(config: Config | str | Path, scaling: Any, *, max_failures: int = 0) -> Path:
    """Train a config on the workers of a Ray cluster, each of them a process of `train`.

    The same call resumes an interrupted run, and so does Ray by itself when a worker is lost. The data and the run
    folder, in which Ray's own records are under ray/, must be on a disk that all workers can reach.

    Args:
        config: a config, or the path of its YAML file.
        scaling: a ray.train.ScalingConfig.
        max_failures: how often Ray starts lost workers again.

    Returns: the run folder.

    Raises:
        InputError: as `train` does, or Ray is not installed.
    """
    faults = import_extra("ray.train.v2.api.exceptions", "ray", "train_on_ray needs Ray")
    from ray.train import FailureConfig, RunConfig
    from ray.train.torch import TorchTrainer

    config = config if isinstance(config, Config) else load_config(config)
    trainer = TorchTrainer(
        _train_here,
        train_loop_config={"config": config, "directory": Path.cwd()},
        scaling_config=scaling,
        run_config=RunConfig(
            name="ray",
            storage_path=str(config.run.folder.absolute()),
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        trainer.fit()
    except faults.WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, InputError):
                raise InputError(str(failure)) from error
        raise
    return config.run.folder


def _train_here(given: dict[str, Any]) -> None:
    """What each worker does: paths of the config are those of whoever started Ray."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.chdir(given["directory"])
    train(given["config"])
