"""Samples that are rendered while training: no files, and no clip twice."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from steadydepth.data.loader import Item
from steadydepth.errors import InputError
from steadydepth.ops.photometric import Photometric
from steadydepth.ops.photometric_batch import augment_clips, blur
from steadydepth.synthetic.assets import load_assets, read_textures
from steadydepth.synthetic.batched import Rendered, World
from steadydepth.types import Frames

CLIPS_AT_ONCE = 16  # that are drawn and rendered together; what a sample is depends on it
_IMAGES = (".png", ".jpg", ".jpeg")


class RenderedSamples(Dataset[Item]):
    """Samples `numbers` of an endless row of rendered clips: what sample n shows follows from (seed, source, n) alone.

    Args:
        device: of torch, where clips are rendered.
        assets: file of models that `pack_assets` wrote; None leaves simple bodies.
        textures: folder of images that surfaces take as well.
        repeats: times that each clip is shown, by another camera each time.
        length: frames of a clip.
        height: rows of a frame.
        width: columns.
        flip: mirror half of the clips.
        photometric: draws of each frame, on top of one draw of the camera for each clip.
        seed: of the run.
        numbers: which samples.
        source: number of this row in a run of several.

    Raises:
        InputError: the models or the images cannot be read.
    """

    labels = "depth"
    motion = "flow"

    def __init__(
        self,
        device: torch.device,
        *,
        assets: Path | None = None,
        textures: Path | None = None,
        repeats: int = 1,
        length: int,
        height: int,
        width: int,
        flip: bool,
        photometric: Photometric,
        seed: int,
        numbers: Sequence[int] = (),
        source: int = 0,
    ) -> None:
        images = [] if textures is None else [p for p in sorted(textures.rglob("*")) if p.suffix.lower() in _IMAGES]
        if textures is not None and not images:
            raise InputError(f"{textures}: has no PNG or JPEG images to take textures from")
        self.world = World(
            device, None if assets is None else load_assets(assets), read_textures(images, 128) if images else None
        )
        self.length, self.height, self.width, self.flip = length, height, width, flip
        self.photometric, self.seed, self.numbers, self.source = photometric, seed, numbers, source
        self.repeats = repeats
        self.clips: list[Any] = []  # none that could be listed
        self._chunk = lru_cache(maxsize=2)(self._photographed)
        self._clips = lru_cache(maxsize=2 * repeats)(self._render)

    def __len__(self) -> int:
        return len(self.numbers)

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """The first clips of the row."""
        clips = [self.sample(number)["frames"] for number in range(count)]
        return [(one * 255).round().byte().numpy() for one in clips]

    def describe(self, number: int) -> dict[str, Any]:
        """What makes sample `number` again."""
        return {"rendered": number, "seed": self.seed}

    def __getitem__(self, item: int) -> Item:
        return self.sample(self.numbers[item])

    def sample(self, number: int) -> Item:
        """Sample `number` of the row, on the CPU."""
        chunk = self._chunk(number // CLIPS_AT_ONCE)
        return {name: part[number % CLIPS_AT_ONCE].cpu() for name, part in chunk.items()} | {
            "labels": "depth",
            "source": self.source,
        }

    def batches(self, batch: int) -> Iterator[Item]:
        """The samples in order, `batch` at a time, on the device that renders them."""
        for first in range(0, len(self.numbers) - batch + 1, batch):
            numbers = self.numbers[first : first + batch]
            chunks = list(dict.fromkeys(number // CLIPS_AT_ONCE for number in numbers))
            parts = [self._chunk(chunk) for chunk in chunks]
            rows = torch.tensor(
                [chunks.index(number // CLIPS_AT_ONCE) * CLIPS_AT_ONCE + number % CLIPS_AT_ONCE for number in numbers]
            )
            in_order = len(rows) == len(chunks) * CLIPS_AT_ONCE and bool((rows.diff() == 1).all())
            joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            if not in_order:
                joined = {name: part[rows.to(part.device)] for name, part in joined.items()}
            yield joined | {"labels": ("depth",) * batch, "source": (self.source,) * batch}

    @torch.no_grad()
    def _render(self, clips: int) -> Rendered:
        return self.world.clips(
            self._seed(clips), n_clips=CLIPS_AT_ONCE, n_frames=self.length, height=self.height, width=self.width
        )

    def _seed(self, *of: int) -> int:
        return int(np.random.SeedSequence((self.seed, self.source, *of)).generate_state(1, np.uint64)[0] >> 2)

    @torch.no_grad()
    def _photographed(self, chunk: int) -> dict[str, Tensor]:
        """Clips in the light of their cameras; one that is shown again is not shown in the batch after."""
        fresh, again = divmod(chunk, self.repeats)
        rendered = self._clips(max(fresh - 2 * again, 0))
        generator = torch.Generator().manual_seed(self._seed(chunk, 1))
        frames = augment_clips(_photograph(rendered.light, generator), self.photometric, generator)
        parts = {
            "frames": frames.movedim(2, -1),
            "depth": rendered.depth,
            "valid": torch.isfinite(rendered.depth),
            "motion": rendered.motion,
            "visible": rendered.visible,
        }
        if self.flip:
            mirrored = (torch.rand(CLIPS_AT_ONCE, generator=generator) < 0.5).to(frames.device)
            parts = {name: _mirror_some(name, part, mirrored) for name, part in parts.items()}
        return parts


def _photograph(light: Frames, generator: torch.Generator) -> Frames:
    """One camera for each clip: exposure by the mean, tone curve, saturation and sharpness."""
    b, t = light.shape[:2]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return (low + torch.rand(b, *shape, generator=generator) * (high - low)).view(b, *(1,) * 4).to(light.device)

    bright = light.mean(dim=(1, 2, 3, 4), keepdim=True).clamp(min=1e-4)
    encoded = (light * uniform(0.12, 0.5) / bright).clamp(0, 1) ** (1 / uniform(1.7, 2.6))
    grey = encoded.mean(dim=2, keepdim=True)
    frames = (grey + (encoded - grey) * uniform(0.1, 1.2)).clamp(0, 1)
    sigma = uniform(-0.8, 1.0).clamp(min=0).view(b, 1).expand(b, t)
    return blur(frames, sigma)


def _mirror_some(name: str, part: Tensor, mirrored: Tensor) -> Tensor:
    """Clips mirrored where `mirrored`; columns are the fourth axis of all parts."""
    turned = part.flip(3)
    if name == "motion":
        turned = turned * torch.tensor([-1.0, 1.0], device=part.device)
    return torch.where(mirrored.view(-1, *(1,) * (part.ndim - 1)), turned, part)
