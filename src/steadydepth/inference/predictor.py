"""A model put to use: images and videos in, depth of their size out."""

import sys
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from steadydepth.errors import InputError, import_package
from steadydepth.files.images import read_colour
from steadydepth.inference.exported import ExportedNetwork
from steadydepth.inference.filters import ChosenFilter, choose_filter
from steadydepth.inference.frame_sources import Input, open_source
from steadydepth.inference.runtime import is_exported
from steadydepth.inference.session import Image, Result, Session, VideoSession
from steadydepth.ops.resize import check_image
from steadydepth.video_types import Claims

if TYPE_CHECKING:
    from torch import Tensor, device, nn

    from steadydepth.inference.network import Network

    Module = nn.Module
    Device = device | str
else:  # an exported file runs without torch, which takes seconds and hundreds of megabytes
    Module = Device = Tensor = Network = Any

# An image in any of the forms that `Predictor.predict` takes: an array, a tensor (3, h, w), a PIL image, a path.
AnyImage = Any

_ROUNDING = 1e-3  # by which resizing and normalising miss 0 and 1; a quarter of a step of 8 bits


class Predictor:
    """A video depth model on a device, ready to predict.

    Nothing is remembered between calls: each image begins anew, each stream carries its own state.
    """

    def __init__(
        self,
        model: Module | ExportedNetwork,
        *,
        device: Device | None = None,
        max_side: int | None = None,
        filter: str | ChosenFilter | None = None,
        strength: float | None = None,
    ) -> None:
        """Put `model` to use.

        Args:
            model: honours the contract of `VideoDepthModel`, or an exported file, which takes no `max_side`.
            device: None leaves it where its weights are.
            max_side: shrink frames to this longer side in pixels for the network; its depth is resized to their size.
            filter: what `filters.choose_filter` takes, applied to videos, never to single images.
            strength: of the learned filter, from 0 to 1; None takes its own.

        Raises:
            InputError: the model claims nothing, there is no such filter or device, or `max_side` does not fit.
        """
        self.filter = choose_filter(filter, strength)
        self.network: Network | ExportedNetwork
        if isinstance(model, ExportedNetwork):
            if max_side is not None:
                size = f"{model.file.height} x {model.file.width}"
                raise InputError(
                    f"max_side is {max_side}; an exported file has a size of its own, {size}: leave it out"
                )
            self.network = model
        else:
            from steadydepth.inference import network

            self.network = network.Network(model, device=device, max_side=max_side)

    @cached_property
    def model(self) -> Module:
        """The model itself; a module around an exported file."""
        if isinstance(self.network, ExportedNetwork):
            from steadydepth.inference.exported_net import ExportedNet

            return ExportedNet(self.network)
        return self.network.model

    @property
    def device(self) -> Device:
        """Where it computes."""
        return "cpu" if isinstance(self.network, ExportedNetwork) else self.network.device

    def shrinking(self, max_side: int) -> "Predictor":
        """The same model, which sees frames shrunk to this longer side in pixels; InputError for an exported file."""
        model = self.network if isinstance(self.network, ExportedNetwork) else self.network.model
        return Predictor(model, device=self.device, max_side=max_side, filter=self.filter)

    @property
    def claims(self) -> Claims:
        """What its numbers mean."""
        return self.network.claims

    def noted(self) -> dict[str, Any]:
        """What outputs note of the model: a checksum of its weights or its file, and the longer side that it sees.

        The side is in pixels, 0 where frames are not shrunk.
        """
        return {"model": self._checksum, "max_side": self.network.max_side or 0}

    @cached_property
    def _checksum(self) -> str:
        return self.network.checksum()

    def predict(self, image: AnyImage) -> Result:
        """Depth of one image by itself.

        Args:
            image: uint8 RGB (h, w, 3), a float tensor (3, h, w) in [0, 1], a PIL image, or a path.

        Raises:
            InputError: it is none of these, or cannot be read.
        """
        return next(Session(self.network).run([as_image(image)]))

    def predict_all(self, images: Iterable[AnyImage]) -> list[Result]:
        """Depth of each of some images, every one by itself, in any form that `predict` takes."""
        return [self.predict(image) for image in images]

    def choose_filter(self, filter: str | ChosenFilter | None, strength: float | None = None) -> ChosenFilter:
        """A filter by name, with the predictor's strength; its own for None. InputError as `filters.choose_filter`."""
        chosen = choose_filter(filter or self.filter)
        if strength is None and isinstance(filter, str) and chosen.strength is not None:
            strength = self.filter.strength
        return choose_filter(chosen, strength)

    def session(
        self, *, filter: str | ChosenFilter | None = None, strength: float | None = None, chunk: int | None = None
    ) -> VideoSession:
        """A session of its own for one video.

        Args:
            filter: in place of the predictor's own; "none" for no filter.
            strength: in place of the predictor's own; of the learned filter.
            chunk: frames that pass through the network at once, at least 1; None takes as many as fill the device.

        Raises:
            InputError: there is no such filter, it has no such strength, or `chunk` is below 1.
        """
        return Session(self.network, filter=self.choose_filter(filter, strength), chunk=chunk)

    def stream(
        self,
        source: Input | Iterable[Image],
        *,
        filter: str | ChosenFilter | None = None,
        strength: float | None = None,
        chunk: int | None = 1,
    ) -> Iterator[Result]:
        """Depth of every frame of a video, in order and in constant memory.

        Args:
            source: a path, a camera's index, a URL or an iterator of uint8 RGB images.
            filter: in place of the predictor's own; "none" for no filter.
            strength: in place of the predictor's own; of the learned filter.
            chunk: frames at once: 1 gives each as soon as it can be, None is faster where a device is to be filled.

        Raises:
            InputError: the source is missing, a frame is no image, there is no such filter or strength, or `chunk` is
                below 1.
        """
        session, opened = self.session(filter=filter, strength=strength, chunk=chunk), open_source(source)
        # What is live is not waited for, and so its cuts are known by the past alone.
        return map(session.step, opened.frames()) if opened.is_live else session.run(opened.frames())


# A name that `load` takes, a module that honours the contract, or what `load` returned.
AnyModel = str | Path | Module | Predictor


def load(
    name: str | Path,
    *,
    device: Device | None = None,
    max_side: int | None = None,
    filter: str | None = None,
    strength: float | None = None,
) -> Predictor:
    """Load a model by name, ready to predict.

    Args:
        name: a folder, a hub name, `package.module:factory` or an exported file.
        device: None takes an accelerator where there is one; an exported file runs on the CPU, at its own size.
        max_side: shrink frames to this longer side in pixels for the network; its depth is resized to their size.
        filter: what `filters.choose_filter` takes, applied to videos.
        strength: of the learned filter, from 0, the depth as it is, to 1; None takes its own.

    Raises:
        InputError: there is no such model or device, or the model cannot be read.
    """
    if not isinstance(name, str | Path):
        raise InputError(
            f"a model's name is {type(name).__name__}; load takes text or a path, Predictor takes a network"
        )
    if is_exported(name):
        return Predictor(ExportedNetwork(name), max_side=max_side, filter=filter, strength=strength)
    # Not at the top: scoring stored predictions needs no networks, which take a second and 200 MB to import.
    torch = import_package("torch", "torch", f"{name}: runs in torch, which is not installed; exported files need none")
    from steadydepth.models.load import load_model
    from steadydepth.ops.devices import find_device

    if device is not None:
        find_device(device)  # before weights are read, or fetched
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return Predictor(
        load_model(name), device=device or found or "cpu", max_side=max_side, filter=filter, strength=strength
    )


def as_predictor(model: AnyModel, *, device: str | None = None) -> Predictor:
    """A model that is ready to predict: loaded by its name on `device`, or the one that is given, where it is.

    Raises:
        InputError: as `load` and `Predictor`, or a model that is given is to be on a device: it is the caller's.
    """
    if isinstance(model, str | Path):
        return load(model, device=device)
    if device is not None:
        raise InputError(
            f"device {device}: only a model that is named is put on a device; put this one there first, and leave "
            "device out"
        )
    return model if isinstance(model, Predictor) else Predictor(model)


def as_image(image: AnyImage) -> Image:
    """An image in any of the forms of `Predictor.predict` as uint8 RGB (h, w, 3).

    Raises:
        InputError: it cannot be read, has more than 8 bits, or is of none of these forms.
    """
    from PIL import Image as PIL
    from PIL import ImageOps

    if isinstance(image, Path | str):
        return read_colour(Path(image))
    if isinstance(image, PIL.Image):
        if image.mode.startswith(("I", "F")):  # which PIL would cut off at 255
            raise InputError(f"an image of PIL's mode {image.mode} has more than 8 bits: scale it to 8, and to RGB")
        try:
            return check_image(np.array(ImageOps.exif_transpose(image).convert("RGB")))
        except (OSError, ValueError) as error:  # PIL reads the pixels of a file when they are asked for
            raise InputError(f"an image of PIL cannot be read ({error}): open another file") from error
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(image, torch.Tensor):
        return _of_tensor(image.detach())
    return check_image(image)


def _of_tensor(image: Tensor) -> Image:
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point() or not image.numel():
        raise InputError(f"an image is a tensor {image.dtype} {tuple(image.shape)}; it is float (3, h, w) in [0, 1]")
    low, high = float(image.min()), float(image.max())
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InputError(f"an image is a tensor from {low:g} to {high:g}; its values are in [0, 1]: divide by 255")
    return np.ascontiguousarray((image * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
