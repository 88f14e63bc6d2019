"""The network by itself, in training: parts c, d and e of train_step.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from train_bench import Bench, Found, ratio

from steadydepth.models.adapt import checkpoint_gradients
from steadydepth.training.processes import has_bf16
from steadydepth.training.setup import build_model


def formats(bench: Bench) -> Found:
    """Part c."""

    def arm(memory_format: torch.memory_format) -> Callable[[], None]:
        model: Any = build_model(bench.config).train().to(memory_format=memory_format)
        images = bench.batch.frames.flatten(0, 1).contiguous(memory_format=memory_format)

        def there_and_back() -> None:
            model.zero_grad()
            model.decoder(model.encoder(images)).mean().backward()

        return there_and_back

    spent = bench.time({"channels_last": arm(torch.channels_last), "contiguous": arm(torch.contiguous_format)})
    return {"channels_last / contiguous": ratio(spent, "channels_last", "contiguous")}


def precisions(bench: Bench) -> Found:
    """Part d."""
    step = bench.bare_step()

    def bf16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    spent = bench.time({"bf16": bf16, "float32": step})
    return {"bf16 / float32": ratio(spent, "bf16", "float32"), "has AMX or AVX512_BF16": has_bf16()}


def kept_bytes(model: nn.Module, frames: Tensor) -> int:
    """Bytes that a forward pass keeps for the way back, each storage once, weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        depth, _ = model(frames)
    del depth
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def checkpointing(bench: Bench) -> Found:
    """Part e."""
    plain, thrifty = (build_model(bench.config).train().to(memory_format=torch.channels_last) for _ in range(2))
    checkpoint_gradients(thrifty)
    frames = bench.batch.frames
    kept = {name: kept_bytes(model, frames) for name, model in (("thrifty", thrifty), ("plain", plain))}
    spent = bench.time(
        {"thrifty": lambda: thrifty(frames)[0].mean().backward(), "plain": lambda: plain(frames)[0].mean().backward()}
    )
    return {
        "activations kept": kept["thrifty"] / kept["plain"],
        "MiB kept without": kept["plain"] / 2**20,
        "time": ratio(spent, "thrifty", "plain"),
    }
