"""A server wherever a predictor is asked for: predict and stream on a machine that has no model."""

import os
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast

import numpy as np

from steadydepth.client import Client, StreamedDepth
from steadydepth.inference.filters import NONE, ChosenFilter
from steadydepth.inference.frame_sources import open_source
from steadydepth.inference.live import LiveResult
from steadydepth.inference.predictor import AnyImage, Predictor, as_image
from steadydepth.inference.session import Result, VideoSession
from steadydepth.types import Claims, InputError

TOKEN_VARIABLE = "STEADYDEPTH_TOKEN"


class ServedPredictor(Predictor):
    """The model that a server has in service, as a predictor; cuts are known by the frames before them alone."""

    def __init__(self, url: str) -> None:
        """Find the server at http://host:port, with the token of STEADYDEPTH_TOKEN; InputError where it refuses."""
        self.client = _client(url)
        known = self.client.models()
        self._claims, self._filters = cast(Claims, known["claims"]), known["filters"]
        # Servers of 0.2.0 give a number that begins from 1 with each start of theirs, and nothing better.
        self._made_by = known.get("made_by") or {"model": f"{known['model']} {known['version']}"}
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
        return Result(self.client.predict(given).depth, self._claims, given)

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
        chosen = self.choose_filter(filter, strength)
        return _ServedSession(self.client, chosen, self._claims, asked=None if chosen is self.filter else chosen.name)


class _ServedSession:
    """One video through a server, without loss there and back."""

    def __init__(self, client: Client, filter: ChosenFilter, claims: Claims, *, asked: str | None) -> None:
        self._client, self.filter, self.claims, self._asked = client, filter, claims, asked
        self._given: SimpleQueue[np.ndarray] = SimpleQueue()
        self._steps: Iterator[Result] | None = None

    def run(self, images: Iterable[np.ndarray]) -> Iterator[Result]:
        answers = self._client.stream(images, filter=self._asked, format="zstd", encoding="png")
        return (self._result(answer) for answer in answers)

    def step(self, image: np.ndarray, *, time_s: float | None = None) -> Result:
        """One frame, waited for; `stream_served` keeps two on their way. No gaps in time are looked for."""
        self._given.put(image)
        if self._steps is None:
            # The source never ends by itself: its thread goes with the process.
            self._steps = self.run(self._given.get() for _ in count())
        return next(self._steps)

    def _result(self, answer: StreamedDepth) -> Result:
        if answer.claims != self.claims:
            raise InputError(
                f"the server's model claims {answer.claims} now, and {self.claims} before: another one was put into "
                "service meanwhile; run again"
            )
        return _result(answer)


def stream_served(
    url: str,
    source: str | Path | int | Iterable[np.ndarray],
    *,
    seconds: float | None = None,
    filter: str | None = None,
) -> Iterator[LiveResult]:
    """Depth of the newest frame of a live source, by a server; as `inference.live.stream_newest`.

    Frames go as JPEG and depth comes as float16. A connection that is cut is made again.

    Args:
        url: http://host:port.
        source: a camera's index, a URL, a path or an iterator of uint8 RGB images.
        seconds: end after so long, also where no frame comes (for the first one 10 are waited at least); None goes on
            until the source ends.
        filter: one of the server's filters; None takes the one that it was started with.

    Raises:
        InputError: the source cannot be opened or gives nothing, or the server refuses or does not answer for a minute.
    """
    for answer in _client(url).stream(open_source(source).frames(), is_live=True, filter=filter, seconds=seconds):
        yield LiveResult(_result(answer), answer.number, answer.n_skipped, answer.latency_s)


def _client(url: str) -> Client:
    return Client(url, token=os.environ.get(TOKEN_VARIABLE) or None)


def _result(answer: StreamedDepth) -> Result:
    return Result(answer.depth, cast(Claims, answer.claims), answer.image, answer.is_start)
