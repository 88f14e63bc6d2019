"""Clips to Batch: what a sample is follows from (seed, epoch, index) alone, so a run can go on from any of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import gcd
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from steadydepth.data.call_cache import CallCache
from steadydepth.data.clips import (
    NO_FLOW,
    Sample,
    clip_motion,
    clip_starts,
    fit_clip,
    fitting_strides,
    hold_frame,
    hold_out,
    skip_frames,
)
from steadydepth.data.cuts import shots_of
from steadydepth.data.depth_labels import without_depth
from steadydepth.data.geometric import draw_view, mirror, view_sample
from steadydepth.data.sequence_folder import Sequence as VideoSequence
from steadydepth.data.sequence_folder import open_sequence
from steadydepth.data.sequence_listing import find_sequences
from steadydepth.errors import InputError, failure
from steadydepth.files.video_write import recode
from steadydepth.ops.photometric import Photometric, augment_photometric
from steadydepth.types import Batch, Labels

logger = logging.getLogger(__name__)
Item = dict[str, Any]  # tensors, and what else a Batch knows of a clip


class ClipSamples(Dataset[Item]):
    """Samples `numbers` of an endless row: number n is clip order[n mod clips] of epoch n // clips.

    The row is the same whatever part of it a process, a loader worker or a resumed run takes. With `labels` single the
    row is one of images, every frame that has depth, and `length` of them make a sample: number n is images
    n * length and on. With `labels` teacher, `teacher_depth` has a file of float32 depth (t, h, w) of the training size
    for each sequence, by its name; NaN is not valid.

    Args:
        root: folder of sequence folders, videos or shards.
        length: frames of a clip.
        strides: steps from one frame of a clip to the next, in frames, of which one is drawn.
        height: rows that clips are brought to.
        width: columns.
        motion: `none`, `flow` or `dis`, as for `clips.clip_motion`.
        labels: what there is to learn from: `depth`, `single`, `teacher` or `none`.
        flip: mirror every second clip.
        photometric: light and camera, drawn anew for each sample.
        max_crf: of the H.264 that clips are coded with, drawn from 0, which is none, to this.
        max_zoom: 1 or more.
        max_rotation_deg: the largest angle, to either side.
        seed: of the order and of every draw.
        cached_clips: clips that are kept in memory.
        find_cuts: no clip of a video file crosses a cut.
        strict: an unreadable sequence is an error, and not left out with a warning.
        teacher_depth: files of depth by sequence, for the labels `teacher`.
        held_out: clips, at the most, that are left out of the row (`clips.hold_out`).
        numbers: the samples that this part of the row has.
        source: distinguishes the rows of one run.

    Raises:
        InputError: no clip fits, or one lacks the label.
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
        labels: Labels,
        flip: bool,
        photometric: Photometric,
        max_crf: int = 0,
        max_zoom: float = 1.0,
        max_rotation_deg: float = 0.0,
        seed: int,
        cached_clips: int,
        find_cuts: bool = False,
        strict: bool = False,
        teacher_depth: Mapping[str, Path] | None = None,
        held_out: int = 0,
        numbers: Sequence[int] = (),
        source: int = 0,
    ) -> None:
        opened = _open_all(
            root, find_shots=find_cuts and labels != "single", needs_depth=labels in ("depth", "single"), strict=strict
        )
        self.teacher_depth = teacher_depth or {}
        if labels == "teacher" and teacher_depth is not None:
            opened = [(sequence, shots) for sequence, shots in opened if sequence.name in self.teacher_depth]
        for sequence, _ in opened:
            if labels in ("depth", "single") and not sequence.has_depth:
                raise InputError(
                    f"{root / sequence.name}: has no depth/; data.labels=teacher trains without labels, and so do "
                    "labels teacher and none of one of data.sources"
                )
        if motion == "flow" and labels != "single" and any(strides):
            opened = _with_flow(root, opened, length, strict=strict)
        self.held_out: list[tuple[VideoSequence, int]] = []
        if labels == "single":
            self.clips = [(s, number) for s, _ in opened for number in sorted(s.labels["depth"])]
            stops = [s.n_frames for s, _ in self.clips]
        else:
            shots = [(s, shot) for s, of_sequence in opened for shot in of_sequence]
            parts, taken = hold_out([shot for _, shot in shots], length, held_out)
            self.held_out = [(shots[number][0], start) for number, start in taken]
            trained = [(s, part) for (s, _), of_shot in zip(shots, parts, strict=True) for part in of_shot]
            clips = [(s, part[start], part.stop) for s, part in trained for start in clip_starts(len(part), length)]
            self.clips, stops = [(s, start) for s, start, _ in clips], [stop for _, _, stop in clips]
        if not self.clips:
            raise InputError(
                f"{root}: no sequence has {length} frames; lower data.clip_length, give longer videos, or take their "
                "frames as images: `single: true` for one of data.sources"
            )
        self.length, self.strides, self.height, self.width, self.motion = length, strides, height, width, motion
        self.flip, self.photometric, self.max_crf, self.seed = flip, photometric, max_crf, seed
        self.max_zoom, self.max_rotation_deg = max_zoom, max_rotation_deg
        self.labels, self.source, self.numbers, self.stops = labels, source, numbers, stops
        self.strict, self._named = strict, set[int]()
        self._read = CallCache(self._read_sample, cached_clips)
        # A batch may lie on both sides of the end of an epoch.
        self._order = CallCache(self._shuffle, 2)

    def __len__(self) -> int:
        return len(self.numbers)

    def _read_sample(self, index: int, stride: int) -> Sample:
        sequence, start = self.clips[index]
        stop = start + (self.length - 1) * stride + 1
        clip = fit_clip(sequence.read(start, stop), self.height, self.width)
        if self.labels == "teacher":
            depth = np.load(self.teacher_depth[sequence.name], mmap_mode="r")[start:stop]
            valid = np.isfinite(depth)
            clip = replace(clip, depth=np.where(valid, depth, np.float32(0)), valid=valid)
        if self.labels == "single":
            return Sample(clip, None, None)
        if stride == 0:
            return hold_frame(clip, self.length, moves=self.motion != "none")
        return skip_frames(Sample(clip, *clip_motion(clip, self.motion)), stride)

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """At most `count` clips as they are, at the training size: those held out, or else some that are trained on."""
        chosen = self.held_out or self.clips
        count = min(count, len(chosen))
        chosen = [chosen[number * len(chosen) // count] for number in range(count)]
        clips = [sequence.read(start, start + self.length) for sequence, start in chosen]
        return [fit_clip(clip, self.height, self.width).frames for clip in clips]

    def place(self, number: int) -> tuple[int, np.random.Generator]:
        """The clip of number `number` and the generator of its augmentation, from (seed, epoch, index) alone."""
        epoch, index = divmod(number, len(self.clips))
        # NumPy takes (a, b) and (a, b, 0, 0) for the same seed: the first source draws what a run of one alone does.
        return int(self._order(epoch)[index]), np.random.default_rng((self.seed, epoch, index, self.source))

    def _shuffle(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch, 0, self.source)).permutation(len(self.clips))

    def __getitem__(self, item: int) -> Item:
        return self.sample(self.numbers[item])

    def sample(self, number: int) -> Item:
        """Sample `number` of the row, whichever `numbers` are asked for."""
        if self.labels == "single":
            images = [self._image(number * self.length + i) for i in range(self.length)]
            item = {name: torch.cat([one[name] for one in images]) for name in images[0]}
        else:
            item = self._clip(number)
        return item | {"labels": self.labels, "source": self.source}

    def describe(self, number: int) -> dict[str, Any]:
        """The sequences and frames of sample `number`, for people who look for it on the disk."""
        if self.labels == "single":
            places = [self.clips[self.place(number * self.length + i)[0]] for i in range(self.length)]
            return {"images": [{"sequence": sequence.name, "frame": frame} for sequence, frame in places]}
        index, stride = self._drawn(number)[:2]
        sequence, start = self.clips[index]
        return {"sequence": sequence.name, "frames": [start + i * stride for i in range(self.length)]}

    def _drawn(self, number: int) -> tuple[int, int, np.random.Generator]:
        """The clip of sample `number`, its stride, and what goes on to draw its augmentation."""
        index, generator = self.place(number)
        start = self.clips[index][1]
        stride = int(generator.choice(fitting_strides(self.stops[index] - start, self.length, self.strides)))
        return index, stride, generator

    def _clip(self, number: int) -> Item:
        index, stride, generator = self._drawn(number)
        return self._augment(self._read_or_next(index, stride), generator)

    def _image(self, number: int) -> Item:
        index, generator = self.place(number)
        return self._augment(self._read_or_next(index, 0), generator)

    def _read_or_next(self, index: int, stride: int) -> Sample:
        """The clip, or where a file of it is damaged the first one after it that can be read, at its own stride.

        A damaged file is so at every start: what stands in its place follows from its number as well.
        """
        failed = {}
        for ahead in range(len(self.clips)):
            place = (index + ahead) % len(self.clips)
            room = self.stops[place] - self.clips[place][1]
            fitting = 0 if self.labels == "single" else min(stride, (room - 1) // (self.length - 1))
            try:
                return self._read(place, fitting)
            except InputError as error:
                sequence, start = self.clips[place]
                failed[f"{sequence.name} at frame {start}"] = str(error)
                if self.strict:
                    raise
                if place not in self._named:
                    self._named.add(place)
                    logger.warning("left out: %s", error)
        raise failure(failed, 0, [])

    def _augment(self, sample: Sample, generator: np.random.Generator) -> Item:
        return augment_sample(
            sample, generator, flip=self.flip, photometric=self.photometric, max_crf=self.max_crf,
            max_zoom=self.max_zoom, max_rotation_deg=self.max_rotation_deg,
        )  # fmt: skip


def _open_all(
    root: Path, *, find_shots: bool, needs_depth: bool, strict: bool
) -> list[tuple[VideoSequence, list[range]]]:
    """The sequences of `root` and their shots; what cannot be read is named and left out, or with `strict` raised.

    A video file is decoded for its shots, so that one which breaks off is found here and not in mid-training. With
    `needs_depth` a sequence whose depth images hold none is one that cannot be read. InputError when nothing can be
    read.
    """
    opened, failed = [], {}
    for path in find_sequences(root):
        try:
            sequence = open_sequence(path)
            if needs_depth and sequence.has_depth and (faults := without_depth(sequence)):
                raise InputError("\n".join(faults))
            opened.append((sequence, shots_of(sequence) if find_shots else [range(sequence.n_frames)]))
        except InputError as error:
            if strict:
                raise
            failed[str(path)] = str(error)
            logger.warning("left out: %s", error)
    if not opened:
        raise failure(failed, 0, [])
    return opened


def _with_flow(
    root: Path, opened: list[tuple[VideoSequence, list[range]]], length: int, *, strict: bool
) -> list[tuple[VideoSequence, list[range]]]:
    """Those that have flow, or are too short for it; the others are named and left out.

    InputError when none is left, or with `strict` when one is to be left out.
    """
    kept, lacking = [], []
    for sequence, shots in opened:
        if sequence.has_flow or sequence.n_frames < length:
            kept.append((sequence, shots))
        else:
            lacking.append(root / sequence.name)
    if lacking and (strict or not kept):
        raise InputError(f"{lacking[0]}: {NO_FLOW}")
    for path in lacking:
        logger.warning("left out: %s: %s", path, NO_FLOW)
    return kept


@runtime_checkable
class Row(Protocol):
    """An endless row of samples, each of which follows from its number."""

    @property
    def clips(self) -> Sequence[Any]:
        """The clips that samples are made of; empty where they cannot be listed."""

    @property
    def motion(self) -> str:
        """What is known between frames: `none`, `flow` or `dis`."""

    def sample(self, number: int) -> Item:
        """Sample `number` of the row."""

    def describe(self, number: int) -> dict[str, Any]:
        """What sample `number` is made of, for a log."""

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """RGB of at most `count` clips that a guard compares models on."""


class MixedSamples(Dataset[Item]):
    """Samples `numbers` of an endless row made of the rows of several sources, each with its share.

    The shares are kept exactly in every block of `block` samples, and each source is spread evenly over it; from where
    on follows from (seed, block, source). Every source's own row goes on from block to block.

    Args:
        sources: the rows.
        shares: of each, in thousandths at the finest.
        seed: of where each begins in a block.
        numbers: the samples that this part of the row has.
    """

    def __init__(self, sources: Sequence[Row], *, shares: Sequence[float], seed: int, numbers: Sequence[int]) -> None:
        parts = [round(1000 * share) for share in shares]
        self.counts = [part // gcd(*parts) for part in parts]
        self.block = sum(self.counts)
        self.sources, self.seed, self.numbers = sources, seed, numbers
        self.clips = [clip for source in sources for clip in source.clips]
        self.moves = any(source.motion != "none" for source in sources)

    def __len__(self) -> int:
        return len(self.numbers)

    def frames_to_watch(self, count: int) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """At most `count` clips of all sources together, of each as many as of the others."""
        return [clip for source in self.sources for clip in source.frames_to_watch(max(1, count // len(self.sources)))]

    def place(self, number: int) -> tuple[int, int]:
        """The source of sample `number`, and which sample of that source it is."""
        block, index = divmod(number, self.block)
        first = np.random.default_rng((self.seed, block, len(self.sources))).random(len(self.sources))
        spread = sorted(
            ((k + first[source]) / count, source) for source, count in enumerate(self.counts) for k in range(count)
        )
        source = spread[index][1]
        before = sum(other == source for _, other in spread[:index])
        return source, block * self.counts[source] + before

    def describe(self, number: int) -> dict[str, Any]:
        """The sequences and frames of sample `number`, for people who look for it on the disk."""
        source, own = self.place(number)
        return {"source": source} | self.sources[source].describe(own)

    def __getitem__(self, item: int) -> Item:
        source, number = self.place(self.numbers[item])
        sample = self.sources[source].sample(number)
        if self.moves and "motion" not in sample:
            # The clips of a batch have the same parts: these stay at the same pixel.
            t, height, width = sample["valid"].shape
            still, everywhere = torch.zeros(t - 1, height, width, 2), torch.ones(t - 1, height, width, dtype=torch.bool)
            sample |= {"motion": still, "visible": everywhere}
        return sample


def augment_sample(
    sample: Sample,
    generator: np.random.Generator,
    *,
    flip: bool,
    photometric: Photometric,
    max_crf: int = 0,
    max_zoom: float = 1.0,
    max_rotation_deg: float = 0.0,
) -> Item:
    """Tensors of one sample: viewed, mirrored and coded together or not, each frame in its own light.

    Args:
        sample: a clip and its motion.
        generator: draws every choice.
        flip: mirror it from left to right in half of the cases.
        photometric: standard deviations of the light of each frame.
        max_crf: the worst quality of H.264 that the frames are coded in; 0 codes none.
        max_zoom: the strongest zoom of a view; 1 has none.
        max_rotation_deg: the largest turn of a view.

    Returns: frames (t, h, w, 3) are floats in [0, 1] where light is drawn, and the bytes that they were otherwise.
    """
    if max_zoom > 1 or max_rotation_deg > 0:
        sample = view_sample(sample, draw_view(generator, max_zoom=max_zoom, max_rotation_deg=max_rotation_deg))
    clip = sample.clip
    frames: np.ndarray = clip.frames
    if photometric != Photometric():
        frames = np.stack([augment_photometric(frame / np.float32(255), photometric, generator) for frame in frames])
    if max_crf:
        frames = recode(_in_bytes(frames), crf=int(generator.integers(max_crf + 1)))
    shape = frames.shape[:3]
    arrays = {
        "frames": frames,
        "depth": np.zeros(shape, np.float32) if clip.depth is None else clip.depth,
        "valid": np.zeros(shape, bool) if clip.valid is None else clip.valid,
    }
    if sample.motion is not None and sample.visible is not None:
        arrays |= {"motion": sample.motion, "visible": sample.visible}
    item = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    if flip and generator.random() < 0.5:
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
