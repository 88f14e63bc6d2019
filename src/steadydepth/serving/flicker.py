"""The flicker of a stream while it runs: what evaluate calls flicker_flow, on small images, of some pairs of frames."""

import time

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32

from steadydepth.inference.session import Image, Result
from steadydepth.metrics.along_flow import flow_flicker, image_flow
from steadydepth.ops.resize import shrink_image
from steadydepth.serving.access import Rates

_Seen = tuple[Image, Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]  # of one answer: image, depth, what counts
_SIDE = 128  # pixels of the longer side
_EVERY_S = 1.0  # between two pairs of one stream, each of which takes 12 ms
_FOLLOW = 0.2  # how far each pair moves the mean
PAIRS_S = 4.0  # of all streams together: a twentieth of a processor


class LiveFlicker:
    """Watches the answers of one stream.

    Attributes:
        value: 100 mean |ln d_t - ln W d_(t-1)| along trusted flow, per cent a frame, a moving mean over pairs; None
            before the first pair, and for affine depth, which has no logarithm.
    """

    def __init__(self, budget: Rates) -> None:
        self.value: float | None = None
        self._budget, self._due = budget, 0.0
        self._before: _Seen | None = None

    def see(self, result: Result, now: float | None = None) -> None:
        """The next answer; `now` in seconds."""
        if result.claims == "affine":
            return
        now = time.monotonic() if now is None else now
        image = shrink_image(result.image, _SIDE)
        size = image.shape[1::-1]
        # Inverse depth has the same logarithm but for its sign, where it has no offset.
        valid = result.valid & (result.depth > 0)
        small = cv2.resize(result.depth, size, interpolation=cv2.INTER_NEAREST)
        kept = cv2.resize(valid.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
        before, self._before = self._before, (image, small, kept)
        if before is None or result.is_start or before[0].shape != image.shape or now < self._due:
            return
        if self._budget.take("pairs", now):
            self._due = now + _EVERY_S
            flicker = _flicker(before, self._before)
            if np.isfinite(flicker):
                self.value = flicker if self.value is None else self.value + _FOLLOW * (flicker - self.value)


def _flicker(before: _Seen, now: _Seen) -> float:
    images, depths, kept = (np.stack(pair) for pair in zip(before, now, strict=True))
    safe = np.where(kept, depths, np.float32(1))
    scores = flow_flicker(torch.from_numpy(safe), image_flow(images), torch.from_numpy(kept))
    return float(scores["flicker_flow"])
