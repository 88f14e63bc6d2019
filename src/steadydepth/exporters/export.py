"""A model to a file that other runtimes run: the same graph, its normalisation inside, checked against eager.

The file takes uint8 RGB (1, h, w, 3), as a camera or a decoder gives it: a quarter of the bytes of floats, no work
left to the caller, and no mean and deviation to get wrong. It gives float32 depth (1, h, w).
"""

import copy
import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Num, UInt8
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steadydepth.exporters.graph_rewrites import move_taps
from steadydepth.exporters.targets import WRITERS
from steadydepth.inference.exported import ExportedNet
from steadydepth.inference.runtime import (
    FORMAT_VERSION,
    SUFFIXES,
    ExportedModel,
    missing_package,
)
from steadydepth.ops.resize import fit_image
from steadydepth.synthetic.world import make_clip
from steadydepth.types import InputError

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}
TOLERANCE = 1e-3  # greatest relative difference of a float32 file from eager

Image = UInt8[np.ndarray, "h w 3"]


class _Image(nn.Module):
    """The model as the file has it, for an image of bytes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Num[Tensor, "1 h w 3"]) -> Float[Tensor, "1 h w"]:
        frames = image.permute(0, 3, 1, 2).float() / 255
        return self.model(frames[:, None])[0][:, 0]


def export_model(
    model: nn.Module,
    out: Path,
    *,
    to: str,
    height: int,
    width: int,
    frames: Iterable[Image] | None = None,
    licence: str = "not stated",
) -> float | None:
    """Write `model` for images of height x width to `out`; return its greatest relative difference from eager.

    `to` is onnx, litert or executorch (one file), openvino (`out`, an .xml, and the weights beside it in .bin) or
    coreml (a folder). The difference is looked for on `frames`, stretched to that size, or without them on three of the
    synthetic world. InputError, and no file, when it is above 1e-3, when a package is missing, or when the model has a
    state to pass on. None for coreml, which runs on Apple's devices alone: only what goes in and comes out is checked,
    and the file says `checked`: false.
    """
    check_target(out, to)
    if isinstance(model, ExportedNet):
        raise InputError("this model is an exported file already; give the folder that it was exported from")
    images = [fit_image(frame, height, width) for frame in (_synthetic() if frames is None else frames)]
    graph = _Image(copy.deepcopy(model).cpu().eval()).requires_grad_(requires_grad=False)
    is_checked = to != "coreml"
    metadata = describe(graph.model, height, width, licence) | {"checked": is_checked}
    faster = _Image(move_taps(copy.deepcopy(graph.model)))
    with staging(out) as part:
        WRITERS[to](faster, metadata, part)
        if not is_checked:
            return None
        difference = greatest_difference(ExportedModel(part), graph, images)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{out}: differs from the model by {difference:.2g} of its depth, and at most {TOLERANCE:g} is let "
                "pass; nothing is written: try another format or size"
            )
    return difference


def check_target(out: Path, to: str) -> None:
    """InputError when the format is unknown, its package missing or the name of the file another's."""
    if to not in SUFFIXES:
        raise InputError(f"{to}: unknown format; there are {', '.join(SUFFIXES)}")
    if out.suffix != SUFFIXES[to]:
        raise InputError(f"{out}: a file for {to} ends in {SUFFIXES[to]}: name it {out.with_suffix(SUFFIXES[to])}")
    for package in _PACKAGES[to]:
        try:
            __import__(package)
        except ImportError as error:
            raise missing_package(package, to) from error


def describe(model: nn.Module, height: int, width: int, licence: str) -> dict[str, Any]:
    """What the file says of itself. `weights_sha256` is of every tensor's name and bytes, in the order of the model."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    frames = torch.zeros(1, 1, 3, height, width)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _, state = model(frames, None)
    if state:
        raise InputError("the model passes a state from frame to frame; only models of single frames can be exported")
    return {
        "format_version": FORMAT_VERSION,
        "claims": model.claims,
        "height": height,
        "width": width,
        "precision": "float32",
        "version": version("steadydepth"),
        "licence": licence,
        "weights_sha256": digest.hexdigest(),
        "flops": counter.get_total_flops(),
    }


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A path of `out`'s name in a folder of its own; `out` and its .bin are moved in place when the block ends well."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as folder:
        part = Path(folder) / out.name
        yield part
        # The weights first: whoever finds the .xml finds its weights beside it.
        for suffix in (".bin", out.suffix):
            if part.with_suffix(suffix).exists():
                # Into a folder that is there it would be moved, not in its place.
                if out.with_suffix(suffix).is_dir():
                    shutil.rmtree(out.with_suffix(suffix))
                shutil.move(part.with_suffix(suffix), out.with_suffix(suffix))


def greatest_difference(file: ExportedModel, graph: nn.Module, images: list[Image]) -> float:
    """The greatest difference at any pixel, relative to the eager depth there, or to a hundredth of its mean."""
    greatest = 0.0
    for image in images:
        with torch.no_grad():
            eager = graph(torch.from_numpy(image)[None])[0].numpy()
        greatest = max(greatest, _relative(file.run(image), eager))
    return greatest


def _relative(depth: Float32[np.ndarray, "h w"], eager: Float32[np.ndarray, "h w"]) -> float:
    size = np.maximum(np.abs(eager), np.abs(eager).mean() / 100)
    # A NaN on either side comes through the maximum, and is no small difference.
    return float((np.abs(depth - eager) / np.maximum(size, np.finfo(np.float32).tiny)).max())


def _synthetic() -> list[Image]:
    return list(make_clip(0, fixed_camera=False, n_frames=3, height=96, width=128).frames)
