"""A server wherever a predictor is asked for: predict and stream on a machine that has no model."""

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numpy as np

from steadydepth.client import Client, ServedDepth, StreamedDepth
from steadydepth.errors import InputError
from steadydepth.inference.filters import NONE, ChosenFilter
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.live import LiveResult
from steadydepth.inference.predictor import AnyImage, Predictor, as_image
from steadydepth.inference.session import Result, VideoSession
from steadydepth.video_types import Claims

TOKEN_VARIABLE = "STEADYDEPTH_TOKEN"


class ServedPredictor(Predictor):
    """The model that a server has in service, as a predictor; cuts are known by the frames before them alone.

    It is that of one model: where another one is put into service meanwhile, images and videos end with an InputError.
    """

    def __init__(self, url: str) -> None:
        """Find the server at http://host:port, with the token of STEADYDEPTH_TOKEN; InputError where it refuses."""
        self.client = _client(url)
        known = self.client.models()
        self._claims, self._filters = cast(Claims, known["claims"]), known["filters"]
        self._made_by = _made_by(known)
        self._answered_by = ""  # name and version of the model of the last image
        self.filter = ChosenFilter(known.get("filter", NONE))  # servers of 0.2.0 do not say

    @property
    def claims(self) -> Claims:
        """What the numbers of its model mean."""
        return self._claims

    def noted(self) -> dict[str, Any]:
        """What outputs note of the model, as if it were here: the server says it."""
        return dict(self._made_by)

    def predict(self, image: AnyImage) -> Result:
        """Depth of one image by itself, (h, w) of its size; a filter has no part in it."""
        given = as_image(image)
        answer = self.client.predict(given)
        if answer.model != self._answered_by:
            self.refuse_another(answer)
            self._answered_by = answer.model
        return Result(answer.depth, self._claims, given)

    def refuse_another(self, answer: ServedDepth) -> None:
        """See that the model that is in service, and gave this answer, is the one that was there at the beginning.

        Raises:
            InputError: it is another one.
        """
        now = _made_by(self.client.models())
        if (answer.claims, now) != (self._claims, self._made_by):
            raise InputError(
                f"{self.client.url}: another model was put into service meanwhile ({answer.model}, {answer.claims}, "
                f"{now['model']}; before: {self._claims}, {self._made_by['model']}): run again, so that one answers all"
            )

    def choose_filter(self, filter: str | ChosenFilter | None, strength: float | None = None) -> ChosenFilter:
        """One of the server's filters by name, which have weights and strengths of their own; its default for None.

        Raises:
            InputError: the server has none of that name, or a strength is asked for.
        """
        if strength is not None:
            raise InputError(f"strength {strength}: a server's filters have their own: leave it out")
        if filter is None or filter is self.filter:
            return self.filter
        if (name := str(filter)) not in self._filters:
            raise InputError(f"filter {name!r}: {self.client.url} has none; choose one of {', '.join(self._filters)}")
        return ChosenFilter(name)

    def session(
        self, *, filter: str | ChosenFilter | None = None, strength: float | None = None, chunk: int | None = None
    ) -> VideoSession:
        """One video through the server, which has weights and strength of its filters itself.

        Args:
            filter: in place of the predictor's own.
            strength: None; the server has its own.
            chunk: not used: frames go one by one.

        Raises:
            InputError: a strength or a folder is asked for.
        """
        return _ServedSession(self, self.choose_filter(filter, strength))


class _ServedSession:
    """One video through a server, without loss there and back."""

    def __init__(self, predictor: ServedPredictor, filter: ChosenFilter) -> None:
        self._predictor, self.filter = predictor, filter
        self._asked = None if filter is predictor.filter else filter.name
        self.claims = predictor.claims
        self._given: SimpleQueue[np.ndarray] = SimpleQueue()
        self._steps: Iterator[Result] | None = None

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Result]:
        for answer in self._predictor.client.stream(images, filter=self._asked, format="zstd", encoding="png"):
            # Another model begins anew, as what comes over a new connection does, maybe of a server that was started
            # again.
            if answer.is_start:
                self._predictor.refuse_another(answer)
            yield _result(answer)

    def step(self, image: np.ndarray, *, time_s: float | None = None) -> Result:
        """One frame, waited for; `stream_served` keeps two on their way. No gaps in time are looked for."""
        self._given.put(image)
        if self._steps is None:
            # The source never ends by itself: its thread goes with the process.
            self._steps = self.run(self._given.get() for _ in count())
        return next(self._steps)


def stream_served(
    url: str,
    source: str | Path | int | Iterable[np.ndarray],
    *,
    seconds: float | None = None,
    filter: str | None = None,
) -> Iterator[LiveResult]:
    """Depth of the newest frame of a live source, by a server; as `inference.live.stream_newest`.

    Frames go as JPEG and depth comes as float16. A lost connection is made again.

    Args:
        url: http://host:port.
        source: a camera's index, a URL, a path or an iterator of uint8 RGB images.
        seconds: end after so long, also where no frame comes (for the first one 10 are waited at least); None continues
            until the source ends.
        filter: one of the server's filters; None takes the one that it was started with.

    Raises:
        InputError: the source cannot be opened or gives nothing, or the server refuses or does not answer for a minute.
    """
    for answer in _client(url).stream(open_source(source).frames(), is_live=True, filter=filter, seconds=seconds):
        yield LiveResult(_result(answer), answer.number, answer.n_skipped, answer.latency_s)


def _client(url: str) -> Client:
    return Client(url, token=os.environ.get(TOKEN_VARIABLE) or None)


def _made_by(known: dict[str, Any]) -> dict[str, Any]:
    """Of the answer of `Client.models`, what tells models apart.

    Servers of 0.2.0 give a number that begins from 1 with each start of theirs, and nothing better.
    """
    return known.get("made_by") or {"model": f"{known['model']} {known['version']}"}


def _result(answer: StreamedDepth) -> Result:
    return Result(answer.depth, cast(Claims, answer.claims), answer.image, answer.is_start)
