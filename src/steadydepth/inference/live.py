"""Live frames: the newest one always wins, and what came while the model worked is left out, and counted."""

import math
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from steadydepth.errors import InputError
from steadydepth.files.prefetch import BEGIN_S, Feed, check_seconds
from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.session import Result

T = TypeVar("T")


@dataclass(frozen=True)
class LiveResult:
    """Depth of the newest frame."""

    result: Result
    number: int  # of the frame in its source, from 0
    n_skipped: int  # frames that came and went since the result before
    latency_s: float  # from the frame's arrival to its depth


def stream_newest(
    predictor: Predictor,
    source: Path | str | int | Iterable[np.ndarray],
    *,
    seconds: float | None = None,
    filter: str | ChosenFilter | None = None,
    strength: float | None = None,
) -> Iterator[LiveResult]:
    """Depth of the newest frame of a live source, as often as the model can.

    Args:
        predictor: the model; its state goes from each frame that was taken to the next one taken (`session.Session`).
        source: a camera's index, a URL, a path or an iterator of uint8 RGB images.
        seconds: end after so long, also where no frame comes (for the first one 10 are waited at least); None continues
            until the source ends.
        filter: in place of the predictor's own; "none" for no filter.
        strength: of the learned filter, from 0 to 1.

    Raises:
        InputError: the source cannot be opened, or breaks off.
    """
    check_seconds(seconds)
    session = predictor.session(filter=filter, strength=strength)
    before, begun = -1, time.monotonic()
    newest = Feed(open_source(source).frames(), is_live=True, changed=threading.Condition())
    try:
        while True:
            # A camera may take a while to begin; later its silence does not make the time longer.
            most = seconds if seconds is None or before >= 0 else max(seconds, BEGIN_S)
            taken = newest.next(None if most is None else max(0.0, begun + most - time.monotonic()))
            if taken is None:
                break
            number, image, arrived = taken
            result = session.step(image, time_s=arrived)
            yield LiveResult(result, number, number - before - 1, time.monotonic() - arrived)
            before = number
            if seconds is not None and time.monotonic() - begun >= seconds:
                return
        _check_end(newest, f"{source}: ", has_begun=before >= 0, begun=begun)
    finally:
        newest.stop()


def read_until(items: Iterable[T], seconds: float | None) -> Iterator[T]:
    """The items of a live source in order, until its time is over, also where it is silent.

    Args:
        items: the source, read by a thread.
        seconds: how long they are waited for after the caller is done with the first one (for that one 10 at least);
            None has no end.

    Raises:
        InputError: none came in that time.
    """
    check_seconds(seconds)
    begun, has_begun = time.monotonic(), False
    end = math.inf if seconds is None else begun + max(seconds, BEGIN_S)
    feed = Feed(items, is_live=False, changed=threading.Condition())
    try:
        while time.monotonic() < end:
            taken = feed.next(None if end == math.inf else end - time.monotonic())
            if taken is None:
                break
            yield taken[1]
            if not has_begun and seconds is not None:
                # Neither the start of a camera nor that of a network is part of what is recorded.
                end = time.monotonic() + seconds
            has_begun = True
        _check_end(feed, "", has_begun=has_begun, begun=begun)
    finally:
        feed.stop()


def _check_end(feed: Feed[Any], place: str, *, has_begun: bool, begun: float) -> None:
    if feed.error is not None:
        raise feed.error
    if not (has_begun or feed.is_over):
        waited_s = time.monotonic() - begun
        raise InputError(f"{place}no frame came in {waited_s:.0f} s: check the camera, or the address")
