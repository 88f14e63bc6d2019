"""Tensors as a safetensors file that is complete or not there."""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from steadydepth.files.atomic_writes import let_others_read, new_file
from steadydepth.files.writing import writing_in


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by their names, from any device.

    Raises:
        InputError: the disk is full, or the folder may not be written to.
    """
    with writing_in(path.parent), new_file(path) as part:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, part)
        let_others_read(part)
