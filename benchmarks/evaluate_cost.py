"""Measure the cost of evaluate: frames a second against decoding the same files alone, and memory by clip length.

    .venv/bin/python benchmarks/evaluate_cost.py --frames 100 2000 --root runs/cost

One synthetic clip is written, and repeated back and forth by links to any length. The jobs: `decode` reads every file;
`plain` evaluates with all labels; `controls` adds the controls; `video` has frames only, without labels and controls.
Each number comes from a process of its own, on --threads threads. Run it on an idle machine.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

# A process starts with the peak of the one that started it: everything large is imported in the children alone.
KINDS = {"rgb": ".png", "depth": ".png", "objects": ".png", "flow": ".png"}


def make(root: Path, height: int, width: int, n_frames: int, n_drawn: int) -> None:
    """ROOT/data/<clip> of `n_frames` frames and ROOT/predictions/<clip>.npz, from a clip of `n_drawn` frames."""
    import numpy as np

    from steadydepth.data.sequence_folder import open_sequence
    from steadydepth.files.predictions import write_predictions
    from steadydepth.files.sequence_writer import write_sequence
    from steadydepth.synthetic.world import DEPTH_SCALE_M, make_clip

    drawn = root / "drawn" / f"moving_000007_{height}x{width}"
    if not drawn.exists():
        clip = make_clip(7, fixed_camera=False, n_frames=n_drawn, height=height, width=width)
        written = write_sequence(root / "drawn", clip, depth_scale_m=DEPTH_SCALE_M, source=None, licence=None)
        written.rename(drawn)
    target, video = (root / str(n_frames) / what / "clip" for what in ("data", "video"))
    if video.exists():
        return
    there_and_back = [*range(n_drawn), *range(n_drawn - 2, 0, -1)]
    order = [there_and_back[t % len(there_and_back)] for t in range(n_frames)]
    for kind, suffix in KINDS.items():
        (target / kind).mkdir(parents=True)
        for t, source in enumerate(order[: n_frames - (kind == "flow")]):
            # The flow of the way back is not that of the label: it costs the same.
            name = f"{min(source, n_drawn - 2) if kind == 'flow' else source:04d}{suffix}"
            os.link(drawn / kind / name, target / kind / f"{t:04d}{suffix}")
    meta = json.loads((drawn / "meta.json").read_text(encoding="utf-8"))
    meta["cam_to_world"] = [meta["cam_to_world"][t] for t in order]
    (target / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    (video / "rgb").mkdir(parents=True)
    for image in (target / "rgb").iterdir():
        os.link(image, video / "rgb" / image.name)
    (video / "meta.json").write_text(json.dumps({"fps": meta["fps"]}), encoding="utf-8")
    truth, generator = open_sequence(drawn).read().depth, np.random.default_rng(0)
    raw = root / "depth.raw"
    depth = np.memmap(raw, np.float32, "w+", shape=(n_frames, height, width))
    for t, source in enumerate(order):
        depth[t] = 1 / (truth[source] * np.exp(0.05 * generator.normal())) + 0.1
    write_predictions(root / str(n_frames) / "predictions", "clip", depth, "disparity")
    raw.unlink()


def measure(what: str, folder: Path) -> dict[str, float]:
    """Wall and CPU seconds of one job on the clip of `folder`, without the imports, and the peak memory in MB."""
    import cv2
    import torch

    from steadydepth.data.sequence_folder import open_sequence
    from steadydepth.evaluation.evaluate import evaluate
    from steadydepth.files.stored_depth import open_predictions

    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    wall, cpu = time.perf_counter(), time.process_time()
    if what == "decode":
        sequence = open_sequence(folder / "data" / "clip")
        for t in range(sequence.n_frames):
            sequence.read_frames(t, t + 1)
            for kind in ("depth", "objects", "flow"):
                sequence.read_label(kind, t)
        for _ in open_predictions(folder / "predictions", "clip").read():
            pass
    else:
        evaluate(folder / "predictions", folder / ("video" if what == "video" else "data"), controls=what == "controls")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "peak_mb": peak}


def call(*words: str, threads: int) -> str:
    command = [sys.executable, __file__, *words]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, nargs="+", default=[100, 2000], help="lengths of the clip")
    parser.add_argument("--height", type=int, default=192)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--drawn", type=int, default=24, help="frames that are drawn, and walked back and forth")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--root", type=Path, default=Path("runs/cost"), help="folder that gets the clips")
    parser.add_argument("--jobs", nargs="+", default=["decode", "plain", "controls", "video"])
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make is not None:
        make(options.root, options.height, options.width, options.make, options.drawn)
        return
    if options.measure is not None:
        print(json.dumps(measure(options.measure, options.root)))
        return
    print("| frames | job | frames / s | CPU ms / frame | times decoding | peak MB |")
    print("| --- | --- | --- | --- | --- | --- |")
    for n_frames in options.frames:
        sizes = ("--height", str(options.height), "--width", str(options.width), "--drawn", str(options.drawn))
        call("--make", str(n_frames), "--root", str(options.root), *sizes, threads=options.threads)
        decoding = 0.0
        for job in options.jobs:
            folder = options.root / str(n_frames)
            found = json.loads(call("--measure", job, "--root", str(folder), threads=options.threads))
            decoding = decoding or found["cpu_s"]
            print(
                f"| {n_frames} | {job} | {n_frames / found['wall_s']:.1f} | {1000 * found['cpu_s'] / n_frames:.1f} | "
                f"{found['cpu_s'] / decoding:.1f} | {found['peak_mb']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
