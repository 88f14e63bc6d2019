"""Measure the time from video file to depth, against its parts, timed in turns in one run.

    .venv/bin/python benchmarks/predict_speed.py --model steady.onnx

On the same frames it times decoding alone, the model alone (with its pre- and postprocessing), and the stream of the
file, which decodes ahead in a thread; a share above 100 % is the gain of this overlap. Then follow the formats of
predict, writing included. All take turns, --rounds times; numbers are medians. For an exported file it last prints what
a call (uint8 image to float32 depth of its size) costs over its bare network, and the same with the image processor of
transformers before and after that network.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch

from steadydepth.exporters.bench import time_in_turn
from steadydepth.files.video_read import read_video
from steadydepth.files.video_write import write_video
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor, load
from steadydepth.inference.runtime import ExportedModel, is_exported
from steadydepth.ops.resize import fit_image
from steadydepth.synthetic.world import make_clip


def film(n_frames: int, height: int, width: int) -> Iterator[np.ndarray]:
    """The synthetic world there and back, enlarged: what moves as a film does, and costs nothing to make."""
    frames = make_clip(0, fixed_camera=False, n_frames=12, height=96, width=128).frames
    there_and_back = [*range(12), *range(10, 0, -1)]
    for number in range(n_frames):
        yield cv2.resize(frames[there_and_back[number % 22]], (width, height), interpolation=cv2.INTER_CUBIC)


def seconds_of(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass


def all_parts(predictor: Predictor, video: Path, frames: list[np.ndarray], folder: Path) -> dict[str, float]:
    """Seconds of each part and of each total, for all frames."""
    spent = {
        "decode": seconds_of(lambda: exhaust(read_video(video))),
        "model": seconds_of(lambda: exhaust(map(predictor.predict, frames))),
        "stream": seconds_of(lambda: exhaust(predictor.stream(video, chunk=None))),
    }
    for format in ("npz", "png16", "mkv", "mp4"):
        spent[f"predict to {format}"] = seconds_of(
            lambda format=format: predict_files(predictor, [video], folder, format=format, overwrite=True)
        )
    return spent


def ms_around(file: ExportedModel, image: np.ndarray, rounds: int) -> dict[str, float]:
    """Milliseconds of complete calls over the bare network: ours, and through the processor of transformers."""
    from transformers import DPTImageProcessor
    from transformers.modeling_outputs import DepthEstimatorOutput

    processor = DPTImageProcessor(size={"height": file.height, "width": file.width})
    fitted = fit_image(image, file.height, file.width)

    def through_processor() -> None:
        processor(image, return_tensors="pt")
        output = DepthEstimatorOutput(predicted_depth=torch.from_numpy(file.run(fitted)[0])[None])
        processor.post_process_depth_estimation(output, target_sizes=[image.shape[:2]])

    calls = {
        "bare": lambda: file.run(fitted),
        "ours": lambda: file.predict(image),
        "transformers": through_processor,
    }
    ms = {name: 1e3 * float(np.median(times)) for name, times in time_in_turn(calls, rounds=rounds).items()}
    return {name: ms[name] - ms["bare"] for name in ("ours", "transformers")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="steady.onnx")
    parser.add_argument("--size", type=int, nargs=2, default=(480, 640))
    parser.add_argument("--max-side", type=int, default=256, help="for the network; an exported file has its own size")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cv2.setNumThreads(asked.threads)

    if is_exported(asked.model):
        predictor = Predictor(ExportedNetwork(asked.model, threads=asked.threads))
    else:
        predictor = load(asked.model, device="cpu", max_side=asked.max_side)
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "film.mp4"
        write_video(video, film(asked.frames, *asked.size), 25.0)
        frames = list(read_video(video))
        rounds = [all_parts(predictor, video, frames, Path(folder) / "out") for _ in range(asked.rounds)]

    ms = {name: 1e3 * float(np.median([spent[name] for spent in rounds])) / asked.frames for name in rounds[0]}
    for name, each in ms.items():
        print(f"{name:18} {each:7.2f} ms a frame  {1e3 / each:6.1f} frames/s")
    shares = [(spent["decode"] + spent["model"]) / spent["stream"] for spent in rounds]
    print(f"stream: {100 * np.median(shares):.0f} % of the speed of decode and model one after the other")
    if isinstance(predictor.network, ExportedNetwork):
        around = ms_around(predictor.network.file, frames[0], 20 * asked.rounds)
        print(", ".join(f"{name} {each:.2f} ms" for name, each in around.items()), "over the bare network")


if __name__ == "__main__":
    main()
