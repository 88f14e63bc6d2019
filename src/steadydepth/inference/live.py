"""Live frames: the newest one always wins, and what came while the model worked is left out, and counted."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.predictor import Predictor
from steadydepth.inference.session import Result


@dataclass(frozen=True)
class LiveResult:
    """Depth of the newest frame."""

    result: Result
    number: int  # of the frame in its source, from 0
    n_skipped: int  # frames that came and went since the result before
    latency_s: float  # from the frame's arrival to its depth


class _Newest:
    """The newest frame of a source that a thread of its own reads; nothing older is kept."""

    def __init__(self, frames: Iterable[np.ndarray]) -> None:
        self._changed = threading.Condition()
        self._kept: tuple[int, np.ndarray, float] | None = None
        self._error: BaseException | None = None
        self._is_over = False
        threading.Thread(target=self._read, args=(frames,), daemon=True).start()

    def take(self) -> tuple[int, np.ndarray, float] | None:
        """Number, frame and time of arrival of the newest not yet taken; waits for one; None when there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: self._kept is not None or self._is_over)
            kept, self._kept = self._kept, None
            if kept is None and self._error is not None:
                raise self._error
            return kept

    def stop(self) -> None:
        """Read no further."""
        self._is_over = True

    def _read(self, frames: Iterable[np.ndarray]) -> None:
        try:
            for number, frame in enumerate(frames):
                with self._changed:
                    if self._is_over:
                        return
                    self._kept = (number, frame, time.perf_counter())
                    self._changed.notify()
        # Whatever it is, it is raised where the frames are asked for.
        except BaseException as error:
            self._error = error
        finally:
            with self._changed:
                self._is_over = True
                self._changed.notify()


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
        seconds: end after so long; None goes on until the source ends.
        filter: in place of the predictor's own; "none" for no filter.
        strength: of the learned filter, from 0 to 1.

    Raises:
        InputError: the source cannot be opened, or breaks off.
    """
    session = predictor.session(filter=filter, strength=strength)
    newest, before, begun = _Newest(open_source(source).frames()), -1, time.perf_counter()
    try:
        while (taken := newest.take()) is not None:
            number, image, arrived = taken
            result = session.step(image, time_s=arrived)
            yield LiveResult(result, number, number - before - 1, time.perf_counter() - arrived)
            before = number
            if seconds is not None and time.perf_counter() - begun >= seconds:
                return
    finally:
        newest.stop()
