"""The clips to score: frames and labels of sequences on disk, and what a model or a folder predicts for them."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import name_of
from steadydepth.evaluation.footage import Depth, Flow, Footage, excerpt
from steadydepth.files.predictions import find_predictions
from steadydepth.files.stored_depth import open_predictions, open_raw
from steadydepth.metrics.protocols import Protocol
from steadydepth.models.declare import claims_of
from steadydepth.types import Claims, DepthFrames, InputError

LOG = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Source:
    """One clip to score: how to open it, and what was predicted for it; can be sent to another process."""

    name: str
    open_clip: Callable[[], Footage]
    open_depth: Callable[[], DepthFrames]
    open_reference: Callable[[], DepthFrames] | None = None  # what another model says of it


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module trains, or not, as before."""
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with torch.inference_mode():
            yield
    finally:
        for module, flag in training.items():
            module.training = flag


def predict_sequence(
    model: nn.Module, sequence: Sequence, *, chunk: int = 16, stop: int | None = None
) -> Float32[np.ndarray, "t i j"]:
    """Depth of every frame, or of those before `stop`, `chunk` at a time in order, the state carried on.

    On the model's own device.
    """
    last = sequence.n_frames if stop is None else min(stop, sequence.n_frames)
    return np.concatenate(list(_predict(model, islice(sequence.images(), last), chunk)))


def _predict(
    model: nn.Module, images: Iterable[UInt8[np.ndarray, "h w 3"]], chunk: int
) -> Iterator[Float32[np.ndarray, "t i j"]]:
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    state, images = None, iter(images)
    while frames := list(islice(images, chunk)):
        with _evaluating(model):
            batch = torch.from_numpy(np.stack(frames)).to(device).permute(0, 3, 1, 2)[None].float() / 255
            predicted, state = model(batch, state)
        yield predicted[0].float().cpu().numpy()


def open_footage(path: Path) -> Footage:
    """The sequence at `path`, read file by file."""
    sequence = open_sequence(path)

    def depth(number: int) -> Depth:
        metres = sequence.read_label("depth", number)
        return metres, (metres > 0) & (sequence.read_label("valid", number) != 0)

    def flow(number: int) -> Flow:
        read = sequence.read_label("flow", number)
        return np.ascontiguousarray(read[..., :2]), read[..., 2] != 0

    return Footage(
        name=sequence.name,
        fps=sequence.fps,
        n_frames=sequence.n_frames,
        height=sequence.height,
        width=sequence.width,
        images=sequence.images,
        depth=depth if sequence.has_depth else None,
        objects=partial(sequence.read_label, "objects") if sequence.has_objects else None,
        flow=flow if sequence.has_flow else None,
        K=sequence.K,
        cam_to_world=sequence.cam_to_world,
        fixed_camera=sequence.fixed_camera,
    )


def sources_of_model(
    model: Any, paths: list[Path], keep: Path, protocol: Protocol, chunk: int, tell: Progress
) -> Iterator[Source]:
    """Each sequence is predicted when its turn comes, on to the disk, and read from there as often as needed."""
    for done, path in enumerate(paths):
        tell(f"predicting {name_of(path)}", done, len(paths))
        open_depth = _spool(model, path, keep / f"{name_of(path)}.raw", protocol, chunk)
        yield Source(name_of(path), partial(open_footage, path), open_depth)


def _spool(model: Any, path: Path, stored: Path, protocol: Protocol, chunk: int) -> Callable[[], DepthFrames]:
    """What opens the prediction of a sequence, written to `stored`; or raises what kept it from being made."""
    claims = _claims_of(model)
    try:
        # A network of a protocol that cuts the frames is shown them cut.
        images = excerpt(open_footage(path), protocol).images()
        n_frames, shape = 0, (0, 0)
        with stored.open("wb") as file:
            for depth in _depth_of(model, images, chunk):
                file.write(np.ascontiguousarray(depth, np.float32).tobytes())
                n_frames, shape = n_frames + len(depth), depth.shape[1:]
    except InputError as error:
        return partial(_fail, str(error))
    return partial(open_raw, stored, (n_frames, *shape), claims, chunk=chunk)


def _fail(message: str) -> DepthFrames:
    raise InputError(message)


def _depth_of(
    model: Any, images: Iterable[UInt8[np.ndarray, "h w 3"]], chunk: int
) -> Iterator[Float32[np.ndarray, "t i j"]]:
    """Depth of a module `chunk` frames at a time; of something that holds one, as what it streams where it shrinks."""
    if not isinstance(model, nn.Module) and getattr(model, "max_side", None) is not None:
        for result in model.stream(images):
            yield result.depth[None]
    else:
        yield from _predict(_module_of(model), images, chunk)


def _module_of(model: Any) -> Any:
    """The module itself, or the one that a predictor holds as `model`; anything else as it is."""
    held = getattr(model, "model", None)
    return model if isinstance(model, nn.Module) or not isinstance(held, nn.Module) else held


def is_model(model: Any) -> bool:
    """Whether it is a module, or holds one as `model`, as what `load` returns does."""
    return isinstance(_module_of(model), nn.Module)


def _claims_of(model: Any) -> Claims:
    return claims_of(model)


def with_reference(
    sources: Iterable[Source], paths: list[Path], reference: Any, keep: Path, protocol: Protocol, chunk: int
) -> Iterator[Source]:
    """The same sources, each with what `reference` says of its sequence."""
    for source, path in zip(sources, paths, strict=True):
        opened = _spool(reference, path, keep / f"{source.name}.reference.raw", protocol, chunk)
        yield replace(source, open_reference=opened)


def sources_of_folder(folder: Path, paths: list[Path], chunk: int) -> list[Source]:
    """Each sequence with its stored prediction; InputError when no prediction has the name of any of them."""
    predicted, known = set(find_predictions(folder)), {name_of(path) for path in paths}
    if not predicted & known:
        raise InputError(
            f"{folder}: predicts {', '.join(sorted(predicted)[:5])}, and the data has {', '.join(sorted(known)[:5])}: "
            "no name is in both; a prediction has the name of its sequence: rename one, or check the paths"
        )
    if unknown := predicted - known:
        LOG.warning("%s: predictions of sequences that the data does not have: %s", folder, ", ".join(sorted(unknown)))
    return [
        Source(
            name_of(path), partial(open_footage, path), partial(open_predictions, folder, name_of(path), chunk=chunk)
        )
        for path in paths
    ]
