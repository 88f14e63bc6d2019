"""The sequences that can be trained on, opened once before the first step; the others are named."""

import logging
from pathlib import Path

from steadydepth.data.clips import NO_FLOW
from steadydepth.data.cuts import shots_of
from steadydepth.data.depth_labels import without_depth
from steadydepth.data.sequence_folder import Sequence, open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import InputError, failure, leaving_out

logger = logging.getLogger(__name__)
NO_DEPTH = (
    "has no depth/; data.labels=teacher trains without labels, and so do labels teacher and none of one of data.sources"
)
Opened = tuple[Sequence, list[range]]  # a sequence, and the frames of each of its shots


def open_shots(
    root: Path, *, find_shots: bool, needs_depth: bool, needs_flow: bool, length: int, strict: bool
) -> list[Opened]:
    """The sequences of a folder and their shots; what cannot be read or lacks a label is named and left out.

    A video file is decoded for its shots, so that one which breaks off is found here and not in mid-training.

    Args:
        root: folder of sequence folders, videos or shards.
        find_shots: where a video file has cuts; otherwise each sequence is one shot.
        needs_depth: a sequence without depth images, or whose depth images hold none, is left out.
        needs_flow: one without flow is left out as well, unless it is too short for any.
        length: frames of a clip.
        strict: what is to be left out is an error.

    Returns: each sequence with the frames of its shots.

    Raises:
        InputError: nothing is left.
    """
    opened, lacking, failed = [], dict[Path, str](), dict[str, str]()
    for path in find_sequences(root):
        with leaving_out(path, failed, strict=strict):
            sequence = open_sequence(path)
            if needs_depth and not sequence.has_depth:
                lacking[path] = NO_DEPTH
            elif needs_depth and (faults := without_depth(sequence)):
                raise InputError("\n".join(faults))
            elif needs_flow and not sequence.has_flow and sequence.n_frames >= length:
                lacking[path] = NO_FLOW
            else:
                opened.append((sequence, shots_of(sequence) if find_shots else [range(sequence.n_frames)]))
    for path, rule in lacking.items():
        if strict or not opened:
            raise InputError(f"{path}: {rule}")
        logger.warning("left out: %s: %s", path, rule)
    if not opened:
        raise failure(failed, 0, [])
    return opened
