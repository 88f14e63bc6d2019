"""Which values a search tries: those of the base first, then what Optuna makes of the trials before."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from steadydepth.config import Config, SearchConfig
from steadydepth.config_files import list_mistakes, load_config, mistakes_of
from steadydepth.errors import import_extra
from steadydepth.experiments.planned_runs import PlannedRun, scoring_mistakes, values_of
from steadydepth.training.validation import check_metric, distance_from_best

PLAIN = "plain"

Values = Mapping[str, int | float]  # by `section.key`


@dataclass(frozen=True)
class Trial:
    """Values of the keys and, once their run is finished, its means of `metric` and of the metrics of `keep`.

    `excess`: by how much each of the latter is worse than it may be; at most 0 where it is kept.
    """

    values: Values
    scores: Mapping[str, float]
    excess: Mapping[str, float]

    @property
    def is_kept(self) -> bool:
        """Whether its run is finished and keeps all that it must."""
        return bool(self.scores) and all(one <= 0 for one in self.excess.values())


def check_search(config: SearchConfig) -> Config:
    """The config that all runs share; InputError lists everything that does not fit, or Optuna is missing."""
    base = load_config(config.base, [*config.set, f"run.folder={json.dumps(str(config.out))}"])
    checks = [
        partial(check_metric, "metric", config.metric),
        *(partial(check_metric, "keep", one) for one in config.keep),
    ]
    mistakes = [text for key in config.ranges for text in _wrong_range(key, base, config)]
    mistakes += [*mistakes_of(checks), *scoring_mistakes(config.align, config.protocol)]
    if mistakes:
        raise list_mistakes("search", mistakes)
    _import_optuna()
    return base


def _wrong_range(key: str, base: Config, config: SearchConfig) -> list[str]:
    if type(values_of(base).get(key)) not in (int, float):
        return [f"ranges.{key}: is no number of a config; docs/config.md has the keys"]
    ends = (config.ranges[key].low, config.ranges[key].high)
    return mistakes_of(partial(plan_trial, "end", {key: end}, config) for end in ends)


def plan_runs(tried: Sequence[Values], config: SearchConfig) -> list[PlannedRun]:
    """The plain run, where anything is measured by it, and those of the values."""
    plain = [plan_trial(PLAIN, {"loss.relative_weight": 0}, config)] if config.keep else []
    return plain + [plan_trial(f"trial-{number}", values, config) for number, values in enumerate(tried)]


def plan_trial(name: str, values: Values, config: SearchConfig) -> PlannedRun:
    """The run of a trial.

    Args:
        name: of the trial, and of its folder.
        values: by config key.
        config: of the search.

    Raises:
        InputError: a config does not take those values.
    """
    changes = [f"{key}={value!r}" for key, value in values.items()]
    folder = f"run.folder={json.dumps(str(config.out / name))}"
    return PlannedRun(name, load_config(config.base, [*config.set, *changes, folder]))


def propose(trials: Sequence[Trial], count: int, *, base: Config, config: SearchConfig) -> list[Values]:
    """Values of the next trials, by Optuna's TPE; they follow from those before and from `run.seed` alone.

    Args:
        trials: all so far; those without scores are ignored.
        count: how many are wanted.
        base: the config that all runs share.
        config: of the search.

    Returns: `count` sets of values.
    """
    optuna = _import_optuna()
    own = values_of(base)
    distributions = {
        key: optuna.distributions.IntDistribution(int(limits.low), int(limits.high), log=limits.log)
        if isinstance(own[key], int)
        else optuna.distributions.FloatDistribution(limits.low, limits.high, log=limits.log)
        for key, limits in config.ranges.items()
    }
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=base.run.seed + len(trials)))
    if not trials:
        study.enqueue_trial({key: own[key] for key, one in distributions.items() if one.low <= own[key] <= one.high})
    for trial in (trial for trial in trials if trial.scores):
        distance = distance_from_best(config.metric, trial.scores[config.metric])
        study.add_trial(
            optuna.trial.create_trial(
                value=distance, params=trial.values, distributions=distributions, constraints=trial.excess
            )
        )
    return [study.ask(distributions).params for _ in range(count)]


def _import_optuna() -> Any:
    optuna = import_extra("optuna", "search", "search needs Optuna")
    # Our own log has a line for each trial.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
