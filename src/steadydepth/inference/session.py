"""A model over one video: frames in, depth of their size out, the state carried from frame to frame.

Everything that runs a model over a video does it here: predict, stream, evaluate, the report's images and the check of
an export. So what is evaluated is what is run.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, groupby
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from steadydepth.data.cuts import Shots, mark_cuts
from steadydepth.errors import InputError
from steadydepth.files.prefetch import up_to_error
from steadydepth.inference.filter_runtime import VideoFilter, filter_offline
from steadydepth.inference.filters import ChosenFilter, FilterState, choose_filter, open_filter
from steadydepth.ops.colours import is_measured
from steadydepth.ops.resize import check_image, enlarge_measured
from steadydepth.video_types import Claims

Image = UInt8[np.ndarray, "h w 3"]
# A frame as the network sees it.
Fitted = UInt8[np.ndarray, "i j 3"]
# What a network remembers: `types.State` of one in torch, arrays of an exported file.
NetworkState = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """Depth of one frame."""

    network_depth: Float32[np.ndarray, "i j"]  # filtered, in the units of `claims`, of the network's size
    claims: Claims
    image: Image  # the frame, RGB
    is_start: bool = True  # whether nothing before this frame was remembered: a first frame, a cut, another size

    @cached_property
    def depth(self) -> Float32[np.ndarray, "h w"]:
        """In the units of `claims`, of the frame's size; NaN where it was resized over what is no depth."""
        return enlarge_measured(self.network_depth, *self.image.shape[:2], claims=self.claims)

    @cached_property
    def valid(self) -> Bool[np.ndarray, "h w"]:
        """True where depth is finite, and above 0 where it claims to be a depth."""
        return is_measured(self.depth, self.claims)

    @cached_property
    def measured(self) -> Float32[np.ndarray, "h w"]:
        """Depth, NaN where it is not valid."""
        return np.where(self.valid, self.depth, np.float32(np.nan))


_Predicted = tuple[Result, Fitted]
# Between two frames of `step`, beyond which the later one begins anew, unless frames come as slowly all the time.
_MAX_GAP_S = 1.0


@runtime_checkable
class Predicts(Protocol):
    """What a session asks for depth: a `Network`, an exported file, or what answers in its place."""

    claims: Claims

    def fit(self, image: Image) -> Fitted:
        """A frame at the size at which the network sees it."""

    def __call__(
        self, images: list[Fitted], state: NetworkState | None
    ) -> tuple[Float32[np.ndarray, "t i j"], NetworkState]:
        """Depth of consecutive frames as `fit` returns them, and the state that the last one leaves."""

    def frames_at_once(self, height: int, width: int) -> int:
        """How many frames of that size, in pixels, fill the device; at least 1."""


@runtime_checkable
class PredictsMany(Predicts, Protocol):
    """What predicts for a `Predictor` and for the streams of a server."""

    max_side: int | None

    def step_together(
        self, images: list[Fitted], states: list[NetworkState | None]
    ) -> list[tuple[Float32[np.ndarray, "i j"], NetworkState]]:
        """Depth of the next frame of several videos at once, each with the state that it leaves.

        The images are of one size, as `fit` returns them, and the states of one `state_kind`.
        """

    def checksum(self) -> str:
        """Of its weights, or of its file."""


def state_kind(state: NetworkState | None) -> tuple[tuple[str, tuple[int, ...], Any], ...] | None:
    """Names, shapes and types of a state: those that are equal can be stacked; None where a video begins."""
    return None if state is None else tuple((name, tuple(each.shape), each.dtype) for name, each in state.items())


@runtime_checkable
class VideoSession(Protocol):
    """One video on its way: a `Session`, or what answers in its place."""

    filter: ChosenFilter

    @property
    def claims(self) -> Claims:
        """What the numbers mean."""

    def step(self, image: np.ndarray, *, time_s: float | None = None) -> Result:
        """Depth of the next frame, uint8 RGB (h, w, 3), `time_s` seconds into the video; (h, w) of its own size."""

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Result]:
        """Depth of each frame, uint8 RGB (h, w, 3), in order, as soon as it can be."""


class Session:
    """One video on its way through a network and a filter; what they remember is kept here, and forgotten at a cut.

    The filter works at the network's size, whatever that of the frames is: there is no more in the depth.
    Both begin anew at a cut, at another size, after a gap in time, and when asked to (`reset`).
    """

    def __init__(
        self, network: Predicts, *, filter: str | ChosenFilter | None = None, chunk: int | None = None
    ) -> None:
        """Begin a video.

        Args:
            network: what predicts each frame.
            filter: what `filters.choose_filter` takes, applied to its depth; `learned_offline` only by `run`.
            chunk: frames that `run` shows the network at once, at least 1; None takes as many as fill the device.

        Raises:
            InputError: there is no such filter, or `chunk` is below 1.
        """
        if chunk is not None and chunk < 1:
            raise InputError(f"chunk {chunk}: must be at least 1 frame, or None for as many as fill the device")
        self.filter = choose_filter(filter)
        self.network, self.chunk = network, chunk
        self._offline = self.filter.learned(network.claims) if self.filter.is_offline else None
        self._filter = None if self._offline else open_filter(self.filter, network.claims)
        self._shots = Shots()
        self._gap_s = 0.0  # between the last two frames of `step`
        # Whether what was before has any effect on depth; not known before the network has been asked.
        self._remembers: bool | None = True if self._offline or self._filter else None
        self.reset()

    @property
    def claims(self) -> Claims:
        """What the numbers of its depth mean."""
        return self.network.claims

    def reset(self) -> None:
        """Forget all frames so far: the next one begins a video."""
        self._state: NetworkState | None = None
        self._filter_state: FilterState | None = None
        self._shape: tuple[int, ...] | None = None
        self._time_s: float | None = None

    def step(self, image: np.ndarray, *, time_s: float | None = None) -> Result:
        """Depth of the next frame of a live source; a cut is known by this frame and those before it.

        Args:
            image: uint8 RGB (h, w, 3).
            time_s: when the frame was taken, to know gaps; None does not look for them.
        """
        if self._offline:
            open_filter(self.filter, self.network.claims)  # InputError: it is not causal
        image = check_image(image)
        is_cut = self._remembers is not False and self._shots.begins_with(image)
        if is_cut or self._is_late(time_s) or image.shape != self._shape:
            self.reset()
        result, _ = next(self._advance([image]))
        self._time_s = time_s
        return result

    def _is_late(self, time_s: float | None) -> bool:
        """Whether a frame comes after a gap: long by itself, and by the gap before, which a slow model makes long."""
        if time_s is None or self._time_s is None:
            return False
        usual_s, self._gap_s = self._gap_s, time_s - self._time_s
        return self._gap_s > max(_MAX_GAP_S, 3 * usual_s)

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Result]:
        """Depth of each frame of a recording, from its beginning; a cut is known by the frames around it.

        Args:
            images: uint8 RGB (h, w, 3), an array each; read as they are needed, further where cuts matter or the filter
                looks ahead.

        Raises:
            InputError: a frame is no image, or that of the source, after the frames before it.
        """
        predicted = self._predict(images)
        return _filter_shots(predicted, self._offline) if self._offline else (result for result, _ in predicted)

    def _predict(self, images: Iterable[np.ndarray]) -> Iterator[_Predicted]:
        self.reset()
        images = map(check_image, images)
        first = next(images, None)
        if first is None:
            return
        # The first frame by itself tells whether the network remembers anything: only then do cuts matter. They are
        # looked for in a copy, as the image of a result is the caller's to draw on.
        begin = first.copy()
        yield from self._advance([first])
        coming = mark_cuts(chain([begin], images)) if self._remembers else ((image, False) for image in images)
        if self._remembers:
            next(coming)
        held, failed = list[Image](), list[InputError]()
        for image, is_cut in up_to_error(coming, failed):
            if is_cut or image.shape != (held[0].shape if held else self._shape):
                yield from self._advance(held)
                held = []
                self.reset()
            held.append(image)
            if len(held) >= (self.chunk or self.network.frames_at_once(*image.shape[:2])):
                yield from self._advance(held)
                held = []
        yield from self._advance(held)
        if failed:
            raise failed[0]

    def _advance(self, images: list[Image]) -> Iterator[_Predicted]:
        """Consecutive frames of one size through the network and the filter."""
        if not images:
            return
        is_start = self._shape is None
        fitted = [self.network.fit(image) for image in images]
        depths, self._state = self.network(fitted, self._state)
        self._shape = images[0].shape
        if self._remembers is None:
            self._remembers = bool(self._state)
        for depth, shown, image in zip(depths, fitted, images, strict=True):
            if self._filter is not None:
                depth, self._filter_state = self._filter(depth, shown, self._filter_state)
            yield Result(depth, self.network.claims, image, is_start), shown
            is_start = False


def _filter_shots(predicted: Iterator[_Predicted], learned: VideoFilter) -> Iterator[Result]:
    """The results with their depth filtered there and back, each shot by itself."""
    failed, n_starts = list[InputError](), 0

    def number_of_shot(one: _Predicted) -> int:
        nonlocal n_starts
        n_starts += one[0].is_start
        return n_starts

    for _, shot in groupby(up_to_error(predicted, failed), number_of_shot):
        held = deque[Result]()
        for depth in filter_offline(_measured_pairs(shot, held), learned):
            result = held.popleft()
            raw = result.network_depth
            yield replace(result, network_depth=np.where(is_measured(raw, result.claims), depth, raw))
    if failed:
        raise failed[0]


def _measured_pairs(
    shot: Iterator[_Predicted], held: deque[Result]
) -> Iterator[tuple[Float32[np.ndarray, "i j"], Fitted]]:
    """Depth and image of each frame of one shot, whose results are `held`."""
    for result, fitted in shot:
        held.append(result)
        raw = result.network_depth
        yield np.where(is_measured(raw, result.claims), raw, np.float32(np.nan)), fitted
