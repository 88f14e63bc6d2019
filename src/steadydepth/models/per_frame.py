"""Any image network as a video model: `package.module:factory`, what it claims and the sizes it takes."""

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor, nn

from steadydepth.models.claimed import floor_depth
from steadydepth.models.declare import SIDECAR, Declared, claims_or_refuse
from steadydepth.models.depth_net import MEAN, STD
from steadydepth.models.weights import read_weights
from steadydepth.types import Depth, Frames, InputError, State

WEIGHTS = "model.safetensors"


class PerFrame(nn.Module):
    """A per-frame depth model around a network of images.

    With `multiple` frames are padded below and on the right with their last pixels, and the output is cropped; with
    `size` they are resized and the output is resized back, bilinear. A smaller output is resized to its input.

    Args:
        network: from images (n, 3, h, w), RGB in [0, 1] unless normalised, to (n, h, w) or (n, 1, h, w).
        declared: its claims, its size rule and its normalisation.
        factory: `package.module:name` of what made the network, for errors and for saving.

    Raises:
        InputError: the claims are not declared.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Callable[[Tensor], Tensor], declared: Declared, factory: str) -> None:
        super().__init__()
        self.network = network
        self.claims = claims_or_refuse(factory, declared.claims, "a network from a factory does not declare it")
        self.declared, self.factory = declared, factory
        mean, std = (MEAN, STD) if declared.normalise else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, frames: Frames, state: State | None = None) -> tuple[Depth, State]:
        """The prediction for each frame by itself, in the units of `claims`, floored where it is a depth; no state."""
        b, t, _, h, w = frames.shape
        images = self._fit((frames.flatten(0, 1) - self.mean) / self.std)
        predicted = self._run(images, h, w).float()
        if predicted.shape[-2:] != images.shape[-2:]:
            predicted = F.interpolate(predicted, images.shape[-2:], mode="bilinear", align_corners=False)
        if self.declared.size:
            predicted = F.interpolate(predicted, (h, w), mode="bilinear", align_corners=False)
        return floor_depth(predicted[:, 0, :h, :w], self.claims).unflatten(0, (b, t)), {}

    def _fit(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 _ _"]:
        h, w = images.shape[-2:]
        if self.declared.size:
            return F.interpolate(images, self.declared.size, mode="bilinear", align_corners=False, antialias=True)
        multiple = self.declared.multiple or 1
        return F.pad(images, (0, -w % multiple, 0, -h % multiple), mode="replicate")

    def _run(self, images: Float[Tensor, "n 3 _ _"], h: int, w: int) -> Float[Tensor, "n 1 _ _"]:
        try:
            predicted = self.network(images)
        except (RuntimeError, ValueError, AssertionError) as error:
            # What no other size helps, and what others explain.
            if torch.compiler.is_exporting() or isinstance(error, torch.OutOfMemoryError):
                raise
            why = " ".join(str(error).split())[:200]
            raise InputError(
                f"{self.factory}: fails on frames of {h} x {w}: {why}: does it take other sizes? Declare them as "
                f"{self.factory},multiple=N or {self.factory},size=HxW"
            ) from error
        if isinstance(predicted, Tensor) and predicted.ndim == 3:
            predicted = predicted[:, None]
        if not isinstance(predicted, Tensor) or predicted.ndim != 4 or predicted.shape[1] != 1:
            found = tuple(predicted.shape) if isinstance(predicted, Tensor) else type(predicted).__name__
            raise InputError(f"{self.factory}: gives {found}; its depth is a tensor (n, h, w) or (n, 1, h, w)")
        return predicted

    def save_pretrained(self, folder: str | Path) -> None:
        """The network's own state_dict, and beside it how the network is made and what was declared.

        Raises:
            InputError: the network is a function without weights.
        """
        if not isinstance(self.network, nn.Module):
            raise InputError(f"{self.factory}: is a function without weights; there is nothing to save")
        # Clones: safetensors refuses weights that share memory, and every key is to come back.
        own = self.network.state_dict().items()
        weights = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in own}
        save_file(weights, Path(folder) / WEIGHTS)
        content = {"factory": self.factory} | replace(self.declared, weights=None).given
        (Path(folder) / SIDECAR).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def load_per_frame(factory: str, declared: Declared) -> PerFrame:
    """The network that `package.module:factory` makes when it is called, with the declared weights in it.

    Args:
        factory: `package.module:name` of a function that returns an nn.Module or a function of images.
        declared: claims, size rule, normalisation and weights.

    Returns: the model, in evaluation mode.

    Raises:
        InputError: the factory cannot be imported or called, or the weights do not fit.
    """
    declared.only(factory, "claims", "multiple", "size", "normalise", "weights")
    network = _make(factory)
    if declared.weights is not None:
        if not isinstance(network, nn.Module):
            raise InputError(f"{factory}: gives a function, which takes no weights: {declared.weights}")
        _fill(network, Path(declared.weights), factory)
    return PerFrame(network, declared, factory).eval()


def _make(factory: str) -> Callable[[Tensor], Tensor]:
    module, _, name = factory.partition(":")
    try:
        make = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{factory}: {error}; install the package, or name its folder: PYTHONPATH=FOLDER steadydepth ..."
        ) from error
    except AttributeError as error:
        raise InputError(f"{factory}: {error}; write package.module:factory") from error
    network = make()
    if not callable(network):
        raise InputError(f"{factory}: gives {type(network).__name__}; it makes an nn.Module or a function of images")
    return network


def _fill(network: nn.Module, path: Path, factory: str) -> None:
    try:
        network.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise InputError(f"{path}: is not of what {factory} makes: {' '.join(str(error).split())[:400]}") from error
