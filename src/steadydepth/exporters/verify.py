"""The proof of zero added cost: the model after training is the model before it but for the numbers in its weights."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from steadydepth.exporters.bench import Call, time_in_turn
from steadydepth.exporters.targets import trace
from steadydepth.files.atomic_writes import check_file, write_json
from steadydepth.models.load import load_model

LEAST_NOISE = 0.05  # a clock on a shared machine is no better, however alike two rounds happen to be
# Copies of each model that are timed: where the weights of one lie in memory makes it some percent faster or slower.
COPIES = 3
# What is timed: a copy of each model, and another copy of the first: as far apart as two of the same can be.
CALLS = ("before", "after", "again")


def verify(
    before: str, after: str, *, height: int = 96, width: int = 128, rounds: int = 15, out: str | Path | None = None
) -> dict[str, Any]:
    """Whether two models have the same parameters, the same graph at one frame of this size, and the same latency.

    A model with a state is compared at a frame that follows on another.

    Args:
        before: a model as `load_model` names it.
        after: another one.
        height: rows of the frame.
        width: columns of the frame.
        rounds: interleaved rounds of the clock for each of three copies of the models.
        out: a JSON file for what is returned.

    Returns: `same`, the verdict; `parameters` and `graph` list what differs; `latency` has the ratio after / before,
        the median of all rounds, and its noise: how far the ratio of a copy of `before` to another is from 1 in 95 % of
        the rounds.

    Raises:
        InputError: a model does not load, or cannot be traced, or `out` cannot be a file.
    """
    if out is not None:
        check_file(Path(out))
    models = [load_model(name) for name in (before, after)]
    frames = torch.rand((1, 1, 3, height, width), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shapes = [{name: tuple(value.shape) for name, value in model.state_dict().items()} for model in models]
        inputs = [_inputs(model, frames) for model in models]
        graphs = [_operators(model, given) for model, given in zip(models, inputs, strict=True)]
        latency = compare_latency((_copies(models, inputs) for _ in range(COPIES)), rounds=rounds)
    parameters, graph = _compare_shapes(*shapes), _compare_graphs(*graphs)
    found = {
        "before": before,
        "after": after,
        "size": [height, width],
        "same": not parameters and not graph and latency["same"],
        "parameters": {"tensors": len(shapes[0]), "different": parameters},
        "graph": {"operators": len(graphs[0]), "different": graph},
        "latency": latency,
        "weights_bytes": {name: _weights_bytes(name) for name in (before, after)},
    }
    if out is not None:
        write_json(Path(out), found)
    return found


def _compare_shapes(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    """Names that only one has, and names whose shapes differ."""
    lines = [f"{name}: only before" for name in before if name not in after]
    lines += [f"{name}: only after" for name in after if name not in before]
    both = [name for name in before if name in after and before[name] != after[name]]
    return lines + [f"{name}: {before[name]} before, {after[name]} after" for name in both]


def _inputs(model: nn.Module, frames: Tensor) -> tuple[Any, ...]:
    _, state = model(frames)
    return (frames, state) if state else (frames,)


def _operators(model: nn.Module, inputs: tuple[Any, ...]) -> list[str]:
    """The exported graph, an operator a line: its name, its inputs, and the shapes of its outputs."""
    graph = trace(model, inputs).graph
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    lines = []
    for node in (node for node in graph.nodes if node.op == "call_function"):
        given = torch.fx.map_arg((node.args, node.kwargs), lambda one: f"%{numbers[one]}")
        shapes = [list(one.shape) for one in _pytree.tree_leaves(node.meta.get("val")) if isinstance(one, Tensor)]
        lines.append(f"{node.target}{given} -> {shapes}")
    return lines


def _compare_graphs(before: list[str], after: list[str]) -> list[str]:
    """The first operator that differs, and how many there are."""
    lines = [f"{len(before)} operators before, {len(after)} after"] if len(before) != len(after) else []
    for number, (one, other) in enumerate(zip(before, after, strict=False)):
        if one != other:
            return [*lines, f"operator {number}: {one} before, {other} after"]
    return lines


def _copies(models: Sequence[nn.Module], inputs: Sequence[tuple[Any, ...]]) -> dict[str, Call]:
    def call(number: int) -> Call:
        model, given = copy.deepcopy(models[number]), inputs[number]
        return lambda: model(*given)

    return dict(zip(CALLS, map(call, (0, 1, 0)), strict=True))


def compare_latency(
    copies: Iterable[dict[str, Call]], *, rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Latency of two models, their copies timed one after the other, the calls of a copy in turns.

    Args:
        copies: the `CALLS` of each copy; made when their turn comes.
        rounds: of each copy.
        clock: gives seconds.

    Returns: `ratio` after / before, `noise` of the ratio again / before, whether the first is within the second of 1
        (`same`), the number of `rounds` in all, and medians in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in CALLS}
    for calls in copies:
        for name, spent in time_in_turn(calls, rounds=rounds, clock=clock).items():
            times[name] += spent
    first, second, third = times.values()
    ratio = statistics.median(after / before for after, before in zip(second, first, strict=True))
    apart = sorted(abs(again / one - 1) for again, one in zip(third, first, strict=True))
    noise = max(apart[min(round(0.95 * len(apart)), len(apart) - 1)], LEAST_NOISE)
    return {
        "same": abs(ratio - 1) <= noise,
        "ratio": ratio,
        "noise": noise,
        "rounds": len(apart),
        "seconds_before": statistics.median(first),
        "seconds_after": statistics.median(second),
    }


def _weights_bytes(name: str) -> int | None:
    """Size of the weights in a folder; None for what is no folder here."""
    folder = Path(name.partition(",")[0])
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else None
