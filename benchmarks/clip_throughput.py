"""Measure clips a second from loose PNG and from shards, against decoding and resizing the same files alone.

    python benchmarks/clip_throughput.py                     # synthetic frames and depth at 640x480
    python benchmarks/clip_throughput.py --data DATA --size 192x256 --workers 1 2

DATA is packed in three ways into a temporary folder, and all are read in turns. For each it prints bytes and RGB-D
frames a second, then clips a second of the loader with each number of processes, as a share of the rate of one process
that only decodes and resizes, times the number of processes. Numbers are medians over all rounds. Run with
OMP_NUM_THREADS=1 on an idle machine.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from steadydepth.data.clips import fit_clip
from steadydepth.data.loader import ClipSamples
from steadydepth.data.loader_workers import load_items
from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.shards.read import INDEX, MEMBERS
from steadydepth.data.shards.write import pack
from steadydepth.files.sequence_writer import write_sequence
from steadydepth.synthetic.world import make_clip
from steadydepth.types import Clip

LENGTH = 4


def make_data(root: Path, n_frames: int) -> None:
    """Two rooms of the synthetic world at 640x480 with a camera's noise, and depth in millimetres with its own."""
    noise = np.random.default_rng(0)
    for seed in (3, 4):
        room = make_clip(seed, fixed_camera=False, n_frames=4, height=480, width=640)
        numbers = np.arange(n_frames) % 4
        assert room.depth is not None
        frames = room.frames[numbers] + noise.normal(0, 2, (n_frames, 480, 640, 3))
        # Of a structured-light camera: it grows with the square of the distance.
        depth = room.depth[numbers] + 0.0015 * room.depth[numbers] ** 2 * noise.standard_normal((n_frames, 480, 640))
        clip = Clip(
            room.name, np.clip(np.rint(frames), 0, 255).astype(np.uint8), 30.0,
            depth=depth.astype(np.float32), valid=depth > 0,
        )  # fmt: skip
        write_sequence(root, clip, depth_scale_m=0.001, source=None, licence=None)


def per_second(parts: Iterator[int], seconds: float) -> float:
    """The sum of what comes in that time, a second."""
    done, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        done += next(parts)
    return done / passed


def read_frames(sequences: list[Sequence], fit: Callable[[Clip], Clip]) -> Iterator[int]:
    starts = [(one, start) for one in sequences for start in range(0, one.n_frames - LENGTH + 1, LENGTH)]
    for sequence, start in itertools.cycle(starts):
        yield len(fit(sequence.read(start, start + LENGTH)).frames)


def load_clips(root: Path, size: tuple[int, int], workers: int) -> Iterator[int]:
    samples = ClipSamples(
        root, length=LENGTH, height=size[0], width=size[1], motion="none", labels="depth",
        seed=0, cached_clips=0, numbers=range(10**6),
    )  # fmt: skip
    batches = load_items(samples, batch=4, workers=workers)
    # The first ones wait for the processes to start; then what is made ahead is steady.
    for _ in range(2 * max(workers, 1) + 2):
        next(batches)
    return (len(items["frames"]) for items in batches)


def n_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file() and path.name not in (INDEX, MEMBERS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--frames", type=int, default=24, help="of each video, without --data")
    parser.add_argument("--size", default="192x256", help="of training")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    height, width = (int(side) for side in options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        loose = options.data or Path(folder) / "loose"
        if options.data is None:
            make_data(loose, options.frames)
        roots = {"loose PNG": loose}
        for name, settings in (
            ("shards, png", {"codec": "png"}),
            ("shards, zstd", {"codec": "zstd"}),
            (f"shards, zstd, {options.size}", {"codec": "zstd", "size": (height, width)}),
        ):
            roots[name] = Path(folder) / name.replace(", ", "_")
            pack(loose, roots[name], **settings)
        report(roots, (height, width), options)


def report(roots: dict[str, Path], size: tuple[int, int], options: argparse.Namespace) -> None:
    opened = {name: [open_sequence(path) for path in find_sequences(root)] for name, root in roots.items()}
    fits: dict[str, Callable[[Clip], Clip]] = {
        "decode": lambda clip: clip,
        "resize": lambda clip: fit_clip(clip, *size),
    }
    speeds: dict[tuple[str, str], list[float]] = {}
    # In turns, so that what else the machine does falls on all of them.
    for _ in range(options.rounds):
        for name, root in roots.items():
            for kind, fit in fits.items():
                speeds.setdefault((name, kind), []).append(per_second(read_frames(opened[name], fit), options.seconds))
            for workers in options.workers:
                speed = per_second(load_clips(root, size, workers), options.seconds)
                speeds.setdefault((name, str(workers)), []).append(speed)
    middle = {key: statistics.median(values) for key, values in speeds.items()}
    for name, root in roots.items():
        bytes_share, frame_rate = n_bytes(root) / n_bytes(roots["loose PNG"]), middle[name, "decode"]
        limit = middle[name, "resize"] / LENGTH
        print(f"{name}: {bytes_share:.1%} of the bytes, {frame_rate:.0f} RGB-D frames/s decoded", end="")
        print(f" ({frame_rate / middle['loose PNG', 'decode']:.2f}x), limit {limit:.1f} clips/s", end="")
        for workers in options.workers:
            clips = middle[name, str(workers)]
            print(f"; {workers} worker(s) {clips:.1f} ({clips / limit / max(workers, 1):.0%} of the limit)", end="")
        print()


if __name__ == "__main__":
    main()
