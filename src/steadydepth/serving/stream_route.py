"""`WS /v1/stream`: frames of one terminal in, depth of the newest one out, in order."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, WebSocket, WebSocketDisconnect

from steadydepth.errors import InputError
from steadydepth.inference.session import Image
from steadydepth.serving.access import Rates, requires
from steadydepth.serving.answers import Answers, FilterName, Format, reserved
from steadydepth.serving.encoding import decode_image, raw_image
from steadydepth.serving.messages import MOST_ID, PROTOCOL, WINDOW, unpack
from steadydepth.serving.models import Models, describe
from steadydepth.serving.settings import Limits
from steadydepth.serving.terminals import Answer, Terminal
from steadydepth.serving.tokens import Identity

LOG = logging.getLogger(__name__)
router = APIRouter()
_MOST_REFUSED = 20  # frames one after another, then the stream is closed


class _Over(Exception):
    """The stream ends, with a code of RFC 6455 and a reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@dataclass(frozen=True)
class _Frame:
    """A frame as it was received."""

    number: int
    header: dict[str, Any]
    payload: memoryview
    is_reset: bool
    time_s: float | None  # when it was taken, by the clock of the terminal
    arrived: float  # monotonic
    image: Future[Image] | None = None  # decoded, or soon; None: not begun


@router.websocket("/v1/stream")
async def stream(
    socket: WebSocket,
    identity: Annotated[Identity, requires("predict")],
    format: Annotated[Format, Query()] = "float16",
    filter: FilterName | None = None,
) -> None:
    """One terminal's stream; docs/serving.md describes its messages.

    Args:
        socket: not yet accepted.
        identity: who asks.
        format: of the depth that goes back.
        filter: in place of the server's own.
    """
    state = socket.app.state
    chosen = await asyncio.to_thread(state.filters.choose, filter, identity)
    with reserved(state, identity, socket) as name, suppress(WebSocketDisconnect):
        await socket.accept(PROTOCOL if PROTOCOL in socket.scope["subprotocols"] else None)
        terminal = Terminal(state.models, filter=chosen)
        await _Stream(socket, name, terminal, format).run()


def _time_of(header: dict[str, Any]) -> float | None:
    """When a frame was taken. Not when it came: a slow server would see gaps where there are none."""
    time_s = header.get("time")
    if time_s is None:
        return None
    if type(time_s) not in (int, float) or not abs(time_s) < MOST_ID:
        raise InputError("the time of a frame is a number of seconds")
    return float(time_s)


class _Stream:
    """Reads frames, of which the newest waits in a queue of one, and answers them one after another."""

    def __init__(self, socket: WebSocket, name: str, terminal: Terminal, format: Format) -> None:
        state = socket.app.state
        self.socket, self.name, self.terminal = socket, name, terminal
        self.models: Models = state.models
        self.limits: Limits = state.settings.limits
        self.answers = Answers(state, name, format)
        self._pool = state.pool
        self._newest: _Frame | None = None
        self._changed = asyncio.Event()
        self._sending = asyncio.Lock()
        self._step: asyncio.Future[Answer] | None = None
        self._last_number, self._reset_asked, self._n_refused = -1, False, 0
        self._decoded_for: asyncio.Future[Answer] | None = None  # the step during which a frame was decoded ahead

    async def run(self) -> None:
        """Until the client goes, or a limit is reached."""
        facts = {"session": self.name, "window": WINDOW, "frame_bytes": self.limits.frame_bytes}
        await self._say(type="hello", **facts, **describe(self.models.current))
        tasks = [asyncio.create_task(work) for work in (self._read(), self._answer_all(), self._watch_token())]
        try:
            first = asyncio.FIRST_COMPLETED
            done, _ = await asyncio.wait(tasks, timeout=self.limits.session_s, return_when=first)
            error = next((task.exception() for task in done), _Over(1001, "a stream ends after so long: open another"))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._leave()
        if isinstance(error, WebSocketDisconnect):
            return
        if not isinstance(error, _Over):
            number = secrets.token_hex(4)
            LOG.error("error %s in a stream", number, exc_info=error)
            error = _Over(1011, f"internal error {number}")
        with suppress(_Over, RuntimeError, WebSocketDisconnect):  # it has gone, or takes nothing
            await self._in_time(self.socket.close(error.code, error.reason))

    async def _watch_token(self) -> None:
        await self.socket.app.state.access.revoked(self.socket, "predict")
        raise _Over(1008, "the token of this stream is no longer one")

    def _leave(self) -> None:
        if self._step is None or self._step.done():
            self.terminal.close()
        else:
            # A thread cannot be stopped: what it does is thrown away, and then its place is free.
            self._step.add_done_callback(self._close_after)

    def _close_after(self, step: asyncio.Future[Answer]) -> None:
        if not step.cancelled():
            step.exception()  # asked for, or asyncio says that nobody did
        self.terminal.close()

    async def _read(self) -> None:
        rates = Rates(self.limits.messages_s, 2 * self.limits.messages_s)
        while True:
            try:
                async with asyncio.timeout(self.limits.idle_s):
                    message = await self.socket.receive()
            except TimeoutError:
                raise _Over(1001, f"no frame in {self.limits.idle_s:g} s") from None
            # A network that waits takes the frame before first, or this one would displace it: nobody else runs where a
            # message is at hand.
            await asyncio.sleep(0)
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if not rates.take("messages"):
                raise _Over(1008, f"more than {self.limits.messages_s:g} messages a second")
            if message.get("bytes") is None:
                self._read_text(message.get("text") or "")
            else:
                await self._read_frame(message["bytes"])

    def _read_text(self, text: str) -> None:
        if text.replace(" ", "") != '{"type":"reset"}':
            raise _Over(1007, 'the one text of a client is {"type": "reset"}; frames are binary')
        self._reset_asked = True

    async def _read_frame(self, message: bytes) -> None:
        try:
            header, payload = unpack(message)
            number, is_reset = header.get("id"), header.get("reset", False)
            if type(number) is not int or not self._last_number < number <= MOST_ID:
                raise InputError("the id of a frame is a whole number above that of the frame before")
            if not isinstance(is_reset, bool) or header.get("kind") not in ("image", "rgb"):
                raise InputError("the kind of a frame is image or rgb, and reset is true or false")
            time_s = _time_of(header)
        except InputError as error:
            raise _Over(1007, str(error)) from None
        self._last_number = number
        displaced = self._newest
        is_reset = is_reset or self._reset_asked or (displaced is not None and displaced.is_reset)
        self._reset_asked = False
        frame = _Frame(number, header, payload, is_reset, time_s, time.monotonic())
        self._newest = replace(frame, image=self._decode_ahead(frame))
        self.answers.own.is_waiting = True
        self._changed.set()
        if displaced is not None:
            self.answers.skip()
            await self._say(type="skipped", id=displaced.number)

    def _decode_ahead(self, frame: _Frame) -> Future[Image] | None:
        """Decode a frame while the one before is in the network; once for each of those, however many are displaced."""
        if self._step is None or self._step.done() or self._decoded_for is self._step:
            return None
        self._decoded_for = self._step
        return self._pool.submit(self._decode, frame)

    async def _answer_all(self) -> None:
        """A frame goes through the network while the one before it is encoded and sent."""
        frame: _Frame | None = None
        sending: asyncio.Task[None] | None = None
        try:
            while True:
                if frame is None and sending is not None:
                    await sending
                while frame is None:
                    await self._changed.wait()
                    frame = self._take()
                begun = time.monotonic()
                answer = await self._compute(frame)
                if sending is not None:
                    await sending
                # Out of the queue before the client hears that it may send another one, or that one would displace it.
                answered, frame = frame, self._take()
                sending = asyncio.create_task(self._finish(answered, answer, begun))
        finally:
            if sending is not None:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    def _take(self) -> _Frame | None:
        self._changed.clear()
        self.answers.own.is_waiting = False
        frame, self._newest = self._newest, None
        return frame

    async def _compute(self, frame: _Frame) -> Answer | Exception:
        """Depth of a frame, or why there is none."""
        loop = asyncio.get_running_loop()
        self._step = loop.run_in_executor(self._pool, self._predict, frame)
        try:
            # Shielded: when the stream ends, the thread runs to its end.
            return await asyncio.shield(self._step)
        except Exception as error:
            return error

    async def _finish(self, frame: _Frame, answer: Answer | Exception, begun: float) -> None:
        """Send what a frame gets."""
        try:
            if isinstance(answer, Exception):
                raise answer
            message = partial(self.answers.message, answer, frame.number, arrived=frame.arrived, begun=begun)
            encoded = await asyncio.get_running_loop().run_in_executor(self._pool, message)
        except Exception as error:
            await self._refuse(frame, error)
            return
        self._n_refused = 0
        self.answers.count(frame.arrived)
        await self._send(self.socket.send_bytes(encoded))

    async def _refuse(self, frame: _Frame, error: Exception) -> None:
        self._n_refused += 1
        self.answers.refuse()
        reason = str(error)
        if not isinstance(error, InputError):
            number = secrets.token_hex(4)
            LOG.error("error %s in a frame of a stream", number, exc_info=error)
            reason = f"internal error {number}"
        await self._say(type="refused", id=frame.number, reason=reason)
        if self._n_refused >= _MOST_REFUSED:
            raise _Over(1008, f"{_MOST_REFUSED} frames were refused, one after another")

    def _predict(self, frame: _Frame) -> Answer:
        """In a thread: the next frame of the terminal."""
        image = self._decode(frame) if frame.image is None else frame.image.result()
        return self.terminal.step(image, is_reset=frame.is_reset, time_s=frame.time_s)

    def _decode(self, frame: _Frame) -> Image:
        """In a thread: bytes to pixels."""
        header, pixels = frame.header, self.limits.pixels
        if header["kind"] == "rgb":
            return raw_image(frame.payload, header.get("height"), header.get("width"), pixels)
        return decode_image(bytes(frame.payload), pixels)

    async def _say(self, **facts: Any) -> None:
        await self._send(self.socket.send_json({**facts, "time": time.time()}))

    async def _send(self, sending: Awaitable[None]) -> None:
        async with self._sending:
            await self._in_time(sending)

    async def _in_time(self, sending: Awaitable[None]) -> None:
        try:
            # Not `wait_for`, which before Python 3.12 loses a cancellation in the moment in which it is done: a stream
            # of a client that goes just then would never end.
            async with asyncio.timeout(self.limits.send_s):
                await sending
        except TimeoutError:
            # What the client does not take would be kept until the kernel gives it up.
            if (abort := self.socket.scope.get("state", {}).get("abort")) is not None:
                abort()
            raise _Over(1008, f"an answer was not taken in {self.limits.send_s:g} s") from None
