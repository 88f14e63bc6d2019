"""Which runs a comparison is made of, and whether it is one: same start, same data order, same schedule."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from steadydepth.config import CompareConfig, Config, FilterName
from steadydepth.config_files import dump_config, list_mistakes, load_config
from steadydepth.errors import InputError
from steadydepth.experiments.planned_runs import PlannedRun, scoring_mistakes, values_of

# What may differ between methods that share start, data order and schedule; a dot at the end: all keys of it.
METHOD_KEYS = (
    "loss.", "optim.average", "data.motion", "data.strides", "data.flip", "data.exposure", "data.white_balance",
    "data.gamma", "data.noise", "data.vignetting", "data.blur", "data.jpeg", "data.max_crf",
    "data.max_zoom", "data.max_rotation_deg", "data.cached_clips", "data.workers",
)  # fmt: skip
# What may differ too, but makes it another budget, which the table marks.
BUDGET_KEYS = ("optim.steps", "optim.batch", "data.clip_length")
# What the comparison itself sets for each run.
OUR_KEYS = ("run.seed", "run.folder")


Row = Mapping[int, PlannedRun]  # by seed


@dataclass(frozen=True)
class Plan:
    """The runs by row and seed; where a value of the curve is what a method has, both rows hold the same run."""

    methods: dict[str, Row]
    curve: dict[str, Row]

    def runs(self) -> list[PlannedRun]:
        """Every run once, seed by seed, so that the first results compare all methods."""
        rows = [*self.methods.values(), *self.curve.values()]
        seeds = dict.fromkeys(seed for row in rows for seed in row)
        return list({row[seed].name: row[seed] for seed in seeds for row in rows if seed in row}.values())


def plan_runs(config: CompareConfig) -> Plan:
    """The resolved config of every run; InputError lists everything that would make it no comparison."""
    mistakes = _check_parts(config)
    resolved, wrong = _resolve_all(_changes(config), config)
    mistakes += wrong
    first = next(iter(config.methods))
    if first in resolved:
        mistakes += [text for name, one in resolved.items() for text in _unfair(name, one, first, resolved[first])]
    if mistakes:
        raise list_mistakes("comparison", mistakes)
    curve_seeds = config.seeds if config.curve is None or config.curve.seeds is None else config.curve.seeds
    methods: dict[str, Row] = {
        name: {seed: _plan_run(name, seed, resolved[name], config) for seed in config.seeds} for name in config.methods
    }
    known = {(dump_config(resolved[name]), seed): run for name, row in methods.items() for seed, run in row.items()}
    curve: dict[str, Row] = {
        name: {seed: known.get((dump_config(one), seed)) or _plan_run(name, seed, one, config) for seed in curve_seeds}
        for name, one in resolved.items()
        if name not in methods
    }
    return Plan(methods, curve)


def row_of_value(method: str, value: float) -> str:
    """Name of the row of one value of the curve; no method has a name with @."""
    return f"{method}@{_number(value)}"


def _number(value: float) -> str:
    return f"{value:.12g}"  # all that somebody writes, and no .0


def filters_of(method: str, config: CompareConfig) -> tuple[str, ...]:
    """The filters of a method's predictions that get a row."""
    if config.filters is None:
        return get_args(FilterName) if method == next(iter(config.methods)) else ()
    return config.filters.get(method, ())


def frames_trained_on(row: Row) -> int:
    """Frames that each run of a row learns from: steps x clips in a step x frames in a clip."""
    config = next(iter(row.values())).config
    return config.optim.steps * config.optim.batch * config.data.clip_length


def _changes(config: CompareConfig) -> dict[str, list[str]]:
    """What each row changes in the base, by its name."""
    changes = {name: [*config.set, *own] for name, own in config.methods.items()}
    curve = config.curve
    if curve is None or curve.method not in changes:
        return changes
    varied = changes[curve.method]
    return changes | {
        row_of_value(curve.method, value): [*varied, f"{curve.key}={_number(value)}"] for value in curve.values
    }


def _resolve_all(changes: Mapping[str, list[str]], config: CompareConfig) -> tuple[dict[str, Config], list[str]]:
    """The config of each row, and what is wrong with the others, once for all that share it."""
    resolved: dict[str, Config] = {}
    wrong: dict[str, list[str]] = {}
    for name, own in changes.items():
        try:
            resolved[name] = load_config(config.base, [*own, f"run.folder={json.dumps(str(config.out))}"])
        except InputError as error:
            wrong.setdefault(str(error), []).append(name)
    return resolved, [f"{', '.join(names)}: {text}" for text, names in wrong.items()]


def _check_parts(config: CompareConfig) -> list[str]:
    """Where one part of a comparison does not fit another."""
    there = f"there is {', '.join(config.methods)}"
    mistakes = [
        f"filters.{name}: no such method; {there}" for name in config.filters or {} if name not in config.methods
    ]
    if "constant" in config.methods:
        mistakes.append("methods.constant: a control has that name; choose another")
    if config.curve is not None and config.curve.method not in config.methods:
        mistakes.append(f"curve.method: {config.curve.method}: no such method; {there}")
    curve_seeds = config.curve.seeds if config.curve is not None and config.curve.seeds is not None else ()
    for where, seeds in (("seeds", config.seeds), ("curve.seeds", curve_seeds)):
        if len(set(seeds)) < len(seeds):
            mistakes.append(f"{where}: {list(seeds)}: each counts once")
    mistakes += scoring_mistakes(config.align, config.protocol)
    changed = {"set": config.set} | {f"methods.{name}": own for name, own in config.methods.items()}
    for where, own in changed.items():
        mistakes += [
            f"{where}: {change}: follows from `seeds` and `out`; leave it out"
            for change in own
            if change.partition("=")[0] in OUR_KEYS
        ]
    return mistakes


def _unfair(name: str, config: Config, first: str, other: Config) -> list[str]:
    """What `config` changes that a method may not change."""
    ours, theirs = values_of(config), values_of(other)
    return [
        f"{name}: {key}: {ours[key]} here, {theirs[key]} in {first}: methods share start, data and schedule: put it "
        f"under `set`, for all; a method may change {', '.join(METHOD_KEYS).replace('loss.,', 'loss.*,')}, and, marked "
        f"as another budget, {', '.join(BUDGET_KEYS)}"
        for key in ours
        if ours[key] != theirs[key] and not key.startswith((*METHOD_KEYS, *BUDGET_KEYS, *OUR_KEYS))
    ]


def _plan_run(row: str, seed: int, resolved: Config, config: CompareConfig) -> PlannedRun:
    name = f"{row}-{seed}"
    run = resolved.run.model_copy(update={"seed": seed, "folder": config.out / name})
    # The constant of the first method is a row of every table.
    constant = ("constant",) if row == next(iter(config.methods)) else ()
    return PlannedRun(name, resolved.model_copy(update={"run": run}), (*constant, *filters_of(row, config)))
