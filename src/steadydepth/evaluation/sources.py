"""The clips to score: frames and labels of sequences on disk, and what a model or a folder predicts for them."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from torch import nn

from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import name_of
from steadydepth.evaluation.footage import Depth, Flow, Footage, excerpt
from steadydepth.files.predictions import find_predictions
from steadydepth.files.stored_depth import open_predictions, open_raw
from steadydepth.inference.filters import NONE, ChosenFilter
from steadydepth.inference.predictor import Predictor, as_predictor
from steadydepth.inference.session import Fitted, Image, Session, VideoSession
from steadydepth.metrics.protocols import Protocol, kb_part
from steadydepth.ops.resize import fit_image
from steadydepth.progress import Progress
from steadydepth.types import DepthFrames, InputError, State

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One clip to score: how to open it, and what was predicted for it; can be sent to another process."""

    name: str
    open_clip: Callable[[], Footage]
    open_depth: Callable[[], DepthFrames]
    open_reference: Callable[[], DepthFrames] | None = None  # what another model says of it


def predict_sequence(
    model: nn.Module | Predictor,
    sequence: Sequence | Footage,
    *,
    filter: str | ChosenFilter | None = None,
    stop: int | None = None,
) -> Float32[np.ndarray, "t i j"]:
    """Depth of the frames of a sequence.

    Args:
        model: in evaluation mode.
        sequence: what is predicted; footage is what a protocol takes of one.
        filter: in place of the predictor's own.
        stop: the frame after the last; None goes to the end.

    Returns: in the units of the model's claims.
    """
    session = as_predictor(model).session(filter=filter)
    return np.stack([result.depth for result in session.run(islice(sequence.images(), stop))])


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
    model: nn.Module | Predictor,
    paths: list[Path],
    keep: Path,
    protocol: Protocol,
    *,
    filter: ChosenFilter,
    tell: Progress,
) -> Iterator[Source]:
    """Each sequence is predicted when its turn comes, on to the disk, and read from there as often as needed.

    Args:
        model: in evaluation mode.
        paths: of the sequences.
        keep: folder of what is predicted, as long as it is read.
        protocol: says which frames are predicted.
        filter: applied to what is predicted.
        tell: called with what is done, clips done, and clips in all.
    """
    for done, path in enumerate(paths):
        tell(f"predicting {name_of(path)}", done, len(paths))
        session = as_predictor(model).session(filter=filter)
        open_depth = _spool(session, path, keep / f"{name_of(path)}.raw", protocol)
        yield Source(name_of(path), partial(open_footage, path), open_depth)


def _spool(session: VideoSession, path: Path, stored: Path, protocol: Protocol) -> Callable[[], DepthFrames]:
    """What opens the prediction of a sequence, written to `stored`; or raises what kept it from being made."""
    try:
        # A network of a protocol that cuts the frames is shown them cut.
        images = excerpt(open_footage(path), protocol).images()
        n_frames, shape = 0, (0, 0)
        with stored.open("wb") as file:
            for result in session.run(images):
                file.write(np.ascontiguousarray(result.depth, np.float32).data)
                n_frames, shape = n_frames + 1, result.depth.shape
    except InputError as error:
        return partial(_fail, str(error))
    return partial(open_raw, stored, (n_frames, *shape), session.claims)


def _fail(message: str) -> DepthFrames:
    raise InputError(message)


def with_reference(
    sources: Iterable[Source], paths: list[Path], reference: Predictor, keep: Path, protocol: Protocol
) -> Iterator[Source]:
    """The same sources, each with what another model says of its sequence.

    Args:
        sources: in the order of `paths`.
        paths: of the sequences.
        reference: the other model.
        keep: folder of what it predicts, as long as it is read.
        protocol: says which frames are predicted.
    """
    for source, path in zip(sources, paths, strict=True):
        session = reference.session(filter="none")
        opened = _spool(session, path, keep / f"{source.name}.reference.raw", protocol)
        yield replace(source, open_reference=opened)


def sources_of_folder(folder: Path, paths: list[Path], protocol: Protocol, *, filter: ChosenFilter) -> list[Source]:
    """Each sequence with its stored prediction.

    Args:
        folder: of predictions.
        paths: of the sequences.
        protocol: says which frames, and what of them, was predicted.
        filter: applied to what is stored.

    Raises:
        InputError: no prediction has the name of any of them.
    """
    predicted, known = set(find_predictions(folder)), {name_of(path) for path in paths}
    if not predicted & known:
        raise InputError(
            f"{folder}: predicts {', '.join(sorted(predicted)[:5])}, and the data has {', '.join(sorted(known)[:5])}: "
            "no name is in both; a prediction has the name of its sequence: rename one, or check the paths"
        )
    if unknown := predicted - known:
        LOG.warning("%s: predictions of sequences that the data does not have: %s", folder, ", ".join(sorted(unknown)))
    return [
        Source(name_of(path), partial(open_footage, path), partial(open_stored, folder, path, protocol, filter=filter))
        for path in paths
    ]


def open_stored(folder: Path, path: Path, protocol: Protocol, *, filter: ChosenFilter) -> DepthFrames:
    """The stored prediction of a sequence, filtered whenever it is read, at its own size.

    Args:
        folder: of predictions.
        path: of the sequence.
        protocol: says which frames, and what of them, was predicted.
        filter: applied to what is stored.

    Raises:
        InputError: there is no such prediction, or none for each frame where a filter needs it.
    """
    stored = open_predictions(folder, name_of(path))
    if filter.name == NONE:
        return stored
    clip, every_frame = open_footage(path), replace(protocol, stride=1, max_frames=None)
    footage = excerpt(clip, every_frame if stored.n_frames == clip.n_frames else protocol)
    if stored.n_frames != footage.n_frames:
        raise InputError(
            f"{folder}: {stored.n_frames} predicted frames of {footage.name}, which has {clip.n_frames}: a filter "
            "needs each frame; predict them all, or leave the filter out"
        )
    size = stored.height, stored.width
    part = kb_part(protocol, size, footage.height, footage.width) or (slice(None), slice(None))

    def read() -> Iterator[Float32[np.ndarray, "i j"]]:
        session = Session(_Stored(stored), filter=filter)
        shown = (np.ascontiguousarray(image[part]) for image in footage.images())
        return (result.network_depth for result in session.run(shown))

    return DepthFrames(stored.claims, stored.n_frames, *size, read)


class _Stored:
    """A stored prediction in the place of a network: it answers with its next frames."""

    def __init__(self, depth: DepthFrames) -> None:
        self.claims, self._size, self._frames = depth.claims, (depth.height, depth.width), depth.read()

    def fit(self, image: Image) -> Fitted:
        return fit_image(image, *self._size)

    def __call__(self, images: list[Fitted], state: State | None) -> tuple[Float32[np.ndarray, "t i j"], State]:
        return np.stack(list(islice(self._frames, len(images)))), {}

    def frames_at_once(self, height: int, width: int) -> int:
        return 1
