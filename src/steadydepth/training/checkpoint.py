"""Weights apart from the rest; written whole or not at all; resumed exactly."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin

from steadydepth.files.whole_files import new_file

STATE = "checkpoint.pt"


def save_model(model: PyTorchModelHubMixin, folder: Path) -> None:
    """Write config.json and model.safetensors into `folder`, each to a temporary name that is then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".model-") as temporary:
        model.save_pretrained(temporary)
        # The weights first: whoever finds a config.json finds its weights beside it.
        for name in ("model.safetensors", "config.json"):
            Path(temporary, name).replace(folder / name)


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write what a run needs to go on; the state before it stays until this one is whole on the disk."""
    with new_file(folder / STATE) as part:
        torch.save(state, part)


def load_state(folder: Path) -> dict[str, Any] | None:
    """What `save_state` wrote last, on the CPU; None where there is nothing yet."""
    path = folder / STATE
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
