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


def open_shots(root: Path, *, find_shots: bool, needs_depth: bool, strict: bool) -> list[Opened]:
    """The sequences of a folder and their shots; what cannot be read is named and left out.

    A video file is decoded for its shots, so that one which breaks off is found here and not in mid-training.

    Args:
        root: folder of sequence folders, videos or shards.
        find_shots: where a video file has cuts; otherwise each sequence is one shot.
        needs_depth: a sequence without depth images, or whose depth images hold none, is left out as well.
        strict: what is to be left out is an error.

    Returns: each sequence with the frames of its shots.

    Raises:
        InputError: nothing is left.
    """
    opened, lacking, failed = [], list[Path](), dict[str, str]()
    for path in find_sequences(root):
        with leaving_out(path, failed, strict=strict):
            sequence = open_sequence(path)
            if needs_depth and not sequence.has_depth:
                lacking.append(path)
                continue
            if needs_depth and (faults := without_depth(sequence)):
                raise InputError("\n".join(faults))
            opened.append((sequence, shots_of(sequence) if find_shots else [range(sequence.n_frames)]))
    _name_lacking(lacking, NO_DEPTH, is_error=strict or not opened)
    if not opened:
        raise failure(failed, 0, [])
    return opened


def with_flow(root: Path, opened: list[Opened], length: int, *, strict: bool) -> list[Opened]:
    """Those that have flow, or are too short for it; the others are named and left out.

    Args:
        root: the folder that they are from.
        opened: of `open_shots`.
        length: frames of a clip.
        strict: one that is to be left out is an error.

    Raises:
        InputError: none is left.
    """
    kept, lacking = [], []
    for sequence, shots in opened:
        if sequence.has_flow or sequence.n_frames < length:
            kept.append((sequence, shots))
        else:
            lacking.append(root / sequence.name)
    _name_lacking(lacking, NO_FLOW, is_error=strict or not kept)
    return kept


def _name_lacking(lacking: list[Path], rule: str, *, is_error: bool) -> None:
    if lacking and is_error:
        raise InputError(f"{lacking[0]}: {rule}")
    for path in lacking:
        logger.warning("left out: %s: %s", path, rule)
