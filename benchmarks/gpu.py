"""Use a GPU: measure the rendered world and training steps, and train the ready model.

    python benchmarks/gpu.py speed --assets runs/ready/assets.npz --weights package
    python benchmarks/gpu.py base --assets runs/ready/assets.npz --minutes 5 --out runs/ready
    python benchmarks/gpu.py second --assets runs/ready/assets.npz --minutes 4 --out runs/ready

`base` continues from the model of the package for accuracy (`--init none` starts from the encoder alone, `--init RUN`
from another model). `second` continues from `base` with the relative loss (`steady`) and without it (`plain`), side by
side. Both measure a step first, and do as many steps as the minutes allow. SIGTERM ends a run and keeps its weights.
"""

import argparse
import json
import signal
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
from pack_model import pack_weights

from steadydepth.config import Config
from steadydepth.config_files import load_config
from steadydepth.data.samples import make_batch
from steadydepth.synthetic.assets import load_assets
from steadydepth.synthetic.batched import World
from steadydepth.synthetic.places import draw_scenes
from steadydepth.training.checkpoint import load_checkpoint, save_model
from steadydepth.training.loop import train
from steadydepth.training.samples import open_samples
from steadydepth.training.setup import set_up
from steadydepth.training.step import take_step

ROOT = Path(__file__).parents[1]
WRITING_S = 10.0  # that a run takes beside its steps
LARGE = ["run.precision=bf16", "optim.batch=64", "data.height=192", "data.width=256"]  # on a GPU, unless --set differs


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "base", "second"))
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ready_steady.yaml")
    parser.add_argument("--init", default="steadydepth-small")
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--weights", default="package")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/ready"))
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    print(json.dumps({"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}), flush=True)
    {"speed": measure_speed, "base": make_base, "second": make_second}[arguments.what](arguments)


def configure(path: Path, arguments: argparse.Namespace, **changes: Any) -> Config:
    """The config with the files of this machine, and what --set says."""
    values = [f"model.weights={arguments.weights}"]
    values += [f"{key}={'null' if value is None else value}" for key, value in changes.items()]
    values += (LARGE if torch.cuda.is_available() else []) + arguments.set
    config = load_config(path, values)
    data = config.model_dump()
    if config.model.init is None:  # the network of the first stage
        data["model"] = load_config(ROOT / "configs" / "ready.yaml", values).model.model_dump()
    synthetic = data["data"]["sources"][0]["synthetic"]
    synthetic |= {"assets": arguments.assets, "textures": arguments.textures, "keep": None}
    if torch.cuda.is_available():
        synthetic["repeats"] = 2  # it renders as fast as it learns
    return Config.model_validate(data)


@torch.no_grad()
def render(world: World, seed: int, n_clips: int, config: Config) -> None:
    scenes = draw_scenes(seed, world.pool, n_scenes=n_clips, n_frames=2)
    world.render(scenes, height=config.data.height, width=config.data.width)


def measure_speed(arguments: argparse.Namespace) -> None:
    """Rendered clips a second, and the parts of a training step, eager and compiled."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    init = None if arguments.init == "none" else arguments.init
    common = {"model.init": init, "optim.steps": 1000}
    config = configure(arguments.config, arguments, **common, **{"run.folder": arguments.out / "speed"})
    world = World(device, load_assets(arguments.assets) if arguments.assets else None)
    for n_clips in (8, 32):
        for seed in range(2):  # memory is asked for once
            render(world, seed, n_clips, config)
        finish()
        started, rounds = time.perf_counter(), 5
        for seed in range(rounds):
            render(world, seed, n_clips, config)
        finish()
        per_second = 2 * n_clips * rounds / (time.perf_counter() - started)
        print(json.dumps({"rendered frames a second": round(per_second, 1), "clips at once": n_clips}), flush=True)
    del world
    for is_compiled in (False, True):
        changes = common | {"run.compile": is_compiled, "run.folder": arguments.out / f"speed{is_compiled:d}"}
        seconds = time_steps(
            configure(arguments.config, arguments, **changes), steps=25 if torch.cuda.is_available() else 2
        )
        print(json.dumps({"compiled": is_compiled} | seconds), flush=True)


def time_steps(config: Config, *, steps: int) -> dict[str, float]:
    """Seconds of the parts of a step, after the first ones: the median, and of rendering the mean."""
    setup, state = set_up(config)
    device = setup.accelerator.device
    samples = open_samples(config, 0, 0, 1, device=device)
    batches = samples.batches(config.optim.batch)  # type: ignore[union-attr]
    parts: dict[str, list[float]] = {"render": [], "step": []}
    started = time.perf_counter()
    for number in range(steps):
        begin = time.perf_counter()
        batch = make_batch(next(batches), device)
        finish()
        middle = time.perf_counter()
        state, terms = take_step(setup, state, batch)
        finish()
        parts["render"].append(middle - begin)
        parts["step"].append(time.perf_counter() - middle)
        if number == 0:
            print(json.dumps({"first step, s": round(time.perf_counter() - started, 1)}), flush=True)
    # Clips are rendered sixteen at a time: of small batches most find theirs rendered.
    rendering, stepping = (one[5:] or one for one in parts.values())
    found = {"render": round(fmean(rendering), 4), "step": round(median(stepping), 4)}
    return found | {"target": round(float(terms.target), 4), "memory, GiB": round(peak_gib(), 1)}


def make_base(arguments: argparse.Namespace) -> None:
    """Train for accuracy alone, for as many steps as the minutes allow."""
    begin = time.perf_counter()
    init = None if arguments.init == "none" else arguments.init
    changes: dict[str, Any] = {"model.init": init, "run.folder": arguments.out / "base", "loss.relative_weight": 0}
    second = sum(measure(configure(arguments.config, arguments, **changes)))
    steps = max(2, int((arguments.minutes * 60 - (time.perf_counter() - begin) - WRITING_S) / second))
    run(configure(arguments.config, arguments, **changes, **{"optim.steps": steps}))


def make_second(arguments: argparse.Namespace) -> None:
    """Go on with and without the relative loss side by side, for equally many steps."""
    begin = time.perf_counter()
    changes: dict[str, Any] = {"model.init": arguments.out / "base", "run.folder": arguments.out / "steady"}
    changes |= {"loss.relative_weight": 1.5, "loss.relative_ramp": 0.1}
    second = sum(measure(configure(arguments.config, arguments, **changes)))
    # Two of them share the device.
    steps = max(2, int((arguments.minutes * 60 - (time.perf_counter() - begin) - WRITING_S) / (2 * second)))
    runs = []
    for name, weight in (("steady", {}), ("plain", {"loss.relative_weight": 0})):
        changes |= {"run.folder": arguments.out / name, "optim.steps": steps} | weight
        config = configure(arguments.config, arguments, **changes)
        runs.append(get_context("spawn").Process(target=run, args=(config,)))
        runs[-1].start()
    # `timeout` ends all of them together: the two write their models then, and this one waits for that.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for one in runs:
        one.join()


def measure(config: Config) -> tuple[float, float]:
    """Seconds of rendering and of a step."""
    parts = time_steps(config, steps=25 if torch.cuda.is_available() else 2)
    print(json.dumps(parts), flush=True)
    return parts["render"], parts["step"]


def run(config: Config) -> None:
    """Train, or go on; what is there after SIGTERM is kept as a model as well."""
    begin, folder = time.perf_counter(), config.run.folder
    train(config)
    if not (folder / "model.safetensors").is_file():
        checkpoint, (_, state) = load_checkpoint(folder), set_up(config)
        assert checkpoint is not None
        state.average.load_state_dict(checkpoint["average"])
        save_model(state.average.module, folder)
    pack_weights(folder / "model.safetensors", folder / "model.fp16.safetensors")
    seconds = round(time.perf_counter() - begin)
    print(json.dumps({"done": str(folder), "steps": config.optim.steps, "seconds": seconds}), flush=True)


def finish() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Most memory of the device that was in use."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


if __name__ == "__main__":
    main()
