"""The proof of zero added cost: the model after training is the model before it but for the numbers in its weights."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree

from steadydepth.errors import InputError
from steadydepth.exporters.bench import time_in_turn
from steadydepth.files.atomic_writes import new_file
from steadydepth.models.load import load_model

LEAST_NOISE = 0.05  # a clock on a shared machine is no better, however alike two rounds happen to be


def verify(
    before: str, after: str, *, height: int = 96, width: int = 128, rounds: int = 15, out: Path | None = None
) -> dict[str, Any]:
    """Whether two models have the same parameters, the same graph at one frame of this size, and the same latency.

    `same` is the verdict; `parameters` and `graph` list what differs; `latency` has the ratio after / before, the
    median of `rounds` interleaved rounds, and its noise: how far the ratio of `before` to itself is from 1 in 95 % of
    them. JSON to `out`.
    InputError when either does not load.
    """
    models = [load_model(name) for name in (before, after)]
    frames = torch.rand((1, 1, 3, height, width), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        shapes = [_shapes(model) for model in models]
        graphs = [_operators(model, frames) for model in models]
        latency = compare_latency(*(_call(model, frames) for model in models), rounds=rounds)
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
        with new_file(out) as part:
            part.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return found


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def _compare_shapes(before: dict[str, tuple[int, ...]], after: dict[str, tuple[int, ...]]) -> list[str]:
    """Names that only one has, and names whose shapes differ."""
    said = [f"{name}: only before" for name in before if name not in after]
    said += [f"{name}: only after" for name in after if name not in before]
    both = [name for name in before if name in after and before[name] != after[name]]
    return said + [f"{name}: {before[name]} before, {after[name]} after" for name in both]


def _operators(model: nn.Module, frames: Tensor) -> list[str]:
    """The exported graph, an operator a line: what it is, what it is given, and the shapes that it gives."""
    try:
        graph = torch.export.export(model, (frames,), strict=False).graph
    except (RuntimeError, TypeError, torch._dynamo.exc.TorchDynamoException) as error:
        raise InputError(f"torch.export cannot trace the model: {' '.join(str(error).split())[:300]}") from error
    numbers = {node: number for number, node in enumerate(graph.nodes)}
    return [_line(node, numbers) for node in graph.nodes if node.op == "call_function"]


def _line(node: Node, numbers: dict[Node, int]) -> str:
    given = torch.fx.map_arg((node.args, node.kwargs), lambda one: f"%{numbers[one]}")
    shapes = [list(one.shape) for one in _pytree.tree_leaves(node.meta.get("val")) if isinstance(one, Tensor)]
    return f"{node.target}{given} -> {shapes}"


def _compare_graphs(before: list[str], after: list[str]) -> list[str]:
    """The first operator that differs, and how many there are."""
    said = [f"{len(before)} operators before, {len(after)} after"] if len(before) != len(after) else []
    for number, (one, other) in enumerate(zip(before, after, strict=False)):
        if one != other:
            return [*said, f"operator {number}: {one} before, {other} after"]
    return said


def _call(model: nn.Module, frames: Tensor) -> Callable[[], Any]:
    return lambda: model(frames)


def compare_latency(
    before: Callable[[], Any],
    after: Callable[[], Any],
    *,
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Seconds of two calls taken in turns: before, after, before again; the third says what the clock's noise is."""
    calls = {"before": before, "after": after, "again": before}
    first, second, third = time_in_turn(calls, rounds=rounds, clock=clock).values()
    ratio = _median_ratio(second, first)
    apart = sorted(abs(again / one - 1) for again, one in zip(third, first, strict=True))
    noise = max(apart[min(round(0.95 * rounds), rounds - 1)], LEAST_NOISE)
    return {
        "same": abs(ratio - 1) <= noise,
        "ratio": ratio,
        "noise": noise,
        "rounds": rounds,
        "seconds_before": statistics.median(first),
        "seconds_after": statistics.median(second),
    }


def _median_ratio(after: Sequence[float], before: Sequence[float]) -> float:
    return statistics.median(one / other for one, other in zip(after, before, strict=True))


def _weights_bytes(name: str) -> int | None:
    """Size of the weights in a folder; None for what is no folder here."""
    folder = Path(name.partition(",")[0])
    return sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else None
