"""Which weights are trained, at which learning rate: the parts of a model by the names of its parameters."""

import re
from collections.abc import Sequence

import torch
from torch import nn

from steadydepth.types import InputError

# Ours and most people's, and what transformers calls the part of a depth model that it takes from elsewhere.
ENCODER = re.compile(r"(network\.)?(encoder|backbone|dpt|glpn|depth_pro)\.")
LAYER = re.compile(r".*?\d+(?=\.)")  # up to the first number that ends a word: encoder.blocks.3, backbone.layer1


def is_encoder(name: str) -> bool:
    """Whether a parameter belongs to the encoder; everything else is the decoder."""
    return ENCODER.match(name) is not None


def rate_shares(model: nn.Module, *, encoder_learning_rate: float, layer_decay: float) -> dict[str, float]:
    """The learning rate of each parameter, as a share of the highest.

    The decoder takes 1, the last layer of the encoder `encoder_learning_rate`, and each layer before it `layer_decay`
    times the one after (Clark et al. 2020, ELECTRA). Parameters before the first layer, or after one, go with it.

    Args:
        model: its parameters are distinguished by their names.
        encoder_learning_rate: a share of that of the decoder, at least 0.
        layer_decay: in (0, 1].

    Returns: the share by the name of the parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    layers: list[str] = []
    layer_of = {}
    for name in filter(is_encoder, names):
        found = LAYER.match(name)
        if found and found[0] not in layers:
            layers.append(found[0])
        layer_of[name] = max(len(layers) - 1, 0)
    last = max(len(layers) - 1, 0)
    return {
        name: encoder_learning_rate * layer_decay ** (last - layer_of[name]) if name in layer_of else 1.0
        for name in names
    }


def train_only(model: nn.Module, parts: Sequence[str]) -> None:
    """Freeze, in place, all parameters but those of `parts`.

    Args:
        model: any module.
        parts: encoder, decoder, norms, or beginnings of parameter names.

    Raises:
        InputError: a part has no parameters; it lists what there is.
    """
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    names = [name for name, _ in model.named_parameters()]
    chosen = {part: {name for name in names if _belongs(name, part, norms)} for part in parts}
    if empty := [part for part, found in chosen.items() if not found]:
        begin = sorted({".".join(name.split(".")[:2]) for name in names})
        raise InputError(
            f"model.train: {', '.join(empty)}: no parameters of this name; there are encoder, decoder, norms "
            f"and names that begin with {', '.join(begin[:12])}"
        )
    learning = set().union(*chosen.values())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)


def _belongs(name: str, part: str, norms: set[str]) -> bool:
    if part == "norms":
        return name in norms
    if part in ("encoder", "decoder"):
        return is_encoder(name) == (part == "encoder")
    return name == part or name.startswith(part.rstrip(".") + ".")


def freeze_unused(model: nn.Module, height: int, width: int) -> list[str]:
    """Freeze the parameters that have no effect on the depth of an image.

    Some models have them; processes that average gradients would wait for theirs.

    Args:
        model: a `VideoDepthModel`; its weights and its mode stay as they are.
        height: rows of the image.
        width: columns of the image.

    Returns: their names.

    Raises:
        InputError: no parameter that is to be trained has an effect.
    """
    training = model.training
    model.eval()
    own = next(model.parameters())
    image = torch.rand((1, 1, 3, height, width), generator=torch.Generator().manual_seed(0)).to(own.device)
    depth, _ = model(image)
    if not depth.requires_grad:
        raise InputError("model.train: none of these weights has an effect on the depth: nothing would be trained")
    depth.sum().backward()
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in unused:
            parameter.requires_grad = False
    model.train(training)
    return unused
