"""Checkpoints and models on the disk: each file complete or absent, and a run resumed exactly."""

import logging
import os
import pickle
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import let_others_read, move, new_file
from steadydepth.files.damage import short
from steadydepth.files.writing import writing_in

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
CARD = "README.md"
MODEL_PART = ".model-"  # a model that is being written


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the model into `folder` as its kind is written, each file to a temporary name that is then renamed.

    Ours: config.json and model.safetensors; the others unchanged, with steadydepth.json beside them.

    Args:
        model: with `save_pretrained`.
        folder: created if need be.

    Raises:
        InputError: the disk is full, or the folder may not be written to.
    """
    with writing_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=MODEL_PART) as temporary:
            model.save_pretrained(temporary)  # type: ignore[operator]
            written = [path for path in Path(temporary).iterdir() if path.name != CARD]
            # The weights first: whoever finds a config finds its weights beside it.
            for path in sorted(written, key=lambda path: (path.suffix != ".safetensors", path.name)):
                let_others_read(path)
                move(path, folder / path.name)


def save_checkpoint(content: dict[str, Any], folder: Path) -> None:
    """Write what a run needs to resume; the checkpoint before it is kept beside this one.

    The file is complete or absent however the process ends.

    Args:
        content: tensors, plain values, and lists and dicts of them: it is read back without unpickling anything else.
        folder: of the run.

    Raises:
        InputError: the disk is full, or the folder may not be written to.
    """
    path = folder / CHECKPOINT
    with writing_in(folder), new_file(path) as part:
        # Through a file of Python: torch's own writer does not report why it failed.
        with part.open("wb") as file:
            torch.save(content, file)
            os.fsync(file.fileno())
        # Only now: until the new one is on the disk, both of the others stay.
        if path.is_file():
            move(path, folder / PREVIOUS)
    _keep_names(folder)


def _keep_names(folder: Path) -> None:
    """See that the names in a folder are on the disk too, not only what they name."""
    if sys.platform == "win32":  # no folder can be opened there; NTFS keeps a journal of its names
        return
    names = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(names)
    finally:
        os.close(names)


def remove_remains(folder: Path) -> None:
    """Delete what a killed process had begun to write: no other may be writing now."""
    for part in folder.glob(f".{Path(CHECKPOINT).stem}.*.part.pt"):
        part.unlink()
    for part in folder.rglob(f"{MODEL_PART}*"):
        shutil.rmtree(part)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The newest undamaged checkpoint in `folder`, on the CPU; None where there is none yet.

    A damaged one is named in a warning, and the one before it is taken.

    Raises:
        InputError: all are damaged, or one may not be read.
    """
    damaged = []
    for path in (folder / CHECKPOINT, folder / PREVIOUS):
        if not path.is_file():
            continue
        try:
            return _read(path)
        except (zipfile.BadZipFile, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
            damaged.append(str(path))
            logger.warning("%s: damaged (%s); looking for the checkpoint before it", path, short(error))
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}): give us the right to read it") from error
    if damaged:
        raise InputError(f"{', '.join(damaged)}: damaged, and no other checkpoint is left: delete it to begin again")
    return None


def _read(path: Path) -> dict[str, Any]:
    # torch.load does not look at the checksums that torch.save has written.
    with zipfile.ZipFile(path) as archive:
        if name := archive.testzip():
            raise zipfile.BadZipFile(f"wrong checksum of {name}")
    return torch.load(path, map_location="cpu", weights_only=True)
