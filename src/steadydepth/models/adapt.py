"""A model made cheaper to train, and restored before it is saved: LoRA adapters, gradient checkpointing."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from steadydepth.errors import import_extra
from steadydepth.types import InputError


def add_lora(model: nn.Module, rank: int, belongs: Callable[[str], bool]) -> None:
    """Add low-rank adapters (Hu et al. 2022) to linear layers in place; at first they change nothing.

    Args:
        model: any module.
        rank: of the adapters, at least 1.
        belongs: True for the names of the parameters that are adapted; of these the adapters alone are trained.

    Raises:
        InputError: peft is not installed, or no linear layer belongs.
    """
    peft = import_extra("peft", "lora", "model.lora: needs the extra")
    targets = [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and belongs(f"{name}.weight")
    ]
    if not targets:
        raise InputError("model.lora: the encoder has no linear layers to adapt: leave it 0 and train the weights")
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    peft.inject_adapter_in_model(peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=targets), model)
    # peft freezes all of the model; outside the adapted part all is trained as before.
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
    """Keep less of a forward pass and compute it again in the backward pass: the same gradients for less memory.

    The backward pass is to be `backward_keeping_buffers`.

    Raises:
        InputError: the architecture does not support it.
    """
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


def backward_keeping_buffers(loss: Tensor, *, model: nn.Module, backward: Callable[[Tensor], Any]) -> None:
    """A backward pass after which the buffers of `model` are as the forward pass left them.

    What is computed again for checkpointed gradients would update the running statistics of norms a second time; the
    libraries that checkpoint have no switch against it.

    Args:
        loss: of the forward pass.
        model: its buffers are kept.
        backward: the backward pass itself.
    """
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    backward(loss)
    with torch.no_grad():
        for buffer, before in kept:
            buffer.copy_(before)
