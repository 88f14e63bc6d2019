"""Clips for training the learned filter: the synthetic world, shaken up, with the true motion between its frames."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from steadydepth.data.clips import chain_motion
from steadydepth.data.geometric import mirror
from steadydepth.filter_training.imagined import imagine
from steadydepth.ops.bidirectional_flow import two_way_from_labels
from steadydepth.ops.fast_flow import fast_flow, pixel_grid
from steadydepth.types import Clip, InputError

MARGIN_PX = 16  # a clip is cut out of its frames this much smaller, so that the camera can be knocked


@dataclass(frozen=True)
class LabelledClip:
    """A clip with exact depth, the true motion one frame on and one back, and what a real network predicts for it."""

    frames: UInt8[np.ndarray, "t h w 3"]
    depth: Float32[np.ndarray, "t h w"]  # metres
    forward: Float32[np.ndarray, "p h w 2"]  # on frame i into i + 1, pixels (x, y)
    backward: Float32[np.ndarray, "p h w 2"]  # on frame i + 1 into i
    forward_visible: Bool[np.ndarray, "p h w"]
    backward_visible: Bool[np.ndarray, "p h w"]
    predicted: Float32[np.ndarray, "t h w"] | None = None  # in metres


@dataclass(frozen=True)
class Drawn:
    """What one training sequence shows; motion and visibility of the first frame mean nothing."""

    frames: UInt8[np.ndarray, "t h w 3"]
    depth: Float32[np.ndarray, "t h w"]
    true_motion: Float32[np.ndarray, "t h w 2"]  # where each pixel was in the frame before, in pixels (x, y) from here
    visible: Bool[np.ndarray, "t h w"]  # True where the frame before shows the same point
    predicted: Float32[np.ndarray, "t h w"] | None = None


@dataclass(frozen=True)
class Lesson:
    """What the filter is shown of one sequence, and what it is to return."""

    frames: UInt8[np.ndarray, "t h w 3"]
    raw: Float32[np.ndarray, "t h w"]  # log depth that a network predicts
    target: Float32[np.ndarray, "t h w"]  # the same without what flickers
    motion: Float32[np.ndarray, "t h w 2"]  # as in `Drawn`
    true_motion: Float32[np.ndarray, "t h w 2"]
    visible: Bool[np.ndarray, "t h w"]


def label_clip(clip: Clip, predicted: Float32[np.ndarray, "t h w"] | None = None) -> LabelledClip:
    """`clip` with its true motion both ways.

    Raises:
        InputError: it lacks depth, of any pixel, or flow.
    """
    if clip.depth is None or clip.valid is None or clip.flow is None or clip.flow_valid is None:
        raise InputError(f"{clip.name}: has no depth or no flow; the filter learns from `steadydepth data make`")
    if not clip.valid.all():
        raise InputError(
            f"{clip.name}: has pixels without depth; a clip that teaches has one at each: leave this one out"
        )
    flow = two_way_from_labels(clip.flow, clip.flow_valid, clip.depth, clip.valid)
    return LabelledClip(clip.frames, clip.depth, **vars(flow), predicted=predicted)


def draw_clip(clip: LabelledClip, occluders: LabelledClip, n_frames: int, generator: np.random.Generator) -> Drawn:
    """`n_frames` of `clip` as a rougher camera would have shown them.

    Played forwards or backwards, slowly or fast, with frozen and dropped frames, mirrored, with a camera that is
    knocked. Where no real network predicts, also with things that pass in front, whose look is cut from `occluders`,
    and a light that is switched.

    Args:
        clip: what is shown.
        occluders: another clip, whose look the things that pass in front have.
        n_frames: how many are drawn.
        generator: draws every choice.
    """
    numbers = _draw_numbers(len(clip.frames), n_frames, generator)
    predicted = None if clip.predicted is None else clip.predicted[numbers]
    drawn = Drawn(clip.frames[numbers], clip.depth[numbers], *_chain(clip, numbers), predicted)
    if predicted is None:
        for _ in range(generator.choice(3, p=(0.4, 0.4, 0.2))):
            drawn = _pass_in_front(drawn, occluders, generator)
        if generator.random() < 0.3:
            drawn = _switch_light(drawn, generator)
    drawn = _knock(drawn, generator)
    return mirrored(drawn) if generator.random() < 0.5 else drawn


def cut_to(one: Drawn, other: Drawn, at: int) -> Drawn:
    """The first frames of one sequence, then those of another: no point of it has been seen before.

    Args:
        one: before the cut.
        other: after it, as long and as large, and predicted if the first is.
        at: number of the first frame after the cut, at least 1.
    """
    parts = {name: np.concatenate((part[:at], getattr(other, name)[at:])) for name, part in parts_of(one).items()}
    parts["visible"][at] = False
    return Drawn(**parts)


def draw_lesson(
    clips: Sequence[LabelledClip], n_frames: int, generator: np.random.Generator, *, is_real: bool
) -> Lesson:
    """A sequence of one of the clips, predicted by its real network or by an imagined one; with a cut here and there.

    A cut that nobody announces is one that the filter has to find.

    Args:
        clips: of which one is drawn, and the other side of a cut.
        n_frames: length of the sequence.
        generator: draws every choice.
        is_real: by the clip's real network, where it has one; otherwise by an imagined one.
    """

    def draw() -> Drawn:
        clip, occluders = (clips[int(generator.integers(len(clips)))] for _ in range(2))
        return draw_clip(clip if is_real else replace(clip, predicted=None), occluders, n_frames, generator)

    drawn = draw()
    if n_frames > 1 and generator.random() < 0.25:
        drawn = cut_to(drawn, draw(), int(generator.integers(1, n_frames)))
    if drawn.predicted is not None:
        raw = np.log(drawn.predicted)
        truth = np.log(drawn.depth)
        target = truth + (raw - truth).mean()
    else:
        frames = torch.from_numpy(drawn.frames).permute(0, 3, 1, 2)[None].float() / 255
        seed = torch.Generator().manual_seed(int(generator.integers(2**62)))
        imagined = imagine(frames, torch.from_numpy(drawn.depth)[None], seed)
        raw, target = imagined.predicted[0].numpy(), imagined.steady[0].numpy()
    return Lesson(drawn.frames, raw, target, _estimate_motion(drawn.frames), drawn.true_motion, drawn.visible)


def _estimate_motion(frames: UInt8[np.ndarray, "t h w 3"]) -> Float32[np.ndarray, "t h w 2"]:
    """Where each pixel was in the frame before, as in use: from the frames alone; 0 of the first."""
    steps = [fast_flow(now, before) for before, now in pairwise(frames)]
    return np.stack([np.zeros((*frames.shape[1:3], 2), np.float32), *steps])


def _draw_numbers(length: int, n_frames: int, generator: np.random.Generator) -> Int64[np.ndarray, "t"]:
    """Numbers of frames: a stride, here and there a frame shown again or left out, forwards or backwards."""
    stride = generator.choice(3, p=(0.6, 0.25, 0.15)) + 1
    steps = np.full(n_frames - 1, stride)
    odd = generator.random(n_frames - 1) < (0.08 if generator.random() < 0.5 else 0.0)
    steps[odd] = generator.choice((0, 0, 2, 3), size=odd.sum())
    numbers = np.concatenate(([0], np.cumsum(steps)))
    last = length - 1
    room = last - numbers[-1]
    # Where there are too few, the clip is played there and back.
    numbers = numbers + generator.integers(room + 1) if room >= 0 else last - np.abs(last - numbers % (2 * last))
    return numbers if generator.random() < 0.5 else last - numbers


def _chain(
    clip: LabelledClip, numbers: Int64[np.ndarray, "t"]
) -> tuple[Float32[np.ndarray, "t h w 2"], Bool[np.ndarray, "t h w"]]:
    """True motion from each drawn frame back to the one drawn before, over the frames between; 0 of one shown again."""
    shape = len(numbers), *clip.depth.shape[1:]
    motion, visible = np.zeros((*shape, 2), np.float32), np.zeros(shape, bool)
    for i, (before, now) in enumerate(pairwise(numbers), start=1):
        if now > before:
            motion[i], visible[i] = chain_motion(clip.backward[before:now], clip.backward_visible[before:now])
        elif now < before:
            ahead = slice(now, before)
            motion[i], visible[i] = chain_motion(clip.forward[ahead][::-1], clip.forward_visible[ahead][::-1])
        else:
            visible[i] = True
    return motion, visible


def _sampled(image: Float32[np.ndarray, "h w *c"], motion: Float32[np.ndarray, "h w 2"]) -> np.ndarray:
    """`image` where each pixel moves to; 0 outside."""
    at = pixel_grid(*image.shape[:2]) + motion
    return cv2.remap(image, at, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)


def _pass_in_front(drawn: Drawn, occluders: LabelledClip, generator: np.random.Generator) -> Drawn:
    """Something near that moves across the image, or stands still and then moves."""
    t, height, width = drawn.depth.shape
    size = generator.uniform(0.1, 0.4, 2) * height
    speed = generator.normal(0, 3, 2) * (generator.random() < 0.85)
    start = generator.uniform((0, 0), (width, height)) - speed * t / 2
    stands_until = generator.integers(t) if generator.random() < 0.3 else 0
    distance = float(np.quantile(drawn.depth, 0.05) * generator.uniform(0.5, 1.0))
    approach = generator.normal(0, 0.01)
    row, column = generator.integers(0, (height // 2, width // 2))
    look = occluders.frames[generator.integers(len(occluders.frames))]
    patch = cv2.resize(look[row : row + height // 2, column : column + width // 2], (width, height))
    is_round = generator.random() < 0.5
    frames, depth = drawn.frames.copy(), drawn.depth.copy()
    motion, visible = drawn.true_motion.copy(), drawn.visible.copy()
    y, x = np.mgrid[:height, :width].astype(np.float32)
    covered_before = None
    for i in range(t):
        moving = float(i >= stands_until)
        middle = start + speed * max(0, i - stands_until)
        across, down = (x - middle[0]) / size[0], (y - middle[1]) / size[1]
        covered = across**2 + down**2 < 1 if is_round else (abs(across) < 1) & (abs(down) < 1)
        shift = np.array([[1, 0, middle[0] - width / 2], [0, 1, middle[1] - height / 2]], np.float32)
        moved = cv2.warpAffine(patch, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        frames[i][covered] = moved[covered]
        depth[i][covered] = distance * np.exp(approach * i)
        if covered_before is not None:
            own = np.broadcast_to((-speed * moving * (i > stands_until)).astype(np.float32), motion[i].shape)
            hidden = _sampled(covered_before.astype(np.float32), motion[i]) > 0
            motion[i] = np.where(covered[..., None], own, motion[i])
            was = _sampled(covered_before.astype(np.float32), motion[i]) > 0.99
            visible[i] = np.where(covered, was, visible[i] & ~hidden)
        covered_before = covered
    return replace(drawn, frames=frames, depth=depth, true_motion=motion, visible=visible)


def _switch_light(drawn: Drawn, generator: np.random.Generator) -> Drawn:
    """From one frame on everything is brighter or darker, and of another tint."""
    at = generator.integers(1, len(drawn.frames))
    gain = np.exp(generator.normal(0, 0.4) + generator.normal(0, 0.1, 3)).astype(np.float32)
    frames = drawn.frames.copy()
    frames[at:] = np.clip(frames[at:] * gain, 0, 255).astype(np.uint8)
    return replace(drawn, frames=frames)


def _knock(drawn: Drawn, generator: np.random.Generator) -> Drawn:
    """A window of the frames; in every third clip it jumps once or shakes."""
    t, height, width = drawn.depth.shape
    offsets = np.repeat(generator.integers(0, MARGIN_PX + 1, (1, 2)), t, axis=0)
    kind = generator.random()
    if kind < 0.15:
        offsets[generator.integers(1, t) :] = generator.integers(0, MARGIN_PX + 1, 2)
    elif kind < 0.3:
        offsets = np.clip(offsets + generator.integers(-2, 3, (t, 2)), 0, MARGIN_PX)
    cut = (slice(None), slice(0, height - MARGIN_PX), slice(0, width - MARGIN_PX))

    def window(array: np.ndarray) -> np.ndarray:
        return np.stack([np.roll(one, (-y, -x), (0, 1)) for one, (x, y) in zip(array, offsets, strict=True)])[cut]

    jumps = np.diff(offsets, axis=0, prepend=offsets[:1]).astype(np.float32)
    parts = {name: window(part) for name, part in parts_of(drawn).items()}
    motion = parts["true_motion"] + jumps[:, None, None]
    at = motion + pixel_grid(*motion.shape[1:3])
    inside = ((at >= 0) & (at <= (motion.shape[2] - 1, motion.shape[1] - 1))).all(axis=-1)
    return Drawn(**parts | {"true_motion": motion, "visible": parts["visible"] & inside})


Shown = TypeVar("Shown", Drawn, Lesson)


def mirrored(shown: Shown) -> Shown:
    """The same from left to right."""
    parts = {name: mirror(name, torch.from_numpy(part), 2).numpy() for name, part in parts_of(shown).items()}
    return replace(shown, **parts)


def parts_of(shown: LabelledClip | Drawn | Lesson) -> dict[str, np.ndarray]:
    """The arrays by name, as far as they are there."""
    return {name: part for name, part in vars(shown).items() if part is not None}
