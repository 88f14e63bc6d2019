"""One terminal: a session on the model that is in service, and on the next one as soon as there is one."""

import threading
from dataclasses import dataclass

from steadydepth.errors import InputError
from steadydepth.inference.filters import ChosenFilter
from steadydepth.inference.session import Image, Result, Session
from steadydepth.serving.batching import Port
from steadydepth.serving.models import InService, Models


@dataclass(frozen=True)
class Answer:
    """Depth of one frame, and which model it is of."""

    result: Result
    by: InService


class Terminal:
    """The state of one video; its steps come one after another, from any thread."""

    def __init__(self, models: Models, *, filter: ChosenFilter | None = None) -> None:
        """Begin a video."""
        self._models, self._filter = models, filter
        self._lock = threading.Lock()
        self._open: tuple[InService, Port, Session] | None = None
        self._is_closed = False

    def step(self, image: Image, *, is_reset: bool = False, time_s: float | None = None) -> Answer:
        """Depth of the next frame; the session begins anew where the model is another.

        Args:
            image: RGB.
            is_reset: whether the session begins anew.
            time_s: when the frame was taken; a gap begins anew as well.

        Raises:
            InputError: the filter is none of the server's any more, or the model does not take the image.
        """
        with self._lock:
            if self._is_closed:
                raise RuntimeError("this terminal is closed")
            if self._open is None or self._open[0] is not self._models.current:
                self._leave()
                by, port = self._models.open()
                try:
                    self._open = by, port, Session(port, filter=self._filter)
                except InputError:
                    port.close()
                    raise InputError("the filter of this stream is not there any more: choose another one") from None
            by, _, session = self._open
            if is_reset:
                session.reset()
            try:
                return Answer(session.step(image, time_s=time_s), by)
            except Exception:
                # What is remembered may be of half a frame.
                session.reset()
                raise

    def close(self) -> None:
        """End the video; a step that has not begun by then fails."""
        with self._lock:
            self._is_closed = True
            self._leave()

    def _leave(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None
