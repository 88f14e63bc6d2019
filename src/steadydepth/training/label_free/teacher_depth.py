"""Labels for video that has none: the starting model behind the learned filter, there and back, once for each video.

The filtered depth is steadier than the frames that it is made from, and as accurate, so a network that learns it from
single frames becomes steadier. Each video is filtered before the first step and its depth is kept in a file: a step
costs what a step with measured depth costs.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from steadydepth.config import Config
from steadydepth.data.clips import fit_clip
from steadydepth.data.sequence_folder import Sequence as VideoSequence
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences, name_of
from steadydepth.errors import failure, leaving_out
from steadydepth.files.atomic_writes import new_file
from steadydepth.files.writing import writing_in
from steadydepth.inference.filters import OFFLINE, choose_filter
from steadydepth.inference.network import Network
from steadydepth.inference.session import Session
from steadydepth.method.alignment import as_depth
from steadydepth.metrics.arrays import log_depth
from steadydepth.metrics.edges import edge_gain_part
from steadydepth.models.declare import claims_of
from steadydepth.types import Claims, Clip

logger = logging.getLogger(__name__)

FOLDER = "teacher"  # of the files, in the run folder while the run lasts
N_FRAMES = 16  # that `contrast_lost` looks at
MOST_CONTRAST = 1.25

TeacherFiles = Mapping[str, Path]  # sequence name to its file


def write_teacher_depth(teacher: nn.Module, config: Config, device: torch.device) -> list[TeacherFiles]:
    """Write the teacher's depth of each video that it labels; files that are there already are taken as they are.

    Args:
        teacher: a frozen copy of the starting model.
        config: of the run; its folder gets the files.
        device: where the teacher runs; the filter runs on the processor.

    Returns: for each source the file of each sequence by its name: `.npy`, float32 (t, height, width) at the training
        size in the units that the teacher claims, NaN where it has no depth. A video that cannot be read has none.

    Raises:
        InputError: a video cannot be read and `data.strict` is set, none of a source can, or the disk is full.
    """
    folder, found = config.run.folder / FOLDER, list[TeacherFiles]()
    for number, source in enumerate(config.data.all_sources()):
        paths = find_sequences(source.folder) if source.labels == "teacher" else []
        files, failed = {}, dict[str, str]()
        for index, path in enumerate(paths):
            with leaving_out(path, failed, strict=config.data.strict):
                sequence = open_sequence(path)
                # Named, not counted: a video that is added meanwhile does not move those of the others.
                target = folder / str(number) / f"{sequence.name}.npy"
                if not target.is_file():
                    logger.info("%s: the teacher's depth of video %d of %d", config.run.folder, index + 1, len(paths))
                    _write(Network(teacher, device=device), sequence, target, config)
                files[sequence.name] = target
        if failed and not files:
            raise failure(failed, 0, [])
        found.append(files)
    return found


def remove_teacher_depth(folder: Path) -> None:
    """Delete what `write_teacher_depth` wrote into the run folder `folder`, once no step needs it any more."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _write(network: Network, sequence: VideoSequence, target: Path, config: Config) -> None:
    height, width, strength = config.data.height, config.data.width, config.data.teacher_strength
    target.parent.mkdir(parents=True, exist_ok=True)
    session = Session(network, filter=choose_filter(OFFLINE, strength) if strength else None)
    shape = (sequence.n_frames, height, width)
    # Not mapped: Windows neither renames nor removes a file that is, be it by the traceback of an error.
    with writing_in(config.run.folder), new_file(target) as part, part.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        # The frames as training sees them, before augmentation.
        clips = (Clip(sequence.name, image[None], sequence.fps) for image in sequence.images())
        results = session.run(fit_clip(clip, height, width).frames[0] for clip in clips)
        for _, result in zip(range(sequence.n_frames), results, strict=True):
            file.write(result.measured.astype("<f4").tobytes())


def contrast_lost(teacher: nn.Module, config: Config, files: Sequence[TeacherFiles], device: torch.device) -> float:
    """How much contrast the edges of the labels need to have that of the model's own: 1 / `edges_kept` of the filter.

    A filter softens what it averages. `lost_edges` asks for so much more contrast than the label has.

    Args:
        teacher: a frozen copy of the starting model.
        config: of the run.
        files: what `write_teacher_depth` returned.
        device: where the teacher runs.

    Returns: from 1 to 1.25, found on at most 16 frames; 1 where the model has no edges.
    """
    network, claims, gains = Network(teacher, device=device), claims_of(teacher), []
    videos = [
        (path, files_of[name])
        for source, files_of in zip(config.data.all_sources(), files, strict=True)
        for path in (find_sequences(source.folder) if files_of else [])
        if (name := name_of(path)) in files_of
    ]
    places = [(path, file, t) for path, file in videos for t in range(len(np.load(file, mmap_mode="r")))]
    for path, file, t in places[:: -(-len(places) // N_FRAMES) or 1]:
        frame = open_sequence(path).read_frames(t, t + 1)
        shown = fit_clip(Clip(path.name, frame, 1.0), config.data.height, config.data.width).frames
        own = np.stack([result.depth for result in Session(network).run(shown)])
        label = np.load(file, mmap_mode="r")[t : t + 1].astype(np.float32)
        ours, theirs = (_log(one, own, claims) for one in (label, own))
        known = np.isfinite(ours) & np.isfinite(theirs)
        ours, theirs = (np.where(known, one, 0.0) for one in (ours, theirs))
        gains.append(edge_gain_part(ours[None], theirs, known, *shown.shape[1:3]))
    kept = float(reduce(add, gains).result()[0]) if gains else 1.0
    return float(np.clip(1 / kept, 1, MOST_CONTRAST)) if kept > 0 else 1.0


def _log(values: Float32[np.ndarray, "1 h w"], like: Float32[np.ndarray, "1 h w"], claims: Claims) -> np.ndarray:
    one, other = (torch.from_numpy(np.ascontiguousarray(each))[None] for each in (values, like))
    return log_depth(as_depth(one, other, claims)[0].flatten().double().numpy())
