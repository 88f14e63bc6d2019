"""What goes to a server and what comes back: images, encoded, and depth, in order over connections that may be lost."""

import json
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError
from steadydepth.files.prefetch import BEGIN_S, Feed
from steadydepth.ops.resize import check_image
from steadydepth.serving.messages import WINDOW, decode_depth, pack, unpack

LOG = logging.getLogger(__name__)
Encoding = Literal["jpeg", "png", "rgb"]
_JPEG_QUALITY = 90
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0  # between two attempts to connect, doubled from one to the next
_MOST_IN_VAIN = 6  # connections, one after another, that end without an answer
_LOOK_EVERY_S = 1.0  # whether an answer is overdue


@dataclass(frozen=True)
class ServedDepth:
    """Depth of one image, of its size."""

    depth: NDArray[np.float32]  # (h, w) in the units of `claims`; NaN where there is no value
    claims: str  # metric (metres), scale, affine or disparity
    model: str  # name and version of the model that answered


@dataclass(frozen=True)
class StreamedDepth(ServedDepth):
    """Depth of one frame of a stream."""

    number: int  # of the frame in its source, from 0
    image: NDArray[np.uint8]  # the frame, RGB (h, w, 3)
    is_start: bool  # whether nothing before it was remembered: the first one, a cut, a new connection or model
    n_skipped: int  # frames that were left out since the answer before
    latency_s: float  # from sending to here
    flicker: float | None  # of the stream so far, per cent of depth a frame


def encode_image(image: NDArray[Any], encoding: Encoding) -> bytes:
    """An image as JPEG or PNG.

    Raises:
        InputError: it is no image, or has a size that the encoding has not.
    """
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    is_encoded, data = cv2.imencode(f".{encoding}", np.ascontiguousarray(check_image(image)[..., ::-1]), flags)
    if not is_encoded:
        raise InputError(f"an image of {image.shape} cannot be encoded as {encoding}")
    return data.tobytes()


@dataclass(frozen=True)
class _Sent:
    """A frame on its way."""

    number: int
    image: NDArray[Any]
    taken: float  # monotonic, as `sent`
    sent: float


@dataclass
class Stream:
    """One stream over as many connections as it takes: a thread sends, the caller's own receives."""

    connect: Callable[[], Any]  # gives an open WebSocket of the stream, or raises what `Client.connect` does
    frames: Iterable[NDArray[Any]]  # uint8 RGB (h, w, 3); read in a thread of its own
    _: KW_ONLY
    url: str  # of the server, for messages
    timeout_s: float  # without an answer for so long the connection counts as dead
    patience_s: float  # give up after so long without a connection
    seconds: float | None  # end after so long; None continues until the frames end
    is_live: bool  # the newest frame wins
    encoding: Encoding

    def __post_init__(self) -> None:
        """Nothing is sent, and nothing answered, yet."""
        self._begun, self._last = time.monotonic(), -1  # the latter is the number of the last frame that was answered
        # One that the same thread may take twice.
        self._changed = threading.Condition(threading.RLock())
        self._waiting = deque[_Sent]()  # not answered yet
        self._again = deque[_Sent]()  # of a lost connection
        self._n_in_vain = 0  # connections, one after another, without an answer
        self._is_cut = False
        self._fault: InputError | None = None  # a frame that is no image

    def run(self) -> Iterator[StreamedDepth]:
        """The answers, in order.

        Raises:
            InputError: as `Client.stream`; no frame, or no answer, came in the time that was asked for.
        """
        self._feed = Feed(self.frames, is_live=self.is_live, changed=self._changed)
        try:
            while not self._is_done():
                yield from self._over_one_connection()
            if self._feed.error is not None:
                raise self._feed.error
            if self._last < 0 and not self._feed.is_over:
                # What was sent without an answer waits to be sent again.
                came, place = ("answer", self.url) if self._again or self._feed.kept else ("frame", "the source")
                raise InputError(f"no {came} came in {time.monotonic() - self._begun:.0f} s: check {place}")
        finally:
            self._feed.stop()

    def _is_done(self) -> bool:
        with self._changed:
            is_over = self._feed.is_over and not (self._feed.kept or self._again or self._waiting)
            return is_over or self._left_s() <= 0

    def _left_s(self) -> float:
        """Seconds until the end that was asked for; a camera may take a while to begin."""
        most = math.inf if self.seconds is None else self.seconds
        return self._begun + (most if self._last >= 0 else max(most, BEGIN_S)) - time.monotonic()

    def _over_one_connection(self) -> Iterator[StreamedDepth]:
        from websockets.exceptions import ConnectionClosed

        connection = self._connect()
        self._is_cut = False
        sender = threading.Thread(target=self._send_all, args=(connection,), daemon=True)
        try:
            hello = json.loads(connection.recv(self.timeout_s))
            self._window = min(int(hello["window"]), WINDOW)
            self._most_bytes = int(hello.get("frame_bytes", 0))
            sender.start()
            yield from self._receive_all(connection)
        except (OSError, EOFError, ConnectionClosed) as error:
            if self._fault is not None:
                raise self._fault from None
            if isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == 1007:
                raise InputError(f"{self.url} refuses the stream: {error.rcvd.reason}") from error
            if self._is_done():
                return
            LOG.info("%s: the connection is lost (%s): connecting again", self.url, error)
            self._n_in_vain += 1
            if self._n_in_vain >= _MOST_IN_VAIN:
                raise InputError(f"{self.url} ends every connection without an answer: {error}") from error
            time.sleep(_FIRST_PAUSE_S * (self._n_in_vain - 1))
        finally:
            with self._changed:
                self._is_cut = True
                self._changed.notify_all()
            connection.close()
            if sender.ident is not None:
                sender.join()
            # Of live ones the newest, unless another one is there by then.
            self._again.extendleft(reversed(list(self._waiting)[-1 if self.is_live else 0 :]))
            self._waiting.clear()

    def _connect(self) -> Any:
        until, pause = time.monotonic() + self.patience_s, _FIRST_PAUSE_S
        while True:
            try:
                return self.connect()
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise InputError(f"{self.url} does not answer ({error}): is the server there?") from error
            # Not all terminals at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _send_all(self, connection: Any) -> None:
        from websockets.exceptions import ConnectionClosed

        def has_work() -> bool:
            has_frame = bool(self._again) or self._feed.kept is not None
            return self._is_cut or (has_frame and len(self._waiting) < self._window) or self._is_done()

        while True:
            with self._changed:
                self._changed.wait_for(has_work)
                if self._is_cut or self._is_done():
                    break
                if self._again and not (self.is_live and self._feed.kept):
                    frame = replace(self._again.popleft(), sent=time.monotonic())
                else:
                    self._again.clear()
                    frame = _Sent(*self._feed.take(), sent=time.monotonic())
                self._waiting.append(frame)
            try:
                message = self._message(frame)
                if 0 < self._most_bytes < len(message):  # the server would end the connection, and say nothing
                    kind, most = self.encoding, f"{self.url} takes {self._most_bytes}: shrink it"
                    raise InputError(f"frame {frame.number} is {len(message)} bytes as {kind}; {most}")
                connection.send(message)
            except InputError as error:
                self._fault = error
                break
            except (OSError, ConnectionClosed):
                break
        # The receiver waits for a message, and hears of it by that.
        connection.close()

    def _message(self, frame: _Sent) -> bytes:
        # Only live frames have gaps in time: those of a recording are as close as they were.
        header = {"id": frame.number, **({"time": frame.taken} if self.is_live else {})}
        if self.encoding == "rgb":
            height, width = check_image(frame.image).shape[:2]
            pixels = np.ascontiguousarray(frame.image).tobytes()
            return pack({**header, "kind": "rgb", "height": height, "width": width}, pixels)
        return pack({**header, "kind": "image"}, encode_image(frame.image, self.encoding))

    def _receive_all(self, connection: Any) -> Iterator[StreamedDepth]:
        """Answers until the connection is closed, which is raised."""
        while (left_s := self._left_s()) > 0:
            try:
                message = connection.recv(min(_LOOK_EVERY_S, left_s))
            except TimeoutError:
                if self._waiting and time.monotonic() - self._waiting[0].sent > self.timeout_s:
                    raise EOFError(f"no answer in {self.timeout_s:g} s") from None
                continue
            if isinstance(message, str):
                self._hear(json.loads(message))
            else:
                yield self._answer(message)

    def _hear(self, notice: dict[str, Any]) -> None:
        """A frame that is not answered with depth."""
        if notice.get("type") not in ("skipped", "refused"):
            return
        self._settle(notice["id"])
        if notice["type"] == "refused" and not self.is_live:
            raise InputError(f"frame {notice['id']} is refused: {notice['reason']}")
        LOG.debug("frame %d: %s", notice["id"], notice.get("reason", "skipped"))

    def _answer(self, message: bytes) -> StreamedDepth:
        header, payload = unpack(message)
        frame = self._settle(header["id"])
        depth = decode_depth(header, payload)
        number, self._n_in_vain = header["id"], 0
        n_skipped, self._last = number - self._last - 1, number
        return StreamedDepth(
            depth=depth,
            claims=header["claims"],
            model=f"{header['model']} {header['version']}",
            number=number,
            image=frame.image,
            is_start=header["start"],
            n_skipped=n_skipped,
            latency_s=time.monotonic() - frame.sent,
            flicker=header["flicker"],
        )

    def _settle(self, number: int) -> _Sent:
        """The frame that is answered; there is room for another one."""
        with self._changed:
            for place, frame in enumerate(self._waiting):
                if frame.number == number:
                    del self._waiting[place]
                    self._changed.notify_all()
                    return frame
        raise InputError(f"{self.url} answers frame {number}, which was not asked: is it a steadydepth server?")
