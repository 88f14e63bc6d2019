"""What every stream has, whatever brings its frames: a place among the others, and an answer to each frame."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

from fastapi import HTTPException, Query
from starlette.requests import HTTPConnection

from steadydepth.serving.access import client_of
from steadydepth.serving.encoding import encode_depth
from steadydepth.serving.figures import Figures, StreamFigures
from steadydepth.serving.flicker import LiveFlicker
from steadydepth.serving.messages import pack
from steadydepth.serving.models import describe
from steadydepth.serving.settings import Limits
from steadydepth.serving.terminals import Answer
from steadydepth.serving.tokens import Identity

Format = Literal["float16", "png16", "zstd", "float32"]
FilterName = Annotated[
    str, Query(max_length=64, description="one of `filters` of GET /v1/models", examples=["learned"])
]


@contextmanager
def reserved(state: Any, identity: Identity, connection: HTTPConnection) -> Iterator[str]:
    """A place for one more stream, and its name, as long as the block lasts.

    Args:
        state: of the app.
        identity: who asks.
        connection: from where.

    Raises:
        HTTPException: 429, too many streams are open.
    """
    figures: Figures = state.figures
    limits: Limits = state.settings.limits
    client = client_of(identity, connection)
    n_own = sum(each.client == client for each in figures.streams.values())
    if len(figures.streams) >= limits.sessions or n_own >= limits.sessions_a_client:
        raise HTTPException(429, "too many streams are open", {"Retry-After": "5"})
    name = secrets.token_hex(6)
    # Counted before anything is waited for, so that many at once are not one too many.
    figures.streams[name] = StreamFigures(client)
    try:
        yield name
    finally:
        state.audit.note("stream ended", session=name, who=identity.name, frames=figures.streams[name].n_frames)
        del figures.streams[name]


class Answers:
    """Depth of the frames of one stream to messages, and the counts of both.

    Args:
        state: of the app.
        name: of the stream.
        format: of the messages.
    """

    def __init__(self, state: Any, name: str, format: Format) -> None:
        self.format = format
        self.figures: Figures = state.figures
        self.own = self.figures.streams[name]
        self.flicker = LiveFlicker(state.flicker_budget)

    def message(self, answer: Answer, number: int, *, arrived: float, begun: float) -> bytes:
        """The answer to one frame as it is sent; the frames come in their order, from any thread.

        Args:
            answer: depth of the frame, from the terminal.
            number: of the frame.
            arrived: when it came, monotonic.
            begun: when it was taken out of its queue.
        """
        self.flicker.see(answer.result)
        described, payload = encode_depth(answer.result, self.format)
        header = {
            "type": "depth",
            "id": number,
            **described,
            **describe(answer.by),
            "start": answer.result.is_start,
            "time": time.time(),
            "waited_ms": round(1e3 * (begun - arrived), 2),
            "computed_ms": round(1e3 * (time.monotonic() - begun), 2),
            "skipped": self.own.n_skipped,
            "flicker": self.flicker.value,
        }
        return pack(header, payload)

    def count(self, arrived: float) -> None:
        """One more is answered."""
        self.own.n_frames += 1
        self.own.flicker = self.flicker.value
        self.figures.n_frames += 1
        self.figures.answered(time.monotonic() - arrived)

    def skip(self) -> None:
        """One more is displaced by a newer one."""
        self.own.n_skipped += 1
        self.figures.n_skipped += 1

    def refuse(self) -> None:
        """One more could not be read or predicted."""
        self.figures.n_refused += 1
