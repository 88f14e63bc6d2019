"""A terminal: images and frames to a steadydepth server, depth back. Needs NumPy, OpenCV and websockets, no torch."""

import http.client
import io
import json
import logging
import random
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlencode, urlsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from steadydepth.errors import InputError
from steadydepth.serving.messages import FORMATS, PROTOCOL, WINDOW, decode_depth, pack, unpack

LOG = logging.getLogger(__name__)
Encoding = Literal["jpeg", "png", "rgb"]
_JPEG_QUALITY = 90
_MOST_ANSWER_BYTES = 256 << 20
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


class Client:
    """A server, as a terminal sees it; one can be shared by threads.

    Args:
        url: http://host:port or https://host:port.
        token: for a server that asks for one.
        timeout_s: until an answer is there; a stream takes its connection for dead after so long, and makes another.
        context: of TLS, for a certificate that the system does not know.

    Raises:
        InputError: the address is none.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout_s: float = 30.0, context: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"server {url}: it is http://host:port or https://host:port")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._place, self._is_tls, self._path = parts.netloc, parts.scheme == "https", parts.path.rstrip("/")
        self._headers: dict[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.timeout_s, self._context = timeout_s, context

    def models(self) -> dict[str, Any]:
        """The model in service (`model`, `version`, `claims`), and the names of all `models` and `filters`."""
        return json.loads(self._request("GET", "/v1/models")[0])

    def predict(self, image: NDArray[Any]) -> ServedDepth:
        """Depth of one image by itself, without loss there and back.

        Args:
            image: uint8 RGB (h, w, 3).

        Raises:
            InputError: the server refuses it, or does not answer.
        """
        kind = {"Content-Type": "image/png"}
        body, headers = self._request("POST", "/v1/depth?format=npz", _encode(image, "png"), kind)
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            return ServedDepth(arrays["depth"][0], str(arrays["claims"]), headers.get("X-Model", ""))

    def stream(
        self,
        frames: Iterable[NDArray[Any]],
        *,
        is_live: bool = False,
        filter: str | None = None,
        format: str = "float16",
        encoding: Encoding = "jpeg",
        patience_s: float = 60.0,
    ) -> Iterator[StreamedDepth]:
        """Depth of frames, in order, over connections that may be cut.

        At most two frames are on their way; a slow server, network or caller slows the source down, or, where it is
        live, leaves frames out. After a cut the stream goes on over a new connection, where the session begins anew.

        Args:
            frames: uint8 RGB (h, w, 3); read in a thread of its own.
            is_live: the newest frame wins, those before it that were not sent, or that a cut connection lost, are left
                out. False sends each frame until it is answered.
            filter: one of `filters` of `models`; None takes the one it was started with.
            format: of the answers: float16, png16 (16 bits), zstd (float32, without loss) or float32.
            encoding: of the frames: jpeg, or without loss png or rgb.
            patience_s: give up after so long without a connection.

        Raises:
            InputError: the server refuses the stream or a frame, or there was no connection for so long.
        """
        if format not in FORMATS:
            raise InputError(f"format {format!r}: unknown; choose one of {', '.join(FORMATS)}")
        query = urlencode({"format": format, **({} if filter is None else {"filter": filter})})
        return _Stream(self, f"/v1/stream?{query}", frames, is_live, encoding, patience_s).run()

    def connect(self, path: str) -> Any:
        """A WebSocket, open.

        Args:
            path: of the server, from its slash on.

        Raises:
            InputError: the server refuses it for good, or websockets is not installed.
            OSError: another try may help.
        """
        try:
            from websockets.exceptions import InvalidStatus, WebSocketException
            from websockets.sync.client import connect
        except ImportError as error:
            raise InputError("websockets is not installed: pip install 'steadydepth[serve]'") from error
        try:
            # Entered here and closed by `close`: a connection lasts longer than a block. What `connect` returns is a
            # connection or, in later versions, what makes one when it is entered.
            return connect(
                f"{'wss' if self._is_tls else 'ws'}://{self._place}{self._path}{path}",
                additional_headers=self._headers,
                subprotocols=[PROTOCOL],  # type: ignore[list-item]
                compression=None,
                open_timeout=self.timeout_s,
                close_timeout=1.0,
                max_size=_MOST_ANSWER_BYTES,
                ssl=self._context,
                proxy=None,
            ).__enter__()
        except InvalidStatus as error:
            status = error.response.status_code
            if status not in (408, 429) and status < 500:
                raise InputError(_refusal(self.url, status, error.response.body or b"")) from error
            raise ConnectionError(f"{self.url} answers {status}") from error
        # No handshake, or cut in the middle of it; of the latter websockets now and then fails an assertion of its own.
        except (WebSocketException, EOFError, AssertionError) as error:
            raise ConnectionError(f"{self.url}: {error}") from error

    def _request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        if self._is_tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._place, timeout=self.timeout_s, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(self._place, timeout=self.timeout_s)
        try:
            connection.request(method, self._path + path, body, {**self._headers, **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise InputError(f"{self.url} does not answer ({error}): is the server there?") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise InputError(_refusal(self.url, answer.status, content))
        return content, answer.headers


def _refusal(url: str, status: int, content: bytes | bytearray) -> str:
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = "no reason given"
    return f"{url} refuses it ({status}): {detail}"


@dataclass(frozen=True)
class _Sent:
    """A frame on its way."""

    number: int
    image: NDArray[Any]
    taken: float  # monotonic, as `sent`
    sent: float


class _Feed:
    """The frames of a source, read by a thread of its own: the newest one, or each when it is asked for."""

    def __init__(self, frames: Iterable[NDArray[Any]], is_live: bool, changed: threading.Condition) -> None:
        self._changed, self._is_live = changed, is_live
        self.kept: tuple[int, NDArray[Any], float] | None = None
        self.error: BaseException | None = None
        self.is_over = self._is_stopped = False
        threading.Thread(target=self._read, args=(frames,), daemon=True).start()

    def stop(self) -> None:
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()

    def take(self) -> tuple[int, NDArray[Any], float]:
        """The frame that is kept and when it came, for whoever holds the lock."""
        kept, self.kept = self.kept, None
        assert kept is not None
        self._changed.notify_all()
        return kept

    def _read(self, frames: Iterable[NDArray[Any]]) -> None:
        try:
            for number, frame in enumerate(frames):
                with self._changed:
                    self._changed.wait_for(lambda: self._is_live or self.kept is None or self._is_stopped)
                    if self._is_stopped:
                        return
                    self.kept = number, frame, time.monotonic()
                    self._changed.notify_all()
        # Whatever it is, it is raised where the answers are asked for.
        except BaseException as error:
            self.error = error
        finally:
            with self._changed:
                self.is_over = True
                self._changed.notify_all()


class _Stream:
    """One stream over as many connections as it takes: a thread sends, the caller's own receives."""

    def __init__(
        self,
        client: Client,
        path: str,
        frames: Iterable[NDArray[Any]],
        is_live: bool,
        encoding: Encoding,
        patience_s: float,
    ) -> None:
        self.client, self.path, self.is_live, self.encoding = client, path, is_live, encoding
        self.patience_s = patience_s
        self._frames = frames
        # One that the same thread may take twice.
        self._changed = threading.Condition(threading.RLock())
        self._waiting = deque[_Sent]()  # not answered yet
        self._again = deque[_Sent]()  # of a connection that was cut
        self._last = -1  # number of the last frame that was answered
        self._n_in_vain = 0  # connections, one after another, without an answer
        self._is_cut = False
        self._fault: InputError | None = None  # a frame that is no image

    def run(self) -> Iterator[StreamedDepth]:
        self._feed = _Feed(self._frames, self.is_live, self._changed)
        try:
            while not self._is_done():
                yield from self._over_one_connection()
            if self._feed.error is not None:
                raise self._feed.error
        finally:
            self._feed.stop()

    def _is_done(self) -> bool:
        with self._changed:
            return self._feed.is_over and not (self._feed.kept or self._again or self._waiting)

    def _over_one_connection(self) -> Iterator[StreamedDepth]:
        from websockets.exceptions import ConnectionClosed

        connection = self._connect()
        self._is_cut = False
        sender = threading.Thread(target=self._send_all, args=(connection,), daemon=True)
        try:
            hello = json.loads(connection.recv(self.client.timeout_s))
            self._window = min(int(hello["window"]), WINDOW)
            sender.start()
            yield from self._receive_all(connection)
        except (OSError, EOFError, ConnectionClosed) as error:
            if self._fault is not None:
                raise self._fault from None
            if isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == 1007:
                raise InputError(f"{self.client.url} refuses the stream: {error.rcvd.reason}") from error
            if self._is_done():
                return
            LOG.info("%s: the connection is cut (%s): another one", self.client.url, error)
            self._n_in_vain += 1
            if self._n_in_vain >= _MOST_IN_VAIN:
                raise InputError(f"{self.client.url} ends every connection without an answer: {error}") from error
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
                return self.client.connect(self.path)
            except OSError as error:
                if time.monotonic() + pause > until:
                    raise InputError(f"{self.client.url} does not answer ({error}): is the server there?") from error
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
                connection.send(self._message(frame))
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
            height, width = _checked(frame.image).shape[:2]
            pixels = np.ascontiguousarray(frame.image).tobytes()
            return pack({**header, "kind": "rgb", "height": height, "width": width}, pixels)
        return pack({**header, "kind": "image"}, _encode(frame.image, self.encoding))

    def _receive_all(self, connection: Any) -> Iterator[StreamedDepth]:
        """Answers until the connection is closed, which is raised."""
        while True:
            try:
                message = connection.recv(_LOOK_EVERY_S)
            except TimeoutError:
                if self._waiting and time.monotonic() - self._waiting[0].sent > self.client.timeout_s:
                    raise EOFError(f"no answer in {self.client.timeout_s:g} s") from None
                continue
            if isinstance(message, str):
                self._hear(json.loads(message))
            else:
                yield self._answer(message)

    def _hear(self, said: dict[str, Any]) -> None:
        """A frame that is not answered with depth."""
        if said.get("type") not in ("skipped", "refused"):
            return
        self._settle(said["id"])
        if said["type"] == "refused" and not self.is_live:
            raise InputError(f"frame {said['id']} is refused: {said['reason']}")
        LOG.debug("frame %d: %s", said["id"], said.get("reason", "skipped"))

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
        raise InputError(f"{self.client.url} answers frame {number}, which was not asked: is it a steadydepth server?")


def _checked(image: Any) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"an image is {kind}; it is a numpy array of uint8 (h, w, 3) in RGB: convert it")
    return image


def _encode(image: NDArray[Any], encoding: Encoding) -> bytes:
    flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if encoding == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    is_encoded, data = cv2.imencode(f".{encoding}", np.ascontiguousarray(_checked(image)[..., ::-1]), flags)
    if not is_encoded:
        raise InputError(f"an image of {image.shape} cannot be encoded as {encoding}")
    return data.tobytes()
