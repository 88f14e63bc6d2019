"""What a GPU is for, in one script: speed of the rendered world and of training steps, and the ready model.

    python benchmarks/gpu.py speed --assets runs/ready/assets.npz --weights package
    python benchmarks/gpu.py ready --assets runs/ready/assets.npz --weights package --minutes 8 --out runs/ready

`ready` trains three networks: `base`, and from it `steady` and `plain`, with and without the relative loss for the
same number of steps. It measures a step first, and takes as many as the minutes allow.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from steadydepth.config import Config
from steadydepth.config_files import load_config
from steadydepth.data.loader import make_batch
from steadydepth.synthetic.assets import load_assets
from steadydepth.synthetic.batched import World
from steadydepth.training.loop import open_samples, train
from steadydepth.training.setup import set_up
from steadydepth.training.step import take_step

ROOT = Path(__file__).parents[1]
BASE_SHARE = 0.62  # of the time; the rest is shared by the two that go on from it


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "ready"))
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "ready.yaml")
    parser.add_argument("--steady-config", type=Path, default=ROOT / "configs" / "ready_steady.yaml")
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--textures", type=Path)
    parser.add_argument("--weights", default="package")
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/ready"))
    parser.add_argument("--set", nargs="*", default=[])
    arguments = parser.parse_args()
    print(json.dumps({"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}), flush=True)
    (measure_speed if arguments.what == "speed" else make_ready)(arguments)


def configure(path: Path, arguments: argparse.Namespace, **changes: Any) -> Config:
    """The config with the files of this machine, and what --set says."""
    values = [f"model.weights={arguments.weights}", *arguments.set]
    values += [f"{key}={value}" for key, value in changes.items()]
    config = load_config(path, values)
    data = config.model_dump()
    data["data"]["sources"][0]["synthetic"] |= {"assets": arguments.assets, "textures": arguments.textures}
    if not torch.cuda.is_available():
        data["run"]["precision"] = "no"
    return Config.model_validate(data)


def measure_speed(arguments: argparse.Namespace) -> None:
    """Rendered clips a second, and the parts of a training step, eager and compiled."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configure(arguments.config, arguments, **{"run.folder": arguments.out / "speed", "optim.steps": 1000})
    world = World(device, load_assets(arguments.assets) if arguments.assets else None)
    for n_clips in (8, 32):
        for seed in range(2):  # memory is asked for once
            world.clips(seed, n_clips=n_clips, n_frames=2, height=config.data.height, width=config.data.width)
        finish()
        started, rounds = time.perf_counter(), 5
        for seed in range(rounds):
            with torch.no_grad():
                world.clips(seed, n_clips=n_clips, n_frames=2, height=config.data.height, width=config.data.width)
        finish()
        per_second = 2 * n_clips * rounds / (time.perf_counter() - started)
        print(json.dumps({"rendered frames a second": round(per_second, 1), "clips at once": n_clips}), flush=True)
    del world
    for is_compiled in (False, True):
        changes = {"run.compile": is_compiled, "run.folder": arguments.out / f"speed{is_compiled:d}"}
        seconds = time_steps(
            configure(arguments.config, arguments, **changes), steps=25 if torch.cuda.is_available() else 2
        )
        print(json.dumps({"compiled": is_compiled} | seconds), flush=True)


def time_steps(config: Config, *, steps: int) -> dict[str, float]:
    """Median seconds of the parts of a step, after the first ones."""
    setup, state = set_up(config)
    device = setup.accelerator.device
    samples = open_samples(config, 0, 0, 1, device)
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
    found = {name: round(sorted(one[5:] or one)[len(one[5:] or one) // 2], 4) for name, one in parts.items()}
    return found | {"target": round(float(terms.target), 4), "memory, GiB": round(peak_gib(), 1)}


def make_ready(arguments: argparse.Namespace) -> None:
    """Train base, steady and plain within the minutes; models in 16 bits and their logs stay in --out."""
    begin, out = time.perf_counter(), arguments.out
    out.mkdir(parents=True, exist_ok=True)
    base = configure(arguments.config, arguments, **{"run.folder": out / "base"})
    parts = time_steps(base, steps=25 if torch.cuda.is_available() else 2)
    print(json.dumps(parts), flush=True)
    left = arguments.minutes * 60 - (time.perf_counter() - begin)
    total = int(left / (parts["render"] + parts["step"]))
    steps = {"base": max(2, int(BASE_SHARE * total))}
    # A relative loss costs something as well: a tenth.
    steps["steady"] = steps["plain"] = max(2, int((1 - BASE_SHARE) / 2.1 * total))
    print(json.dumps({"steps": steps}), flush=True)
    for name, config in (
        ("base", arguments.config),
        ("steady", arguments.steady_config),
        ("plain", arguments.steady_config),
    ):
        changes: dict[str, Any] = {"run.folder": out / name, "optim.steps": steps[name]}
        if name != "base":
            changes["model.init"] = out / "base"
        if name == "plain":
            changes["loss.relative_weight"] = 0
        train(configure(config, arguments, **changes))
        shrink(out / name)
        print(json.dumps({"done": name, "seconds": round(time.perf_counter() - begin)}), flush=True)


def shrink(folder: Path) -> None:
    """The model in 16 bits, beside its config and its log, for a small file to carry."""
    weights = load_file(folder / "model.safetensors")
    half = {name: part.half() if part.is_floating_point() else part for name, part in weights.items()}
    save_file(half, folder / "model.fp16.safetensors")


def finish() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_gib() -> float:
    """Most memory of the device that was in use."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0


if __name__ == "__main__":
    main()
