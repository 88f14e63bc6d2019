"""One clip made ready for scoring, frame by frame: what its label and its frames say, whatever the prediction."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from steadydepth.metrics.arrays import Chosen, Colours, Pixels, as_mask
from steadydepth.metrics.correspondences import (
    Correspondence,
    Correspondences,
    Landings,
    colours_of,
    correspondences_of,
    pose_move,
    trust,
)
from steadydepth.metrics.dynamic import split_by_objects, split_frame
from steadydepth.metrics.protocols import Protocol, crop_slices, valid_labels
from steadydepth.ops.bidirectional_flow import pair_from_frames, pair_from_labels
from steadydepth.ops.sampling import sample, sees_only
from steadydepth.types import Clip

Depth = tuple[Float32[np.ndarray, "h w"], Bool[np.ndarray, "h w"]]  # metres, and where it was measured
Flow = tuple[Float32[np.ndarray, "h w 2"], Bool[np.ndarray, "h w"]]  # into the next frame, and where it is valid


@dataclass(frozen=True)
class Footage:
    """A clip that is read frame by frame, as often as asked; what the data does not have is None."""

    name: str
    fps: float
    n_frames: int
    height: int
    width: int
    images: Callable[[], Iterator[UInt8[np.ndarray, "h w 3"]]]  # RGB, in order
    depth: Callable[[int], Depth] | None = None
    objects: Callable[[int], UInt8[np.ndarray, "h w"]] | None = None  # 0 static world, n moving object n
    flow: Callable[[int], Flow] | None = None
    K: Float64[np.ndarray, "3 3"] | None = None
    cam_to_world: Float64[np.ndarray, "t 4 4"] | None = None
    fixed_camera: bool | None = None


def footage_of(clip: Clip) -> Footage:
    """A clip that is in memory, as footage."""
    t, height, width, _ = clip.frames.shape

    def depth(number: int) -> Depth:
        assert clip.depth is not None
        measured = clip.depth[number] > 0 if clip.valid is None else as_mask(clip.valid[number])
        return clip.depth[number], measured

    def flow(number: int) -> Flow:
        assert clip.flow is not None
        assert clip.flow_valid is not None
        return clip.flow[number], as_mask(clip.flow_valid[number])

    return Footage(
        name=clip.name,
        fps=clip.fps,
        n_frames=t,
        height=height,
        width=width,
        images=lambda: iter(clip.frames),
        depth=None if clip.depth is None else depth,
        objects=None if clip.objects is None else clip.objects.__getitem__,
        flow=None if clip.flow is None or clip.flow_valid is None else flow,
        K=clip.K,
        cam_to_world=clip.cam_to_world,
        fixed_camera=clip.fixed_camera,
    )


def chosen_frames(n_frames: int, protocol: Protocol) -> range:
    """The frames of a clip that the protocol takes."""
    return range(0, n_frames, protocol.stride)[: protocol.max_frames]


def excerpt(footage: Footage, protocol: Protocol) -> Footage:
    """The frames that the protocol takes, cut to its part of them; the camera's K follows the cut.

    Over frames that are left out the flow is followed from each to the next (`follow_flow`).
    """
    numbers = chosen_frames(footage.n_frames, protocol)
    if numbers == range(footage.n_frames) and protocol.cut is None:
        return footage
    rows, columns = crop_slices(protocol.cut, footage.height, footage.width)

    def images() -> Iterator[np.ndarray]:
        for number, image in enumerate(footage.images()):
            if number in numbers:
                yield np.ascontiguousarray(image[rows, columns])
            if number >= numbers[-1]:
                return

    def depth(number: int) -> Depth:
        assert footage.depth is not None
        metres, measured = footage.depth(numbers[number])
        return metres[rows, columns], measured[rows, columns]

    def flow(number: int) -> Flow:
        found, valid = follow_flow(footage, numbers[number], numbers[number + 1])
        return np.ascontiguousarray(found[rows, columns]), valid[rows, columns]

    objects, K = footage.objects, footage.K
    return replace(
        footage,
        n_frames=len(numbers),
        height=rows.stop - rows.start,
        width=columns.stop - columns.start,
        images=images,
        depth=None if footage.depth is None else depth,
        objects=None if objects is None else lambda number: objects(numbers[number])[rows, columns],
        flow=None if footage.flow is None else flow,
        K=None if K is None else K - np.array([[0, 0, columns.start], [0, 0, rows.start], [0, 0, 0]]),
        cam_to_world=None if footage.cam_to_world is None else footage.cam_to_world[list(numbers)],
    )


def follow_flow(footage: Footage, first: int, last: int) -> Flow:
    """Flow of the footage from a frame to a later one, followed through all between, sampled bilinearly.

    Args:
        footage: with flow.
        first: number of the frame.
        last: number of the later frame.

    Returns: flow, pixels (x, y); valid where each frame between shows the point, and the flow that is read there is
        valid.
    """
    assert footage.flow is not None
    flow, valid = footage.flow(first)
    if last > first + 1:
        valid = _shown_next(footage, first, flow, valid)
    for number in range(first + 1, last):
        step, goes_on = footage.flow(number)
        if number < last - 1:
            goes_on = _shown_next(footage, number, step, goes_on)
        places = Landings(flow).places
        valid = valid & sees_only(goes_on.ravel(), places).reshape(valid.shape)
        added = sample(np.moveaxis(step, -1, 0).reshape(2, -1).astype(np.float64), places)
        flow = (flow + added.T.reshape(flow.shape)).astype(np.float32)
    return flow, valid


def _shown_next(
    footage: Footage, number: int, flow: Float32[np.ndarray, "h w 2"], valid: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Where the next frame shows what the flow of a frame leads to: with label depth, what it does not hide."""
    return valid if footage.depth is None else pair_from_labels(flow, valid, *footage.depth(number)).forward_visible


@dataclass(frozen=True)
class LabelFrame:
    """The measured depth of one frame."""

    truth: Pixels  # metres; 1 where not valid
    valid: Chosen  # where the label counts in this protocol
    objects_moving: Bool[np.ndarray, "h w"] | None

    @cached_property
    def log(self) -> Pixels:
        """Logarithm of the truth; 0 where not valid."""
        return np.log(self.truth)


def read_label(footage: Footage, number: int, protocol: Protocol) -> LabelFrame:
    """The label of one frame, which the footage has.

    Args:
        footage: with depth.
        number: of the frame.
        protocol: says where the label counts.
    """
    assert footage.depth is not None
    depth, measured = footage.depth(number)
    valid = valid_labels(depth, measured, protocol)
    moving = None if footage.objects is None else footage.objects(number) > 0
    return LabelFrame(np.where(valid, depth, 1).astype(np.float64).ravel(), valid.ravel(), moving)


@dataclass(frozen=True)
class Motion:
    """The flow between a frame and the next."""

    label: Correspondences | None  # visible where the label has it so
    image: Correspondences  # DIS, visible where forward and backward agree
    trusted: Correspondences  # the same where colours agree as well
    warping: Correspondence  # label flow where there is one, DIS otherwise; visible wherever it has a value


@dataclass(frozen=True)
class SceneFrame:
    """One frame of a clip, its label if it has one, and the sets of pixels it distinguishes."""

    number: int
    image: UInt8[np.ndarray, "h w 3"]
    colours: Colours
    label: LabelFrame | None
    static: Chosen | None = None  # None where the data does not have it
    moving: Chosen | None = None
    before: Motion | None = None  # from the frame before; None in the first


def split_source(footage: Footage) -> str | None:
    """What distinguishes static pixels from moving ones: objects, poses, fixed camera, or nothing."""
    if footage.objects is not None:
        return "objects"
    if footage.K is not None and footage.cam_to_world is not None:
        return "poses"
    return "fixed camera" if footage.fixed_camera else None


def scene_frames(footage: Footage, protocol: Protocol, *, has_label: bool) -> Iterator[SceneFrame]:
    """Every frame in order, each with what the next one shows of it; three frames are held at a time.

    Args:
        footage: any.
        protocol: says where labels count.
        has_label: whether depth is read.
    """
    last: SceneFrame | None = None
    now: SceneFrame | None = None
    for number, image in enumerate(footage.images()):
        label = read_label(footage, number, protocol) if has_label else None
        after = SceneFrame(number, image, colours_of(image), label)
        if now is not None:
            after = replace(after, before=_motion(footage, now, after))
            yield _split(footage, now, after)
        last, now = now, after
    if now is not None:
        yield _split(footage, now, last)


def _split(footage: Footage, frame: SceneFrame, other: SceneFrame | None) -> SceneFrame:
    """`frame` with the sets that the best of the data distinguishes, by the frame after it or, for the last, before."""
    label, source, size = frame.label, split_source(footage), (footage.height, footage.width)
    if label is None or source is None:
        return frame
    if label.objects_moving is not None:
        found = split_by_objects(label.objects_moving[None], label.valid.reshape(1, *size))
        return replace(frame, static=found.static.ravel(), moving=found.moving.ravel())
    if other is None or other.label is None:
        nothing = np.zeros(len(label.valid), bool)
        return replace(frame, static=nothing, moving=nothing)
    K, poses = footage.K, footage.cam_to_world
    if K is None or poses is None:  # of a fixed camera
        K, poses = np.eye(3), np.tile(np.eye(4), (footage.n_frames, 1, 1))
    move = pose_move(K, poses[frame.number], poses[other.number], size)
    static, moving = split_frame(label.truth, label.valid, other.label.log, other.label.valid, move)
    is_last = other.number < frame.number
    between = frame.before if is_last else other.before
    if between is not None and between.label is not None:
        moving &= (between.label.backward if is_last else between.label.forward).visible
    return replace(frame, static=static, moving=moving)


def _motion(footage: Footage, before: SceneFrame, after: SceneFrame) -> Motion:
    image = correspondences_of(pair_from_frames(before.image, after.image))
    trusted = trust(image, before.colours, after.colours)
    size = before.image.shape[:2]
    if footage.flow is None or before.label is None:
        return Motion(None, image, trusted, Correspondence(image.forward.to, np.ones(size, bool).ravel()))
    flow, flow_valid = footage.flow(before.number)
    pair = pair_from_labels(
        flow, flow_valid, before.label.truth.reshape(size).astype(np.float32), before.label.valid.reshape(size)
    )
    label = correspondences_of(pair)
    return Motion(label, image, trusted, Correspondence(label.forward.to, flow_valid.ravel()))
