"""Weights apart from the rest; written whole or not at all; resumed exactly."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadydepth.files.whole_files import new_file

STATE = "checkpoint.pt"
CARD = "README.md"


def save_model(model: nn.Module, folder: Path) -> None:
    """Write the model into `folder` as its kind is written, each file to a temporary name that is then renamed.

    Ours: config.json and model.safetensors; the others as they came, with steadydepth.json beside them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as temporary:
        model.save_pretrained(temporary)  # type: ignore[operator]
        written = [path for path in Path(temporary).iterdir() if path.name != CARD]
        # The weights first: whoever finds a config finds its weights beside it.
        for path in sorted(written, key=lambda path: (path.suffix != ".safetensors", path.name)):
            path.replace(folder / path.name)


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write what a run needs to go on; the state before it stays until this one is whole on the disk."""
    with new_file(folder / STATE) as part:
        torch.save(state, part)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote last, on the CPU; None where there is nothing yet."""
    path = folder / STATE
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
