"""One sample as tensors, augmented, and samples as a Batch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steadydepth.data.clips import Sample
from steadydepth.data.geometric import View, mirror, view_sample
from steadydepth.files.video_write import recode
from steadydepth.ops.photometric import Photometric, augment_photometric
from steadydepth.types import Batch

Item = dict[str, Any]  # tensors, and what else a Batch knows of a clip


@dataclass(frozen=True)
class Augmentation:
    """What is drawn anew for each sample; nothing by default.

    Args:
        flip: mirror half of the clips from left to right.
        photometric: standard deviations of the light and the camera of each frame.
        max_crf: of the H.264 that clips are coded with, drawn from 0, which is none, to this.
        max_zoom: the strongest zoom of the view of a clip; 1 has none.
        max_rotation_deg: the largest angle of that view, to either side.
    """

    flip: bool = False
    photometric: Photometric = field(default_factory=Photometric)
    max_crf: int = 0
    max_zoom: float = 1.0
    max_rotation_deg: float = 0.0

    @property
    def has_views(self) -> bool:
        """Whether clips are zoomed or turned."""
        return self.max_zoom > 1 or self.max_rotation_deg > 0

    def draw_view(self, generator: np.random.Generator) -> View:
        """A zoom, evenly in its logarithm, a turn and a place."""
        zoom = float(np.exp(generator.random() * np.log(self.max_zoom)))
        turn_rad = float(np.deg2rad(self.max_rotation_deg) * generator.uniform(-1, 1))
        return View(zoom, turn_rad, float(generator.random()), float(generator.random()))


NO_AUGMENTATION = Augmentation()


def augment_sample(sample: Sample, generator: np.random.Generator, augmentation: Augmentation) -> Item:
    """Tensors of one sample: viewed, mirrored and coded together or not, each frame in its own light.

    Args:
        sample: a clip and its motion.
        generator: draws every choice.
        augmentation: what is drawn.

    Returns: frames (t, h, w, 3) are floats in [0, 1] where light is drawn, and the bytes that they were otherwise.
    """
    if augmentation.has_views:
        sample = view_sample(sample, augmentation.draw_view(generator))
    clip, photometric = sample.clip, augmentation.photometric
    frames: np.ndarray = clip.frames
    if photometric != Photometric():
        frames = np.stack([augment_photometric(frame / np.float32(255), photometric, generator) for frame in frames])
    if augmentation.max_crf:
        frames = recode(_in_bytes(frames), crf=int(generator.integers(augmentation.max_crf + 1)))
    shape = frames.shape[:3]
    arrays = {
        "frames": frames,
        "depth": np.zeros(shape, np.float32) if clip.depth is None else clip.depth,
        "valid": np.zeros(shape, bool) if clip.valid is None else clip.valid,
    }
    if sample.motion is not None and sample.visible is not None:
        arrays |= {"motion": sample.motion, "visible": sample.visible}
    item = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if augmentation.flip and generator.random() < 0.5:
        return {name: mirror(name, part, columns=2) for name, part in item.items()}
    return item


def _in_bytes(frames: np.ndarray) -> np.ndarray:
    return frames if frames.dtype == np.uint8 else np.round(frames * 255).astype(np.uint8)


def make_batch(parts: Item, device: torch.device | str = "cpu") -> Batch:
    """A batch of `load_items` on `device`; frames stay in memory with the channels last, as networks want them."""
    moved = {name: part.to(device, non_blocking=True) for name, part in parts.items() if isinstance(part, Tensor)}
    frames = moved["frames"]
    # Not before: bytes are a quarter of what passes to the device.
    frames = frames if frames.is_floating_point() else frames.float().div_(255)
    return Batch(**parts | moved | {"frames": frames.movedim(-1, 2)})
