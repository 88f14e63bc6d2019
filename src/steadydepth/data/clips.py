"""Consecutive frames of a video as one training sample: where clips start, their size, their motion."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int

from steadydepth.ops.bidirectional_flow import backward_from_frames
from steadydepth.ops.optical_flow import invert_flow
from steadydepth.types import Clip, InputError

# What is wrong, behind a name, and the ways out.
NO_FLOW = "has no flow/; add it, or set data.motion (or `motion` of its source) to dis, or to none for a fixed view"


@dataclass(frozen=True)
class Sample:
    """A clip of the training size, and where each pixel of frame i + 1 was in frame i."""

    clip: Clip
    motion: Float32[np.ndarray, "p h w 2"] | None  # pixels, from the later frame to the earlier
    visible: Bool[np.ndarray, "p h w"] | None  # True where the earlier frame saw it
    is_still: bool = False  # one frame throughout, which only the light that it is drawn in changes


def clip_starts(n_frames: int, length: int) -> range:
    """First frames of every clip of `length` consecutive frames; none when the video is shorter."""
    return range(n_frames - length + 1)


def hold_out(shots: Sequence[range], length: int, count: int) -> tuple[list[list[range]], list[tuple[int, int]]]:
    """Leave clips out of what is trained on, spread evenly over all frames, at most a tenth of them.

    Args:
        shots: the frames of each shot.
        length: frames of a clip.
        count: how many clips to leave out, at the most.

    Returns: for each shot its parts that are left, and shot and first frame of each clip that is left out. Where a
        tenth of the frames holds no clip, nothing is left out.
    """
    total, before, taken = sum(map(len, shots)), 0, list[tuple[int, int]]()
    count = min(count, total // (10 * length))
    middles = [(2 * number + 1) * total // (2 * count) for number in range(count)]
    parts = []
    for number, shot in enumerate(shots):
        own, first = [], shot.start
        for middle in (one - before for one in middles if before <= one < before + len(shot)):
            start = min(max(shot.start + middle - length // 2, first), shot.stop - length)
            if start >= first:
                taken.append((number, start))
                own.append(range(first, start))
                first = start + length
        parts.append([*own, range(first, shot.stop)])
        before += len(shot)
    return parts, taken


def fitting_strides(room: int, length: int, strides: Iterable[int]) -> list[int]:
    """Those of `strides` that leave a clip of `length` frames inside `room` frames; 1 always does.

    Args:
        room: frames that there are.
        length: frames of the clip.
        strides: steps from one frame of the clip to the next, in frames.
    """
    return [stride for stride in strides if (length - 1) * stride < room] or [1]


def fit_clip(clip: Clip, height: int, width: int) -> Clip:
    """Scale a clip until it just covers height x width, then cut that size out of its middle.

    Frames are averaged down; depth, masks and flow take the nearest pixel, because measured depth is never blended;
    flow and K follow the scale and the cut.

    Args:
        clip: of any size.
        height: rows of the result.
        width: columns of the result.
    """
    rows, columns = clip.frames.shape[1:3]
    if (rows, columns) == (height, width):
        return clip
    scale = max(height / rows, width / columns)
    scaled = (max(round(columns * scale), width), max(round(rows * scale), height))
    x0, y0 = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)

    def fit(images: np.ndarray, how: int) -> np.ndarray:
        fitted = np.empty((len(images), height, width, *images.shape[3:]), images.dtype)
        for slot, image in zip(fitted, images.view(np.uint8) if images.dtype == bool else images, strict=True):
            slot[:] = cv2.resize(image, scaled, interpolation=how)[y0 : y0 + height, x0 : x0 + width]
        return fitted

    fitted: dict[str, Any] = {"frames": fit(clip.frames, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)}
    for name in ("depth", "valid", "objects", "flow", "flow_valid", "motion", "visible"):
        if (images := getattr(clip, name)) is not None:
            # INTER_NEAREST takes the first pixel of each cell, up to half a pixel of the result beside the frame's.
            fitted[name] = fit(images, cv2.INTER_NEAREST_EXACT)
    ratio = np.array([scaled[0] / columns, scaled[1] / rows], np.float32)
    fitted |= {name: fitted[name] * ratio for name in ("flow", "motion") if name in fitted}
    if clip.K is not None:
        fitted["K"] = np.diag([*ratio.astype(np.float64), 1.0]) @ clip.K
        # Pixel centres are integers: the scale acts around the outer edge, half a pixel before the first centre.
        fitted["K"][:2, 2] += (ratio - 1) / 2 - [x0, y0]
    return replace(clip, **fitted)


def clip_motion(
    clip: Clip, source: str
) -> tuple[Float32[np.ndarray, "p h w 2"] | None, Bool[np.ndarray, "p h w"] | None]:
    """Motion from each frame to the one before it, and where that one saw the pixel.

    Args:
        clip: with its forward flow, for `flow`.
        source: `none` gives None (pairs at the same pixel), `flow` inverts the clip's forward flow, `dis` estimates it,
            or takes what was estimated when the clip was packed.

    Raises:
        InputError: `flow` is asked for and the clip has none.
    """
    if source == "none":
        return None, None
    if source == "dis" and clip.motion is not None:
        return clip.motion, clip.visible
    if source == "flow":
        if clip.flow is None or clip.flow_valid is None:
            raise InputError(f"{clip.name}: {NO_FLOW}")
        pairs = [invert_flow(flow, valid) for flow, valid in zip(clip.flow, clip.flow_valid, strict=True)]
    else:
        # OpenCV's own threads share one flow; a thread for each pair of frames is faster. Loader processes have one.
        with ThreadPoolExecutor(max(cv2.getNumThreads(), 1)) as threads:
            pairs = list(threads.map(backward_from_frames, clip.frames[:-1], clip.frames[1:]))
    return np.stack([motion for motion, _ in pairs]), np.stack([visible for _, visible in pairs])


def hold_frame(clip: Clip, length: int, *, moves: bool) -> Sample:
    """The one frame of `clip`, `length` times: only the light that each is drawn in will differ.

    Args:
        clip: of one frame.
        length: frames of the result.
        moves: whether the motion is given, which is zero.
    """
    held = _of_frames(clip, np.zeros(length, int))
    if not moves:
        return Sample(held, None, None, is_still=True)
    shape = (length - 1, *clip.frames.shape[1:3])
    return Sample(held, np.zeros((*shape, 2), np.float32), np.ones(shape, bool), is_still=True)


def skip_frames(sample: Sample, stride: int) -> Sample:
    """Every `stride`-th frame of a sample, its motion chained over the frames between.

    A point counts as visible when it is in every frame between. Forward flow is dropped.
    """
    if stride == 1:
        return sample
    motion, visible = sample.motion, sample.visible
    shorter = _of_frames(sample.clip, slice(None, None, stride))
    if motion is None or visible is None:
        return Sample(shorter, None, None)
    chains = [
        chain_motion(motion[first : first + stride], visible[first : first + stride])
        for first in range(0, len(motion) - stride + 1, stride)
    ]
    return Sample(shorter, np.stack([chain for chain, _ in chains]), np.stack([known for _, known in chains]))


def _of_frames(clip: Clip, numbers: slice | Int[np.ndarray, "n"]) -> Clip:
    """The clip of those frames, without what is known from each to the next."""
    known = {name: getattr(clip, name) for name in ("frames", "depth", "valid", "objects", "cam_to_world")}
    kept: dict[str, Any] = {name: None if array is None else array[numbers] for name, array in known.items()}
    return replace(clip, flow=None, flow_valid=None, motion=None, visible=None, **kept)


def chain_motion(
    motion: Float32[np.ndarray, "p h w 2"], visible: Bool[np.ndarray, "p h w"]
) -> tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]:
    """Motion from the last frame to the one before the first pair, and where every frame between saw the pixel.

    The rule of `ops.warp.chain`, which says why there are two.

    Args:
        motion: of the pixels of each frame but the first into the frame before, (x, y) in pixels, in order of time.
        visible: whether that frame saw the pixel.

    Returns: both for the pixels of the last frame; motion has no meaning where the second is False.
    """
    total, visible_all_along = motion[-1], visible[-1]
    height, width = visible_all_along.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    for step, known_there in zip(motion[-2::-1], visible[-2::-1], strict=True):
        at = x + total[..., 0], y + total[..., 1]
        # Outside the image, and beside a pixel that was not visible, the sample is not a number.
        known = np.where(known_there[..., None], step, np.float32(np.nan))
        more = cv2.remap(known, *at, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan, np.nan))
        visible_all_along = visible_all_along & np.isfinite(more).all(axis=-1)
        total = total + np.where(visible_all_along[..., None], more, 0)
    return total, visible_all_along
