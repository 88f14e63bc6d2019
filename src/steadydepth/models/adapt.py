"""A model made lighter to train, and made itself again before it is saved."""

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from steadydepth.types import InputError


def add_lora(model: nn.Module, rank: int, belongs: Callable[[str], bool]) -> None:
    """Low-rank adapters of `rank` on the linear layers whose names `belongs` takes (Hu et al. 2022), in place.

    Among what `belongs` takes they alone learn; at first they change nothing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise InputError("model.lora: needs the extra: pip install 'steadydepth[lora]'") from error
    targets = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and belongs(f"{name}.weight")
    ]
    if not targets:
        raise InputError("model.lora: the encoder has no linear layers to adapt: leave it 0 and train the weights")
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model)
    # peft freezes the whole model; outside the adapted part everything learns on.
    for name, parameter in model.named_parameters():
        if not belongs(name):
            parameter.requires_grad_(learned[name])


def without_lora(model: nn.Module) -> nn.Module:
    """A copy with the adapters merged into the weights they adapt: the same names and shapes as before them."""
    merged = copy.deepcopy(model)
    adapted = [(name, module) for name, module in merged.named_modules() if hasattr(module, "base_layer")]
    for name, module in adapted:
        layer: Any = module
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, layer.get_base_layer())
    return merged


def checkpoint_gradients(model: nn.Module) -> None:
    """Keep less of a forward pass, and compute it again on the way back: the same gradients for less memory."""
    network: Any = getattr(model, "network", None)
    encoder: Any = getattr(model, "encoder", network)
    try:
        if hasattr(network, "activation_checkpointing_enable"):
            network.activation_checkpointing_enable()
        elif hasattr(network, "gradient_checkpointing_enable"):  # transformers before 5.2x
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            encoder.set_grad_checkpointing()
    # What transformers and timm raise for an architecture that cannot; and encoders that are of neither.
    except (ValueError, AssertionError, AttributeError) as error:
        raise InputError(f"model.checkpointing: this model cannot: {error}; set it to false") from error
