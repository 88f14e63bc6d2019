"""Measure a training step, as ratios in one run: each part runs its arms in turns, in an order drawn every round.

    python benchmarks/train_step.py --out train_step.json
    python benchmarks/train_step.py --parts a b --height 48 --width 64 --rounds 3

a  our loop, with its log lines, against a bare PyTorch loop with the same net, loss, optimizer and clipping
b  the relative loss and its gradient, as a share of the bare step: the change alone and as in the config, at the
   same pixel and along precomputed flow, and DIS flow in line
c  the network in channels_last against contiguous
d  bf16 against float32
e  checkpointing by encoder stage against none: activations kept for the backward pass, and time
f  waiting for data, as a share of a step, with the real loader
g  two processes against one, a thread and a core each, with twice the clips: speed over twice the speed; and against
   two independent runs side by side, the limit of the machine
h  rendering the clips of a step (`synthetic` of data.sources) against the step: new clips, and clips shown again in
   other light; of furniture with --assets, else of simple bodies. It takes minutes; only with --parts h

The net and the loss are those of configs/demo.yaml, without its loss of stills; the clips are made, unless --data names
a folder of them. A ratio is the median over the rounds, with its quartiles.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice, repeat
from pathlib import Path

import cv2
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from train_bench import Bench, Found, Spent, ratio, spread
from train_network import checkpointing, formats, precisions

from steadydepth.config import Config
from steadydepth.config_files import dump_config
from steadydepth.data.clips import clip_motion, fit_clip
from steadydepth.data.loader_workers import load_items
from steadydepth.data.rendered import CLIPS_AT_ONCE, RenderedSamples
from steadydepth.data.samples import Augmentation, Item
from steadydepth.method.pairing import pair_clips
from steadydepth.method.relative_loss import relative_loss
from steadydepth.ops.photometric import Photometric
from steadydepth.synthetic.world import make_world
from steadydepth.training.checkpoint import save_checkpoint
from steadydepth.training.loop import take_steps
from steadydepth.training.profile import StepClock
from steadydepth.training.setup import averaged_model, choose_losses, set_up, set_watchers
from steadydepth.training.state import pack
from steadydepth.types import Batch


def loop(bench: Bench) -> Found:
    """Part a; a checkpoint is timed by itself and shared out over the steps between two."""
    steps, (setup, state), bare = bench.asked.steps, set_up(bench.config), bench.bare_step()
    watchers, folder = set_watchers(setup), bench.config.run.folder
    folder.mkdir()

    def ours() -> None:
        nonlocal state
        state = take_steps(setup, state, watchers, bench.samples, repeat(bench.items, steps))

    def checkpoint() -> None:
        save_checkpoint(pack(state, watchers, setup.accelerator), folder)

    arms = {"ours": ours, "bare": lambda: [bare() for _ in range(steps)], "checkpoint": checkpoint}
    spent = bench.time(arms)
    step, between = statistics.median(spent["bare"]) / steps, bench.config.run.checkpoint_every
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        averaged_model(setup, state)(bench.batch.frames)
    return {
        "ours / bare": ratio(spent, "ours", "bare"),
        f"checkpoint / {between} steps": spread([one / between / step for one in spent["checkpoint"]]),
        "seconds of a bare step": spread([one / steps for one in spent["bare"]]),
        # torch counts the way back of a depthwise convolution wrongly; it takes about two passes there.
        "GFLOP/s, a step as three forwards": 3 * counter.get_total_flops() / step / 1e9,
    }


def relative(bench: Bench) -> Found:
    """Part b."""
    batch, (_, configured) = bench.batch, choose_losses(bench.config)
    still = replace(batch, motion=None, visible=None)
    predicted = batch.depth.clamp(min=0.3) * (1 + 0.1 * torch.rand_like(batch.depth))
    length = bench.asked.frames
    clips = [
        fit_clip(sequence.read(start, start + length), bench.asked.height, bench.asked.width)
        for sequence, start in bench.samples.clips[: bench.asked.clips]
    ]

    def correspondence(of: Batch, relative: Callable[..., Tensor] = configured) -> None:
        depth = predicted.clone().requires_grad_()
        pairs = pair_clips(depth, of)[0].pairs
        assert pairs is not None
        relative(*pairs).backward()

    def with_dis() -> None:
        for clip in clips:
            clip_motion(replace(clip, motion=None), "dis")
        correspondence(batch)

    arms = {
        "same pixel, change alone": partial(correspondence, still, relative_loss),
        "same pixel": partial(correspondence, still),
        "ready flow, change alone": partial(correspondence, batch, relative_loss),
        "ready flow": partial(correspondence, batch),
        "DIS in line": with_dis,
    }
    spent = bench.time(arms | {"step": bench.bare_step()})
    return {f"{name} / step": ratio(spent, name, "step") for name in arms}


def waiting(bench: Bench) -> Found:
    """Part f; the first steps, in which loader processes start, do not count."""
    found = {}
    for workers in dict.fromkeys((0, bench.asked.workers)):
        config = bench.make_config(f"wait{workers}", f"data.workers={workers}", "run.log_every=10000")
        (setup, state), clock, shares = set_up(config), StepClock(), []
        watchers = set_watchers(setup)
        items = load_items(bench.samples, batch=bench.asked.clips, workers=workers)
        setup, batches = clock.watch(setup, state.model, items)
        for _ in range(bench.asked.rounds + 1):
            clock.seconds.clear()
            part = islice(batches, bench.asked.steps)
            state = take_steps(setup, state, watchers, bench.samples, part, clock=clock)
            shares.append(clock.seconds["data wait"] / sum(clock.seconds.values()))
        found[f"data wait / step, {workers} loader processes"] = spread(shares[1:])
    return found


def processes(bench: Bench) -> Found:
    """Part g: complete runs."""
    rates: Spent = {"one": [], "two": [], "apart": []}
    for number in range(bench.asked.rounds):
        for name in bench.draw.sample(list(rates), len(rates)):
            begun = [
                start_run(bench, f"{name}{number}{core}", world=2 if name == "two" else 1, cores=core)
                for core in {"one": ["0"], "two": ["0-1"], "apart": ["0", "1"]}[name]
            ]
            rates[name].append(sum(clips_per_second(*one) for one in begun))

    return {
        "efficiency": spread([two / one / 2 for two, one in zip(rates["two"], rates["one"], strict=True)]),
        "two / two apart": ratio(rates, "two", "apart"),
    }


def start_run(bench: Bench, name: str, *, world: int, cores: str) -> tuple[subprocess.Popen[bytes], Config]:
    """A run of `world` processes, one thread each, every one with as many clips."""
    steps = bench.asked.steps
    sizes = [f"optim.batch={world * bench.asked.clips}", f"optim.steps={3 * steps}", f"run.log_every={steps}"]
    config = bench.make_config(name, *sizes)
    path = bench.folder / f"{name}.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    words = ["taskset", "-c", cores, "env", "OMP_NUM_THREADS=1", sys.executable]
    words += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    nowhere = subprocess.DEVNULL
    return subprocess.Popen([*words, "-m", "steadydepth", "train", "-c", path], stdout=nowhere, stderr=nowhere), config


def clips_per_second(process: subprocess.Popen[bytes], config: Config) -> float:
    """Of a run that has ended, from the first line of its log to the last."""
    if process.wait():
        raise SystemExit(f"{config.run.folder}: the run failed")
    lines = [
        json.loads(line) for line in (config.run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps, seconds = (lines[-1][name] - lines[0][name] for name in ("step", "seconds"))
    return config.optim.batch * steps / seconds


def rendering(bench: Bench) -> Found:
    """Part h."""
    asked = bench.asked
    # As strong as configs/ready.yaml has it, so that every part of it is computed.
    light = Photometric(exposure=0.12, white_balance=0.04, gamma=0.08, vignetting=0.06, noise=0.02, blur=0.3)
    augmentation = Augmentation(flip=True, photometric=light)

    def row(repeats: int) -> Iterator[Item]:
        samples = RenderedSamples(
            torch.device("cpu"), assets=asked.assets, textures=asked.textures, repeats=repeats, length=asked.frames,
            height=asked.height, width=asked.width, augmentation=augmentation, seed=0, numbers=range(10**6),
        )  # fmt: skip
        return samples.batches(CLIPS_AT_ONCE)

    new, again = row(1), row(10**6)
    spent = bench.time({"new": lambda: next(new), "again": lambda: next(again), "step": bench.bare_step()})
    share = asked.clips / CLIPS_AT_ONCE
    for name in ("new", "again"):
        spent[name] = [share * seconds for seconds in spent[name]]
    n_frames = asked.clips * asked.frames
    return {
        "new clips / step": ratio(spent, "new", "step"),
        "clips shown again / step": ratio(spent, "again", "step"),
        "new frames a second": spread([n_frames / seconds for seconds in spent["new"]]),
        "frames a second in a step": spread([n_frames / seconds for seconds in spent["step"]]),
    }


PARTS = {
    "a": loop,
    "b": relative,
    "c": formats,
    "d": precisions,
    "e": checkpointing,
    "f": waiting,
    "g": processes,
    "h": rendering,
}


def tell(part: str, found: Found) -> None:
    for name, value in found.items():
        shown = "{median:.4f}  ({low:.4f} to {high:.4f})".format(**value) if isinstance(value, dict) else f"{value:.4g}"
        print(f"{part}  {name:40} {shown}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "h"])
    parser.add_argument("--data", type=Path, help="sequence folders with flow; made in a temporary place without it")
    parser.add_argument("--assets", type=Path, help="models of part h, written by `steadydepth data assets`")
    parser.add_argument("--textures", type=Path, help="a folder of images of part h")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="in a round of parts a, f and g")
    parser.add_argument("--workers", type=int, default=1, help="loader processes of part f, besides none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a JSON file of all figures")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(asked.threads)
    logging.getLogger("steadydepth").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if asked.data is None:
            asked.data = folder / "data"
            size = {"height": asked.height, "width": asked.width}
            make_world(asked.data, n_clips=2 * asked.clips, seed=0, n_frames=2 * asked.frames, **size)
        bench = Bench(asked, folder)
        found = {}
        for part in asked.parts:
            found[part] = PARTS[part](bench)
            tell(part, found[part])
    if asked.out:
        sizes = {name: getattr(asked, name) for name in ("clips", "frames", "height", "width", "rounds", "threads")}
        asked.out.write_text(json.dumps({"asked": sizes, "found": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
