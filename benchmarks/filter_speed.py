"""Measure the cost of the learned filter against a network: both in ONNX Runtime, in turns, in one run.

    .venv/bin/python benchmarks/filter_speed.py --model runs/demo/steady --size 192x256

The model is exported first, unless it is a file. A turn is one frame of a moving view through the model, through the
filter (optical flow, warps and its network: all of it), and through the flow alone. Times are
processor times at the 10th percentile of all turns, as machines are shared; compare the ratios. Each uses one thread.
"""

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from steadydepth.cli.printing import pair
from steadydepth.exporters.export import export_model
from steadydepth.exporters.export_filter import export_filter
from steadydepth.inference.filter_runtime import ExportedFilter
from steadydepth.inference.predictor import load
from steadydepth.inference.runtime import ExportedModel, is_exported
from steadydepth.ops.fast_flow import fast_flow
from steadydepth.ops.filter_step import guide_factor
from steadydepth.synthetic.world import make_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder that train wrote, or an exported file")
    parser.add_argument("--size", default="192x256", help="rows and columns of the frames")
    parser.add_argument("--filter", default="learned", help="learned, or a folder that tune-filter wrote")
    parser.add_argument("--turns", type=int, default=100)
    asked = parser.parse_args()
    height, width = pair(asked.size, "x", "--size", "192x256")
    cv2.setNumThreads(1)
    clip = make_clip(1, fixed_camera=False, n_frames=12, height=height, width=width)
    factor = guide_factor(height, width)
    guides = [cv2.resize(one, (width // factor, height // factor), interpolation=cv2.INTER_AREA) for one in clip.frames]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(asked.model)
        if not is_exported(path):
            path = Path(folder) / "model.onnx"
            export_model(load(asked.model, device="cpu").model, path, to="onnx", height=height, width=width)
        model = ExportedModel(path, threads=1)
        learned = ExportedFilter(
            export_filter(Path(folder) / "filter.onnx", filter=asked.filter), model.claims, threads=1
        )
        state, times = None, {"model": [], "filter": [], "flow": []}
        for turn in range(asked.turns + 5):
            image = clip.frames[turn % 12]
            begun = time.process_time()
            depth = model.predict(image)
            predicted = time.process_time()
            _, state = learned.step(depth, image, state)
            filtered = time.process_time()
            fast_flow(guides[turn % 12], guides[(turn + 11) % 12])
            times["model"].append(predicted - begun)
            times["filter"].append(filtered - predicted)
            times["flow"].append(time.process_time() - filtered)
    fast = {name: 1e3 * float(np.quantile(values[5:], 0.1)) for name, values in times.items()}
    for name, value in fast.items():
        print(f"{name}: {value:.2f} ms")
    print(f"filter alone: {1e3 / fast['filter']:.0f} frames/s")
    print(f"model with filter / model: {1 + fast['filter'] / fast['model']:.3f}")


if __name__ == "__main__":
    main()
