"""Videos to samples: what a sample is follows from (seed, epoch, index) alone, so a run can resume from any of them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch.utils.data import Dataset

from steadydepth.data.call_cache import CallCache
from steadydepth.data.clips import (
    Sample,
    clip_motion,
    clip_starts,
    fit_clip,
    fitting_strides,
    hold_frame,
    hold_out,
    skip_frames,
)
from steadydepth.data.opened_shots import open_shots
from steadydepth.data.samples import NO_AUGMENTATION, Augmentation, Item, augment_sample
from steadydepth.data.sequence_folder import Sequence as VideoSequence
from steadydepth.errors import InputError, failure, leaving_out
from steadydepth.files.damage import short
from steadydepth.types import Labels

logger = logging.getLogger(__name__)


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
        augmentation: what is drawn anew for each sample.
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
        augmentation: Augmentation = NO_AUGMENTATION,
        seed: int,
        cached_clips: int,
        find_cuts: bool = False,
        strict: bool = False,
        teacher_depth: Mapping[str, Path] | None = None,
        held_out: int = 0,
        numbers: Sequence[int] = (),
        source: int = 0,
    ) -> None:
        opened = open_shots(
            root,
            find_shots=find_cuts and labels != "single",
            needs_depth=labels in ("depth", "single"),
            needs_flow=motion == "flow" and labels != "single" and any(strides),
            length=length,
            strict=strict,
        )
        self.teacher_depth = teacher_depth or {}
        if labels == "teacher" and teacher_depth is not None:
            opened = [(sequence, shots) for sequence, shots in opened if sequence.name in self.teacher_depth]
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
            brief = [s.name for s, of_one in opened if max(map(len, of_one), default=0) < length]
            if brief and self.clips:
                rule = f"{len(brief)} sequence(s) of fewer than data.clip_length {length} frames"
                logger.warning("left out: %s: %s: %s", root, rule, short(", ".join(brief)))
        if not self.clips:
            raise InputError(
                f"{root}: no sequence has {length} frames; lower data.clip_length, give longer videos, or take their "
                "frames as images: `single: true` for one of data.sources"
            )
        self.length, self.strides, self.height, self.width, self.motion = length, strides, height, width, motion
        self.augmentation, self.seed = augmentation, seed
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
        clips, failed = [], dict[str, str]()
        for sequence, start in chosen:
            with leaving_out(f"{sequence.name} at frame {start}", failed, strict=self.strict):
                clips.append(fit_clip(sequence.read(start, start + self.length), self.height, self.width).frames)
        if not clips:
            raise failure(failed, 0, [])
        return clips

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
            item["is_still"] = torch.tensor(False)
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
        """The clip of sample `number`, its stride, and the generator that then draws its augmentation."""
        index, generator = self.place(number)
        start = self.clips[index][1]
        stride = int(generator.choice(fitting_strides(self.stops[index] - start, self.length, self.strides)))
        return index, stride, generator

    def _clip(self, number: int) -> Item:
        index, stride, generator = self._drawn(number)
        sample = self._read_or_next(index, stride)
        item = augment_sample(sample, generator, self.augmentation)
        return item | {"is_still": torch.tensor(sample.is_still)}

    def _image(self, number: int) -> Item:
        index, generator = self.place(number)
        return augment_sample(self._read_or_next(index, 0), generator, self.augmentation)

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
