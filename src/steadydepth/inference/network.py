"""A model in torch as a session asks it: a few frames in, depth of the size at which it sees them out."""

import hashlib
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from steadydepth.inference.session import Fitted, Image
from steadydepth.method.sequence import check_outputs, check_state
from steadydepth.models.declare import claims_of
from steadydepth.ops.devices import find_device
from steadydepth.ops.resize import shrink_image
from steadydepth.types import InputError, State

# Pixels that pass through a per-frame network together, and frames at the most. On a processor a few are faster than
# one, and many are slower again, since what is between the layers leaves its cache: at 192 x 256 on one core a frame
# took the default network 32 ms alone, 24 ms among four, 31 ms among ten. Some megapixels fill an accelerator.
_PIXELS_AT_ONCE = {"cpu": 225_000}
_PIXELS_ON_ACCELERATOR, _MOST_AT_ONCE = 1 << 22, 16


class Network:
    """A video depth model on its device: a few frames in, depth of its own size out; nothing is remembered."""

    def __init__(
        self, model: nn.Module, *, device: torch.device | str | None = None, max_side: int | None = None
    ) -> None:
        """Put `model` on a device.

        Args:
            model: honours the contract of `VideoDepthModel`.
            device: None leaves it where its weights are.
            max_side: `fit` shrinks frames by area to this longer side in pixels; None takes the model's own, or shows
                them as they are.

        Raises:
            InputError: the model is no module or claims nothing, the device is not there, or `max_side` is below 1.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"the model is {type(model).__name__}; it is an nn.Module; load takes names")
        self.claims = claims_of(model)
        if max_side is not None and max_side < 1:
            raise InputError(f"max_side is {max_side}; it is the longer side in pixels for the network: give 1 or more")
        own = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        self.device = own if device is None else find_device(device)
        # Of models that were made for images of some size.
        self.model, self.max_side = model.to(self.device), max_side or getattr(model, "max_side", None)
        self._least_side = int(getattr(model, "least_side", 1))
        self._fit_at_once = sys.maxsize  # frames; fewer where the device had no memory for so many

    def fit(self, image: Image) -> Fitted:
        """A frame at the size at which the network sees it; one that has that size is returned as it is."""
        shorter, longer = sorted(image.shape[:2])
        if self.max_side is None or shorter < self._least_side:
            return shrink_image(image, self.max_side)
        # A panorama is shrunk less: its shorter side stays long enough for the network.
        return shrink_image(image, max(self.max_side, math.ceil(self._least_side * longer / shorter)))

    def __call__(self, images: list[Fitted], state: State | None) -> tuple[Float32[np.ndarray, "t i j"], State]:
        """Depth of consecutive frames, in the units of `claims`, and the state that they leave, as of `Predicts`."""
        if len(images) > (n := self._fit_at_once):
            parts = list[np.ndarray]()
            for start in range(0, len(images), n):
                depth, after = self(images[start : start + n], state)
                parts, state = [*parts, depth], after
            return np.concatenate(parts), after
        if (predicted := self._predict_if_it_fits([images], state)) is None:
            return self(images, state)
        return predicted[0][0], predicted[1]

    def step_together(
        self, images: list[Fitted], states: list[State | None]
    ) -> list[tuple[Float32[np.ndarray, "i j"], State]]:
        """Depth of the next frame of several videos at once, as of `PredictsMany`."""
        if len(images) > (n := self._fit_at_once):
            some = range(0, len(images), n)
            return [one for i in some for one in self.step_together(images[i : i + n], states[i : i + n])]
        if (predicted := self._predict_if_it_fits([[image] for image in images], _stack(states))) is None:
            return self.step_together(images, states)
        depth, after = predicted
        # Copies: a view would keep the states of all the others alive as well.
        own = [{name: value[i : i + 1].clone() for name, value in after.items()} for i in range(len(images))]
        return list(zip(depth[:, 0], own, strict=True))

    def _predict_if_it_fits(
        self, videos: list[list[Fitted]], state: State | None
    ) -> tuple[Float32[np.ndarray, "b t i j"], State] | None:
        """As `_predict`; None where the device has no memory for so many frames: fewer go together from then on."""
        n_frames = len(videos) * len(videos[0])
        try:
            return self._predict(videos, state)
        except torch.OutOfMemoryError as error:
            if n_frames == 1:
                height, width = videos[0][0].shape[:2]
                raise InputError(
                    f"{self.device} has no memory for a frame of {height} x {width}: give a smaller max_side "
                    "(--max-side), or another device"
                ) from error
        # Here nothing holds what the attempt took.
        self._fit_at_once = n_frames // 2
        return None

    def _predict(self, videos: list[list[Fitted]], state: State | None) -> tuple[Float32[np.ndarray, "b t i j"], State]:
        """Depth of consecutive frames of several videos, all of one size."""
        shown = np.stack([np.stack(images) for images in videos])
        # Only around the model: a mode left on while a generator rests would leak into the caller's code.
        with _evaluating(self.model):
            frames = torch.from_numpy(shown).to(self.device).permute(0, 1, 4, 2, 3).float() / 255
            predicted, state = check_outputs(self.model(frames, state))
            depth = predicted.float().cpu().numpy()
        if depth.shape != shown.shape[:4]:
            raise ValueError(f"the model gave depth of {depth.shape} for frames of {shown.shape[:4]}; they are equal")
        return depth, check_state(state, len(videos))

    def frames_at_once(self, height: int, width: int) -> int:
        """How many frames of that size pass through a per-frame network together."""
        shrunk = 1.0 if self.max_side is None else min(1.0, self.max_side / max(height, width))
        pixels = _PIXELS_AT_ONCE.get(self.device.type, _PIXELS_ON_ACCELERATOR)
        return max(1, min(_MOST_AT_ONCE, self._fit_at_once, int(pixels / (height * width * shrunk**2))))

    def checksum(self) -> str:
        """Of the kinds of its modules and of its weights."""
        digest = hashlib.blake2b(digest_size=8)
        for module in self.model.modules():
            digest.update(type(module).__qualname__.encode())
        for name, value in self.model.state_dict().items():
            if isinstance(value, Tensor):
                digest.update(name.encode())
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _stack(states: list[State | None]) -> State | None:
    """States of one `state_kind` as one, for a batch of videos."""
    known = [state for state in states if state is not None]
    return {name: torch.cat([state[name] for state in known]) for name in known[0]} if known else None


# Of each module that somebody runs: how many are inside, and which of its parts train outside.
_inside: dict[nn.Module, tuple[int, list[nn.Module]]] = {}
_inside_lock = Lock()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients, until the last thread leaves; then every module trains, or not, as before."""
    with _inside_lock:
        count, training = _inside.get(model, (0, []))
        if count == 0:
            training = [module for module in model.modules() if module.training]
            if training:
                model.eval()
        _inside[model] = count + 1, training
    try:
        with torch.inference_mode():
            yield
    finally:
        with _inside_lock:
            count, training = _inside.pop(model)
            if count > 1:
                _inside[model] = count - 1, training
            for module in training if count == 1 else ():
                module.training = True
