"""Files of weights, read without running what is in them."""

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from steadydepth.files.damage import reading
from steadydepth.types import InputError

NESTED = ("state_dict", "model")  # where training scripts put the weights beside other things


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a file that torch.save wrote, by name, on the CPU.

    Raises:
        InputError: there is no such file, or it is damaged, holds no state_dict, or is a pickle that holds anything but
            tensors and plain values: loading it would run code.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file of weights")
    way_out = "damaged, or a pickle that would run code; save its state_dict as .safetensors where it comes from"
    with reading(path, "as weights", way_out, pickle.UnpicklingError, SafetensorError, AssertionError):
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    for key in NESTED:
        if isinstance(stored, dict) and isinstance(stored.get(key), dict):
            stored = stored[key]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise InputError(f"{path}: holds no state_dict, names and tensors; save model.state_dict()")
    return stored
