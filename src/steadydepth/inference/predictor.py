"""A model put to use: frames in, depth out at their size, the state passed from frame to frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, UInt8
from torch import nn

from steadydepth.files.images import read_colour
from steadydepth.inference.exported import ExportedNet
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.runtime import resize_depth
from steadydepth.models.declare import claims_of
from steadydepth.ops.colours import is_measured
from steadydepth.types import Claims, InputError


@dataclass(frozen=True)
class Result:
    """What the model said of one frame."""

    depth: Float32[np.ndarray, "h w"]  # in the units of `claims`
    claims: Claims
    valid: Bool[np.ndarray, "h w"]  # True where depth is finite, and above 0 when it is a depth
    image: UInt8[np.ndarray, "h w 3"]  # the frame it was said of


class Predictor:
    """A video depth model on a device; it is put in evaluation mode and stays there.

    Nothing is remembered between calls: each image begins anew, each stream carries its own state. `max_side` shrinks
    frames by area for the network, and its depth is brought back to their size, bilinear in log depth.
    """

    def __init__(
        self, model: nn.Module, *, device: torch.device | str | None = None, max_side: int | None = None
    ) -> None:
        claims = claims_of(model)
        if max_side is not None and max_side < 1:
            raise InputError(f"max_side is {max_side}; it is the longer side in pixels for the network: give 1 or more")
        if max_side is not None and isinstance(model, ExportedNet):
            size = f"{model.file.height} x {model.file.width}"
            raise InputError(f"max_side is {max_side}; an exported file has a size of its own, {size}: leave it out")
        own = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.device = torch.device(device) if device is not None else own
        self.model = model.to(self.device).eval()
        self.claims = claims
        self.max_side = max_side

    @overload
    def predict(self, image: np.ndarray | Path | str) -> Result: ...
    @overload
    def predict(self, image: list[Any]) -> list[Result]: ...
    def predict(self, image: np.ndarray | Path | str | list[Any]) -> Result | list[Result]:
        """Depth of one image, uint8 RGB (h, w, 3) or a path; of each of a list, by itself, as a list."""
        if isinstance(image, list):
            return [self.predict(each) for each in image]
        return self.predict_next(read_colour(Path(image)) if isinstance(image, Path | str) else image, None)[0]

    def stream(self, source: Path | str | int | Iterable[np.ndarray]) -> Iterator[Result]:
        """Depth of every frame of a path, camera index, URL or iterator, as it comes; one frame in memory.

        InputError when the size changes on the way: the state is of the size it began with.
        """
        state, shape = None, None
        for number, image in enumerate(open_source(source).frames()):
            if shape is not None and np.shape(image) != shape:
                raise InputError(
                    f"frame {number} of {_short(source)} is {np.shape(image)} and those before it {shape}; one stream "
                    "has one size: resize it, or predict the images one by one"
                )
            shape = np.shape(image)
            result, state = self.predict_next(image, state)
            yield result

    def predict_next(self, image: np.ndarray, state: Any) -> tuple[Result, Any]:
        """Depth of `image`, uint8 RGB (h, w, 3), given the state that the frame before it left; and the next state."""
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
            raise InputError(f"an image is {kind}; it is a numpy array of uint8 (h, w, 3) in RGB: convert it")
        if isinstance(self.model, ExportedNet):
            depth = self.model.file.predict(image)  # it resizes by itself, and needs no floats
            return Result(depth, self.claims, is_measured(depth, self.claims), image), state
        shown = _shrink(image, self.max_side)
        # Only around the model: a mode left on while a generator rests would leak into the caller's code.
        with torch.inference_mode():
            frames = torch.from_numpy(shown).to(self.device).permute(2, 0, 1)[None, None].float() / 255
            predicted, state = self.model(frames, state)
            depth = predicted[0, 0].float().cpu().numpy()
        if depth.shape != shown.shape[:2]:
            raise ValueError(f"the model gave depth of {depth.shape} for a frame of {shown.shape[:2]}; they are equal")
        depth = resize_depth(depth, image.shape[0], image.shape[1], self.claims)
        return Result(depth, self.claims, is_measured(depth, self.claims), image), state


def _shrink(image: UInt8[np.ndarray, "h w 3"], max_side: int | None) -> UInt8[np.ndarray, "i j 3"]:
    height, width = image.shape[:2]
    if max_side is None or max(height, width) <= max_side:
        # From a read-only or turned array torch would warn, or refuse.
        return np.require(image, requirements=["C", "W"])
    factor = max_side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _short(source: object) -> str:
    return str(source) if isinstance(source, Path | str | int) else "the frames"
