"""Clips to Batch: what a sample is follows from (seed, epoch, index) alone, so a run can go on from any of them."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from steadydepth.data.augment import Light, relight
from steadydepth.data.clips import Sample, clip_motion, clip_starts, fit_clip, fitting_strides, hold_frame, skip_frames
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.data.video_files import recode
from steadydepth.types import Batch, InputError

Item = dict[str, Tensor]


class ClipSamples(Dataset[Item]):
    """Samples `numbers` of an endless row: number n is clip order[n mod clips] of epoch n // clips.

    The row is the same whatever part of it a process, a loader worker or a resumed run takes.
    """

    def __init__(
        self,
        root: Path,
        *,
        length: int,
        strides: Sequence[int] = (1,),
        height: int,
        width: int,
        motion: str,
        needs_depth: bool,
        flip: bool,
        light: Light,
        most_crf: int = 0,
        seed: int,
        cached_clips: int,
        numbers: Sequence[int],
    ) -> None:
        sequences = [open_sequence(path) for path in find_sequences(root)]
        for sequence in sequences:
            if needs_depth and not sequence.has_depth:
                raise InputError(f"{root / sequence.name}: has no depth/; data.labels=anchor trains without labels")
        self.clips = [(s, start) for s in sequences for start in clip_starts(s.n_frames, length)]
        if not self.clips:
            raise InputError(f"{root}: no sequence has {length} frames; lower data.clip_length or give longer videos")
        self.length, self.strides, self.height, self.width, self.motion = length, strides, height, width, motion
        self.flip, self.light, self.most_crf, self.seed = flip, light, most_crf, seed
        self.numbers = numbers
        self._read = lru_cache(maxsize=cached_clips)(self._read_sample)

    def __len__(self) -> int:
        return len(self.numbers)

    def _read_sample(self, index: int, stride: int) -> Sample:
        sequence, start = self.clips[index]
        stop = start + (self.length - 1) * stride + 1
        clip = fit_clip(sequence.read(start, stop), self.height, self.width)
        if stride == 0:
            return hold_frame(clip, self.length, moves=self.motion != "none")
        return skip_frames(Sample(clip, *clip_motion(clip, self.motion)), stride)

    def place(self, number: int) -> tuple[int, np.random.Generator]:
        """The clip of sample `number` and the generator of its augmentation, from (seed, epoch, index) alone."""
        epoch, index = divmod(number, len(self.clips))
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.clips))
        return int(order[index]), np.random.default_rng((self.seed, epoch, index))

    def __getitem__(self, item: int) -> Item:
        index, generator = self.place(self.numbers[item])
        sequence, start = self.clips[index]
        stride = int(generator.choice(fitting_strides(sequence.n_frames - start, self.length, self.strides)))
        sample = self._read(index, stride)
        return augment_sample(sample, generator, flip=self.flip, light=self.light, most_crf=self.most_crf)


def augment_sample(
    sample: Sample, generator: np.random.Generator, *, flip: bool, light: Light, most_crf: int = 0
) -> Item:
    """Tensors of one sample: mirrored as a whole or not, each frame in its own light, coded as video or not."""
    clip = sample.clip
    frames = clip.frames.astype(np.float32) / 255
    if light != Light():
        frames = np.stack([relight(frame, light, generator) for frame in frames])
    if most_crf:
        coded = recode(np.round(frames * 255).astype(np.uint8), crf=int(generator.integers(most_crf + 1)))
        frames = coded.astype(np.float32) / 255
    shape = frames.shape[:3]
    arrays = {
        "frames": np.moveaxis(frames, -1, 1),
        "depth": np.zeros(shape, np.float32) if clip.depth is None else clip.depth,
        "valid": np.zeros(shape, bool) if clip.valid is None else clip.valid,
    }
    if sample.motion is not None and sample.seen is not None:
        arrays |= {"motion": sample.motion, "seen": sample.seen}
    if flip and generator.random() < 0.5:
        arrays = {name: _mirror(name, array) for name, array in arrays.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


def _mirror(name: str, array: np.ndarray) -> np.ndarray:
    if name == "motion":
        return array[:, :, ::-1] * np.array([-1, 1], np.float32)
    return array[..., ::-1]


def collate(items: Sequence[Item]) -> Batch:
    """Samples of one size to a Batch."""
    return Batch(**{name: torch.stack([item[name] for item in items]) for name in items[0]})


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on `device`."""
    moved = {name: value.to(device, non_blocking=True) for name, value in vars(batch).items() if value is not None}
    return Batch(**moved)


def load_batches(samples: ClipSamples, *, batch: int, workers: int) -> Iterator[Batch]:
    """The samples in order, `batch` at a time; the last ones that do not fill a batch are left out."""
    # Its own generator: a loader without one draws from the global state and breaks exact resume.
    loader = DataLoader(
        samples,
        batch_size=batch,
        num_workers=workers,
        collate_fn=collate,
        drop_last=True,
        persistent_workers=workers > 0,
        generator=torch.Generator().manual_seed(samples.seed),
        worker_init_fn=_one_thread,
    )
    return iter(loader)


def _one_thread(worker: int) -> None:
    """Loader processes share the cores with the network: none of them takes more than one."""
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
