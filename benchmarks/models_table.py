"""Write the table of ready models: licence, size, speed, accuracy and temporal consistency.

    .venv/bin/python benchmarks/models_table.py --data runs/demo/data/test --out table.md
    .venv/bin/python benchmarks/models_table.py --data runs/demo/data/test --also runs/demo/plain runs/demo/steady

The models are those of `sd.list_models()`, and the folders or names of --also. A model whose weights are neither on
this machine nor available from the hub is listed without numbers. Speed is the time of a frame of --size in torch,
measured in turns. It depends on the machine and its other load; the order of the models depends less on them. Temporal
consistency is what `evaluate` measures on the clips of --data, of the model alone and behind the learned filter:
flicker along the flow in percent of depth, and abs_rel after one alignment per clip, as its claims require.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import steadydepth as sd
from steadydepth.errors import InputError
from steadydepth.exporters.bench import bench
from steadydepth.inference.predictor import load
from steadydepth.models.zoo import ReadyModel

HEAD = (
    "model",
    "numbers",
    "licence",
    "parameters",
    "frames/s",
    "ms",
    "flicker",
    "with filter",
    "abs_rel",
    "with filter",
)
MEASURED = ("flicker_flow", "abs_rel")


def scores(predictor: Any, data: Path) -> list[float | None]:
    """Each metric of the model alone, and behind the filter."""
    found = [sd.evaluate(predictor, data, controls=False, filter=filter)["mean"] for filter in ("none", "learned")]
    return [mean.get(metric) for metric in MEASURED for mean in found]


def table(models: list[ReadyModel], *, data: Path | None, size: tuple[int, int], seconds: float, threads: int) -> str:
    """The table in Markdown."""
    there = {}
    for model in models:
        try:
            there[model.name] = load(model.name)
        except InputError as error:
            logging.warning("%s: %s", model.name, str(error).splitlines()[0])
    height, width = size
    timed = bench(list(there), height=height, width=width, seconds=seconds, threads=threads)["models"] if there else {}
    rows = []
    for model in models:
        facts = [model.name, model.claims, model.licence]
        if (predictor := there.get(model.name)) is None:
            rows.append([*facts, *["not at hand"] * (len(HEAD) - len(facts))])
            continue
        millions = sum(weight.numel() for weight in predictor.model.parameters()) / 1e6
        speed = timed[model.name]
        measured = [None] * 4 if data is None else scores(predictor, data)
        numbers = ["" if value is None else f"{value:.3g}" for value in measured]
        rows.append([*facts, f"{millions:.1f} M", f"{speed['frames_per_s']:.1f}", f"{speed['p50_ms']:.0f}", *numbers])
    return "".join(f"| {' | '.join(line)} |\n" for line in (HEAD, ["---"] * len(HEAD), *rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="sequences with depth; without them no metric")
    parser.add_argument("--also", nargs="*", default=[], help="more models: what load takes")
    parser.add_argument("--size", default="192x256")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    models = list(sd.list_models())
    models += [ReadyModel(name, name, load(name).claims, "", "") for name in given.also]
    height, width = map(int, given.size.split("x"))
    text = table(models, data=given.data, size=(height, width), seconds=given.seconds, threads=given.threads)
    print(text, end="")
    if given.out is not None:
        given.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
