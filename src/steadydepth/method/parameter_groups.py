"""Which weights are trained, at which learning rate: the parts of a model by the names of its parameters."""

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from steadydepth.types import InputError

# Ours and most people's, and what transformers calls the part of a depth model that it takes from elsewhere.
ENCODER = re.compile(r"(network\.)?(encoder|backbone|dpt|glpn|depth_pro)\.")
LAYER = re.compile(r".*?\d+(?=\.)")  # up to the first number that ends a word: encoder.blocks.3, backbone.layer1
# The parts of each stage of GLPN are in lists side by side: encoder.patch_embeddings.2, encoder.block.2.
STAGE = re.compile(r"(.*\bglpn\.encoder\.)\w+\.(\d+)(?=\.)")
# One of several encoders side by side, as the patch_encoder and the image_encoder of DepthPro.
TOWER = re.compile(r".*?_encoder(?=\.)")


def is_encoder(name: str) -> bool:
    """Whether a parameter belongs to the encoder; everything else is the decoder."""
    return ENCODER.match(name) is not None


def rate_shares(model: nn.Module, *, encoder_learning_rate: float, layer_decay: float) -> dict[str, float]:
    """The learning rate of each parameter, as a share of the highest.

    The decoder takes 1, the last layer of the encoder `encoder_learning_rate`, and each layer before it `layer_decay`
    times the one after (Clark et al. 2020, ELECTRA). Parameters before the first layer, or after one, go with it.
    Encoders side by side each count their own layers; what joins them has the rate of a last layer.

    Args:
        model: its parameters are distinguished by their names.
        encoder_learning_rate: a share of that of the decoder, at least 0.
        layer_decay: in (0, 1].

    Returns: the share by the name of the parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    encoder = list(filter(is_encoder, names))
    towers: dict[str, list[str]] = {}
    for name in encoder:
        if found := TOWER.match(name):
            towers.setdefault(found[0], []).append(name)
    after = dict.fromkeys(encoder, 0)  # how many layers of its own encoder follow on that of a parameter
    for tower in towers.values() if len(towers) > 1 else [encoder]:
        after |= _layers_after(tower)
    return {name: encoder_learning_rate * layer_decay ** after[name] if name in after else 1.0 for name in names}


def _layers_after(names: Sequence[str]) -> dict[str, int]:
    """How many layers follow on that of each parameter of one encoder."""
    layers: dict[str, int] = {}
    layer_of = {}
    for name in names:
        stage, layer = STAGE.match(name), LAYER.match(name)
        if layer:
            key = stage[1] + stage[2] if stage else layer[0]
            layer_of[name] = layers.setdefault(key, len(layers))
        else:
            layer_of[name] = max(len(layers) - 1, 0)
    return {name: max(len(layers) - 1, 0) - number for name, number in layer_of.items()}


def train_only(model: nn.Module, parts: Sequence[str], *, height: int = 192, width: int = 256) -> None:
    """Freeze, in place, all parameters but those of `parts`.

    Args:
        model: any module.
        parts: encoder, decoder, norms, coarse (`coarse_parameters`), or beginnings of parameter names.
        height: rows of the image that `coarse` is found with.
        width: its columns.

    Raises:
        InputError: a part has no parameters; it lists what there is.
    """
    norms = {
        f"{prefix}.{name}"
        for prefix, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    known = {"norms": norms}
    if "coarse" in parts:
        known["coarse"] = coarse_parameters(model, height, width)
    names = [name for name, _ in model.named_parameters()]
    chosen = {part: known.get(part, {name for name in names if _belongs(name, part)}) for part in parts}
    if empty := [part for part, found in chosen.items() if not found]:
        begin = sorted({".".join(name.split(".")[:2]) for name in names})
        raise InputError(
            f"model.train: {', '.join(empty)}: no parameters of this name; there are encoder, decoder, norms, coarse "
            f"and names that begin with {', '.join(begin[:12])}"
        )
    learning = set().union(*chosen.values())
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in learning)


def _belongs(name: str, part: str) -> bool:
    if part in ("encoder", "decoder"):
        return is_encoder(name) == (part == "encoder")
    return name == part or name.startswith(part.rstrip(".") + ".")


COARSE = 144  # pixels of the image for each place of a coarse layer, at least: strides of 12 and more, patches of 14


class _Places(TorchFunctionMode):
    """At how many places each parameter is applied, by its identity, pixels or tokens; and the pixels of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.most: dict[int, int] = {}
        self.n_pixels = 0  # of the largest image that a convolution was shown: some networks resize what they are given

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        given = [*args, *kwargs.values()]
        weights = [one for one in given if isinstance(one, nn.Parameter)]
        is_applied = any(
            isinstance(one, Tensor) and not isinstance(one, nn.Parameter) and one.ndim > 2 for one in given
        )
        if weights and is_applied and isinstance(result, Tensor) and result.ndim > 2:
            # Channels are last in what a linear layer gives, or a norm of tokens, and second after a convolution.
            channels = result.shape[-1] if function in (F.linear, F.layer_norm) else result.shape[1]
            places = result.numel() // channels
            if function is F.conv2d:
                self.n_pixels = max(self.n_pixels, given[0].shape[-2] * given[0].shape[-1])
            for weight in weights:
                self.most[id(weight)] = max(self.most.get(id(weight), 0), places)
        return result


def coarse_parameters(model: nn.Module, height: int, width: int) -> set[str]:
    """Names of the parameters that are applied at a twelfth of the resolution of the image, or less.

    What a network says of rooms and things is there, and so is most of its flicker; where edges lie is in the others.

    Args:
        model: a `VideoDepthModel`.
        height: rows of the image that it is asked about.
        width: columns of the image.

    Returns: the names; parameters that no layer is seen to apply are none of them.
    """
    training, own = model.training, next(model.parameters())
    model.eval()
    with _Places() as places, torch.no_grad():
        model(torch.zeros((1, 1, 3, height, width), device=own.device))
    model.train(training)
    return {
        name
        for name, parameter in model.named_parameters()
        if COARSE * places.most.get(id(parameter), places.n_pixels + 1) <= places.n_pixels
    }


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
    unused = [name for name, one in model.named_parameters() if one.requires_grad and one.grad is None]
    for name, parameter in model.named_parameters():
        parameter.grad = None
        if name in unused:
            parameter.requires_grad = False
    model.train(training)
    return unused
