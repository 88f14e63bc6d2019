"""Rendered clips in files: rendered once, and shown as often as a run wants."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steadydepth.files.damage import reading
from steadydepth.files.tensors import write_tensors
from steadydepth.synthetic.batched import Rendered

# Renders what belongs in the file of a number. Each process builds its own: models and textures are too large to send.
Render = Callable[[int], None]


def write_render(path: Path, rendered: Rendered) -> None:
    """What training takes of rendered clips, in one file: light in 16 bits, labels as they are."""
    labels = {name: getattr(rendered, name) for name in ("depth", "motion", "visible")}
    write_tensors(path, {"light": rendered.light.half(), **labels})


def read_render(path: Path, device: torch.device) -> dict[str, Tensor]:
    """The parts that `write_render` wrote, on `device`; InputError when the file is damaged."""
    with reading(path, "as rendered clips", "remove it, and it is rendered again", SafetensorError):
        parts = load_file(path)
    # Not inside: a device without memory for them is no damage to the file.
    parts = {name: part.to(device) for name, part in parts.items()}
    return parts | {"light": parts["light"].float()}
