"""A model by what the user calls it: a folder of ours, of transformers or of a factory's, a hub name, a factory."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from steadydepth.errors import InputError
from steadydepth.models.declare import SIDECAR, Declared, claims_or_refuse, read_declared, split_name
from steadydepth.models.depth_net import DepthNet
from steadydepth.models.per_frame import WEIGHTS, load_per_frame
from steadydepth.models.transformers import PROCESSOR_FILES, load_transformers
from steadydepth.models.zoo import source_of

FILES = ("config.json", "model.safetensors")
# Beside them, of models that are not ours; large ones of transformers have their weights in several files and an index.
_PARTS = (*FILES, SIDECAR, *PROCESSOR_FILES, "model-*-of-*.safetensors", "model.safetensors.index.json")


def load_model(name: str | Path, claims: str | None = None) -> nn.Module:
    """Load a model, on the CPU and in evaluation mode.

    Args:
        name: a folder that train or transformers wrote, a ready model (`zoo.list_models`), a hub name (owner/name), or
            `package.module:factory`; what is declared of it may follow, `NAME,claims=disparity,multiple=14`.
        claims: in place of the declared one.

    Returns: a `VideoDepthModel`: module(frames, state) -> (depth, state), with its `claims`.

    Raises:
        InputError: there is no such model, its files are damaged, or its claims are not known.
    """
    plain, declared = split_name(str(name))
    plain = source_of(plain)
    if claims is not None:
        declared = replace(declared, claims=claims_or_refuse(plain, claims))
    folder = Path(plain)
    if not folder.exists() and re.fullmatch(r"\w+(\.\w+)*:\w+", plain):
        return load_per_frame(plain, declared)
    if _is_of_hub(plain):
        folder = _download(plain)
    return _load_folder(folder, plain, declared)


def model_files(folder: Path) -> list[Path]:
    """The files in a folder that `load_model` reads, by name; whatever else lies beside them is the user's own."""
    return sorted(path for pattern in _PARTS for path in folder.glob(pattern) if path.is_file())


def is_at_hand(name: str) -> bool:
    """False for a name of the hub whose files are not here, so that `load_model` would ask the hub for them.

    Raises:
        InputError: what is declared behind the name is malformed.
    """
    plain = source_of(split_name(name)[0])
    if not _is_of_hub(plain):
        return True
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(plain, FILES[0]), str)


def _is_of_hub(plain: str) -> bool:
    """Whether a name is one of the hub: it has exactly one slash; what else is not there is a path."""
    return not Path(plain).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", plain) is not None


def _load_folder(folder: Path, name: str, declared: Declared) -> nn.Module:
    if folder.is_file():
        raise InputError(
            f"{name}: no model but a file; a model is a folder, a hub name or package.module:factory. What is exported "
            "runs, and is not trained, compared or exported again: give the model that it was exported from"
        )
    beside = _read_json(folder / SIDECAR, name)
    factory = beside.pop("factory", None)
    declared = declared.over(read_declared(beside, f"{name}: {SIDECAR}"))
    if factory is not None:
        return load_per_frame(str(factory), replace(declared, weights=str(folder / WEIGHTS)))
    config = _read_json(folder / FILES[0], name)
    if "model_type" in config:
        return load_transformers(folder, name, declared)
    missing = [file for file in FILES if not (folder / file).is_file()]
    if missing:
        raise InputError(
            f"{name}: no model: {' and '.join(missing)} not there; give a folder that train or transformers wrote, a "
            "hub name (owner/name), or package.module:factory"
        )
    return _load_ours(folder, name, config, declared)


def _load_ours(folder: Path, name: str, config: dict[str, Any], declared: Declared) -> DepthNet:
    # Not from_pretrained: it prints, and turns a damaged file into an error that names neither the file nor what to do.
    try:
        model = DepthNet(**config)
        model.load_state_dict(load_file(folder / FILES[1]))
    except (SafetensorError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # of a config or of weights
        raise InputError(f"{name}: damaged or not written by train: {error}; train or copy it again") from error
    declared.only(name, "claims")
    if declared.claims not in (None, model.claims):
        raise InputError(f"{name}: declared as {declared.claims}, but was trained as {model.claims}: leave it out")
    return model.eval()


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{name}: {path.name}: damaged: {error}; copy it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: {path.name}: not a JSON object; copy it again")
    return content


def _download(name: str) -> Path:
    """The files of a hub name: configs and safetensors, and a pickle only where there is nothing else."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            # transformers reads it with weights_only.
            folder = Path(snapshot_download(name, allow_patterns=["*.json", "pytorch_model*.bin"]))
    except (OSError, ValueError, HFValidationError, HfHubHTTPError) as error:
        reason = " ".join(str(error).split()).partition(". ")[0][:200]  # whole paragraphs, with advice that is not ours
        raise InputError(
            f"{name}: no such folder, and the hub does not give it: {reason}: download it "
            f"where there is a network (hf download {name} --local-dir FOLDER) and give FOLDER"
        ) from error
    return folder
