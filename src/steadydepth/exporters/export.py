"""A model to a file that other runtimes run: the same graph, its normalisation inside, checked against eager.

The file takes uint8 RGB (1, h, w, 3), as a camera or a decoder gives it: a quarter of the bytes of floats, no work
left to the caller, and no mean and deviation to get wrong. It gives float32 depth (1, h, w). What a model remembers of
the frames before, each tensor of its state, goes in and comes out beside them; zeros in all of them begin a stream.
"""

import copy
import hashlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Num
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from steadydepth.errors import import_extra
from steadydepth.exporters.graph_rewrites import move_taps
from steadydepth.exporters.targets import WRITERS
from steadydepth.files.atomic_writes import check_file, hidden_folder, move
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.exported_net import ExportedNet
from steadydepth.inference.network import Network
from steadydepth.inference.runtime import FORMAT_VERSION, SUFFIXES
from steadydepth.inference.session import Image, PredictsMany, Session
from steadydepth.models.transformers import TransformersDepth
from steadydepth.ops.resize import fit_image, shrunk_size
from steadydepth.synthetic.world import make_clip
from steadydepth.types import Depth, Frames, InputError, State

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "litert": ("litert_torch", "ai_edge_litert"),
    "executorch": ("executorch",),
    "coreml": ("coremltools",),
}
WITH_STATE = ("onnx", "openvino", "executorch")  # formats whose files can have a state
TOLERANCE = 1e-3  # greatest relative difference of a float32 file from eager
# An entry of the state beside the model's own, of files whose model begins with something else than zeros.
STARTED = "started"

logger = logging.getLogger(__name__)


class _Step(nn.Module):
    """One step of `model` as the file has it: an image of bytes and a state to depth and the state after it.

    `names` is the order of the state's tensors. With STARTED among them both the first frame of a stream and a later
    one are in the graph; what they have in common, as all of a network whose output is filtered, exporters merge.
    """

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model, self.names = model, tuple(names)

    def forward(self, image: Num[Tensor, "1 h w 3"], *state: Tensor) -> tuple[Tensor, ...]:
        frames = (image.permute(0, 3, 1, 2).float() / 255)[:, None]
        given = dict(zip(self.names, state, strict=True))
        started = given.pop(STARTED, None)
        depth, after = self.model(frames, given or None)
        if started is not None:
            first_depth, first = self.model(frames, None)
            depth = _choose(started, depth, first_depth)
            after = {name: _choose(started, value, first[name]) for name, value in after.items()}
            after[STARTED] = torch.ones_like(started)
        return depth[:, 0], *(after[name] for name in self.names)


def _choose(started: Tensor, later: Tensor, first: Tensor) -> Tensor:
    return torch.where(started.view(-1, *(later.ndim - 1) * [1]) > 0, later, first)


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
    """Write `model` for images of height x width to `out`, and compare the file with it.

    Args:
        model: a `VideoDepthModel`; it is copied, and stays on its device.
        out: the file, replaced where it exists; for openvino an .xml, and the weights beside it in .bin; for coreml a
            folder.
        to: onnx, openvino, litert, executorch or coreml.
        height: rows of the network's images.
        width: columns of the network's images.
        frames: images to compare on, uint8 RGB (h, w, 3), stretched to the size; without them, and for a state, frames
            of the synthetic world.
        licence: of the weights, noted in the file.

    Returns: the greatest relative difference from eager at any pixel of any frame, where neither rounds what a
        processor of transformers resizes (what the rounding comes to is logged when it is above 1e-3); None for coreml,
        which runs on Apple's devices alone: only what goes in and comes out is checked, and the file says `checked`:
        false.

    Raises:
        InputError: the size is above the model's own, the difference is above 1e-3, a package is missing, torch.export
            cannot trace the model, or it has a state that the format cannot pass on. No file is left then.
    """
    check_target(out, to)
    if isinstance(model, ExportedNet):
        raise InputError("this model is an exported file already; give the folder that it was exported from")
    model = copy.deepcopy(model).cpu().eval().requires_grad_(requires_grad=False)
    side = Network(model, device="cpu").max_side
    if (fits := shrunk_size(height, width, side)) != (height, width):
        rule = f"the model is for images of at most {side} pixels a side"
        raise InputError(f"{out}: {rule}: take {fits[0]}x{fits[1]}, the same shape")
    is_checked = to != "coreml"
    metadata = describe(model, height, width, licence) | {"checked": is_checked}
    if metadata["state"] and to not in WITH_STATE:
        raise InputError(f"{to}: the model has a state, which only files for {', '.join(WITH_STATE)} can pass on")
    images = [fit_image(frame, height, width) for frame in (() if frames is None else frames)]
    if not images or metadata["state"]:  # what is given may be cuts alone, at which every session begins anew
        world = make_clip(0, fixed_camera=False, n_frames=5, height=96, width=128)
        images += [fit_image(frame, height, width) for frame in world.frames]
    graph = _Step(move_taps(copy.deepcopy(model)), tuple(metadata["state"]))
    with staging(out) as part:
        WRITERS[to](graph, metadata, part)
        if not is_checked:
            return None
        difference = _difference_of_file(part, model, images, out)
        if not difference <= TOLERANCE:
            raise InputError(
                f"{out}: differs from the model by {difference:.2g} of its depth, and at most {TOLERANCE:g} is let "
                "pass; nothing is written: try another format or size"
            )
    return difference


def check_target(out: Path, to: str) -> None:
    """Check what can be checked before anything is computed.

    Raises:
        InputError: the format is unknown, its package is missing, the name is one of another format, or it is that of
            something that is not replaced: a folder, and for Core ML all that is no package.
    """
    if to not in SUFFIXES:
        raise InputError(f"{to}: unknown format; there are {', '.join(SUFFIXES)}, and web, a folder")
    if out.suffix != SUFFIXES[to]:
        raise InputError(f"{out}: a file for {to} ends in {SUFFIXES[to]}: name it {out.with_suffix(SUFFIXES[to])}")
    if to != "coreml":
        check_file(out)
    elif out.exists() and not (out / "Manifest.json").is_file():  # a package is a folder, and is replaced as one
        raise InputError(f"{out} exists and is no Core ML package, so it is not replaced: choose another name")
    if to == "openvino":
        check_file(out.with_suffix(".bin"))
    for package in _PACKAGES[to]:
        import_extra(package, to)


def describe(model: nn.Module, height: int, width: int, licence: str) -> dict[str, Any]:
    """The metadata of a file.

    Args:
        model: what the file computes.
        height: rows of the image.
        width: columns of the image.
        licence: of the weights.

    Returns: `state` has the shape and the type of each tensor that goes in and comes out, by name; `weights_sha256` is
        of every tensor's name and bytes, in the order of the model; `flops` of one frame that follows on another.

    Raises:
        InputError: the state is not one that a file can have.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().reshape(-1).view(torch.uint8).numpy().tobytes())
    state, flops = _describe_state(model, height, width)
    return {
        "format_version": FORMAT_VERSION,
        "claims": model.claims,
        "height": height,
        "width": width,
        "state": state,
        "precision": "float32",
        "version": version("steadydepth"),
        "licence": licence,
        "weights_sha256": digest.hexdigest(),
        "flops": flops,
    }


def _describe_state(model: nn.Module, height: int, width: int) -> tuple[dict[str, Any], int]:
    """Shape and type of each tensor of the state, STARTED among them where the model needs it; and the operations."""
    frames = torch.rand((2, 1, 1, 3, height, width), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        depth, state = model(frames[0], None)
    if not state:
        return {}, counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        _, after = model(frames[1], state)
    found, later = describe_tensors(state), describe_tensors(after)
    if STARTED in found:
        raise InputError(f"the model's state has a tensor {STARTED!r}, which is a name of files alone: rename it")
    if found != later:
        raise InputError(
            f"the model's state is {found} after one frame and {later} after two; a file needs the same names, shapes "
            "and types after each"
        )
    if unknown := [name for name, each in found.items() if not hasattr(np, each["dtype"])]:
        raise InputError(f"the model's state {unknown[0]} is {found[unknown[0]]['dtype']}, which NumPy does not have")
    if not _begins_with_zeros(model, frames[0], depth, state):
        found[STARTED] = {"shape": [1], "dtype": "float32"}
    return found, counter.get_total_flops()


def describe_tensors(state: State) -> dict[str, Any]:
    """Shape and type of each tensor of a state, as the metadata of a file has them."""
    return {
        name: {"shape": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
        for name, value in state.items()
    }


def _begins_with_zeros(model: nn.Module, frames: Frames, depth: Depth, state: State) -> bool:
    """Whether a state of zeros gives, bit for bit, what no state gives: `depth` and `state`."""
    with torch.no_grad():
        same_depth, same = model(frames, {name: torch.zeros_like(value) for name, value in state.items()})
    return torch.equal(same_depth, depth) and all(torch.equal(same[name], value) for name, value in state.items())


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A path of `out`'s name in a folder of its own; `out` and its .bin are moved in place when the block ends well."""
    with hidden_folder(out.parent, out.name) as folder:
        part = folder / out.name
        yield part
        # The weights first: whoever finds the .xml finds its weights beside it.
        for suffix in (".bin", out.suffix):
            if part.with_suffix(suffix).exists():
                # A folder that is there does not make room for another.
                if out.with_suffix(suffix).is_dir():
                    shutil.rmtree(out.with_suffix(suffix))
                move(part.with_suffix(suffix), out.with_suffix(suffix))


def _difference_of_file(part: Path, model: nn.Module, images: list[Image], out: Path) -> float:
    """What `export_model` returns of the file `part`, which is open here alone: Windows moves no file that is."""
    file = ExportedNetwork(part)
    rounded = [module for module in model.modules() if isinstance(module, TransformersDepth)]
    if rounded and (lost := _greatest_difference(file, model, images)) > TOLERANCE:
        logger.warning(
            "%s: does not round resized images to 8 bits, as the model's processor does: its depth differs from the "
            "model's by up to %.2g of it; at a size that the processor keeps it does not",
            out,
            lost,
        )
    for module in rounded:
        module.rounds_pixels = False
    return _greatest_difference(file, model, images)


def _greatest_difference(file: ExportedNetwork, model: nn.Module, images: list[Image]) -> float:
    """The greatest difference of a file from eager at any pixel of any image, both run by sessions.

    A file with a state runs two streams in turns, one of the images as they are and one backwards, each of which
    begins anew and keeps its own state. Differences are those of `relative_difference`.
    """
    streams = [images, images[::-1]] if file.file.state_names else [images]
    pairs = zip(_run_in_turns(file, streams), _run_in_turns(Network(model), streams), strict=True)
    # A NaN on either side is no small difference.
    return float(np.max([relative_difference(depth, eager).max() for depth, eager in pairs]))


def _run_in_turns(network: PredictsMany, streams: list[list[Image]]) -> Iterator[Float32[np.ndarray, "h w"]]:
    """Depth of the first image of each stream, then of the second of each, and so on; each has its session."""
    sessions = [Session(network) for _ in streams]
    for shown in zip(*streams, strict=True):
        for session, image in zip(sessions, shown, strict=True):
            yield session.step(image).depth


def relative_difference(
    depth: Float32[np.ndarray, "h w"], eager: Float32[np.ndarray, "h w"]
) -> Float32[np.ndarray, "h w"]:
    """|depth - eager| at each pixel over |eager|, or over a hundredth of its mean where it is less than that."""
    size = np.maximum(np.abs(eager), np.abs(eager).mean() / 100)
    return np.abs(depth - eager) / np.maximum(size, np.finfo(np.float32).tiny)
