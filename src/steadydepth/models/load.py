"""A model by what the user calls it: for now, a folder written by this package."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from steadydepth.errors import InputError
from steadydepth.models.depth_net import DepthNet

FILES = ("config.json", "model.safetensors")


def load_model(name: str | Path) -> nn.Module:
    """The model in a folder with config.json and model.safetensors, on the CPU, in evaluation mode."""
    folder = Path(name)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise InputError(f"{folder}: no model: {' and '.join(missing)} not there; give a folder that train wrote")
    # Not from_pretrained: it prints, and turns a damaged file into an error that names neither file nor way out.
    try:
        model = DepthNet(**json.loads((folder / FILES[0]).read_text()))
        model.load_state_dict(load_file(folder / FILES[1]))
    except (json.JSONDecodeError, SafetensorError, TypeError, RuntimeError) as error:
        raise InputError(f"{folder}: damaged or not written by train: {error}; train or copy it again") from error
    return model.eval()
