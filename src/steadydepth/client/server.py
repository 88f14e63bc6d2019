"""A server, as a terminal sees it: single images over HTTP, streams over WebSockets."""

import http.client
import io
import json
import re
import ssl
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit

import numpy as np
from numpy.typing import NDArray

from steadydepth.client.stream import Encoding, ServedDepth, Stream, StreamedDepth, encode_image
from steadydepth.errors import InputError, import_package
from steadydepth.files.prefetch import check_seconds
from steadydepth.serving.messages import FORMATS, PROTOCOL

_MOST_ANSWER_BYTES = 256 << 20


class Client:
    """A server, as a terminal sees it; one can be shared by threads.

    Args:
        url: http://host:port or https://host:port.
        token: for a server that asks for one.
        timeout_s: until an answer is there; a stream takes its connection for dead after so long, and makes another.
        context: of TLS, for a certificate that the system does not know.

    Raises:
        InputError: the address, or the token, is none.
    """

    def __init__(
        self, url: str, *, token: str | None = None, timeout_s: float = 30.0, context: ssl.SSLContext | None = None
    ) -> None:
        parts = _parts(url)
        # What a file or a secret has behind it is no part of it.
        token = None if token is None else token.strip()
        if token is not None and not re.fullmatch(r"[!-~]+", token):
            raise InputError("the token is empty, or has letters that no token has: give what --new-token printed")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._place, self._is_tls, self._path = parts.netloc, parts.scheme == "https", parts.path.rstrip("/")
        self._headers: dict[str, str] = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.timeout_s, self._context = timeout_s, context

    def models(self) -> dict[str, Any]:
        """Of `GET /v1/models`: the `model` in service, its `claims`, names of all `models` and `filters`, and more."""
        return json.loads(self._request("GET", "/v1/models")[0])

    def predict(self, image: NDArray[Any]) -> ServedDepth:
        """Depth of one image by itself, without loss there and back.

        Args:
            image: uint8 RGB (h, w, 3).

        Raises:
            InputError: the server refuses it, or does not answer.
        """
        kind = {"Content-Type": "image/png"}
        body, headers = self._request("POST", "/v1/depth?format=npz", encode_image(image, "png"), kind)
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
        seconds: float | None = None,
    ) -> Iterator[StreamedDepth]:
        """Depth of frames, in order, over connections that may be lost.

        At most two frames are on their way; a slow server, network or caller slows the source down, or, where it is
        live, leaves frames out. After a lost connection the stream continues over a new one, and the session begins
        anew.

        Args:
            frames: uint8 RGB (h, w, 3); read in a thread of its own.
            is_live: the newest frame wins, those before it that were not sent, or that a cut connection lost, are left
                out. False sends each frame until it is answered.
            filter: one of `filters` of `models`; None takes the one it was started with.
            format: of the answers: float16, png16 (16 bits), zstd (float32, without loss) or float32.
            encoding: of the frames: jpeg, or without loss png or rgb.
            patience_s: give up after so long without a connection.
            seconds: end after so long, also where no frame comes; None continues until the source ends.

        Raises:
            InputError: the server refuses the stream or a frame, there was no connection for so long, or nothing came
                in the time that was asked for.
        """
        if format not in FORMATS:
            raise InputError(f"format {format!r}: unknown; choose one of {', '.join(FORMATS)}")
        check_seconds(seconds)
        query = urlencode({"format": format, **({} if filter is None else {"filter": filter})})
        stream = Stream(
            lambda: self.connect(f"/v1/stream?{query}"),
            frames,
            url=self.url,
            timeout_s=self.timeout_s,
            patience_s=patience_s,
            seconds=seconds,
            is_live=is_live,
            encoding=encoding,
        )
        return stream.run()

    def connect(self, path: str) -> Any:
        """A WebSocket at that path of the server, open.

        Raises:
            InputError: the server refuses it for good, or websockets is not installed.
            OSError: another try may help.
        """
        websockets = import_package("websockets.sync.client", "websockets", "websockets is not installed")
        from websockets.exceptions import InvalidStatus, WebSocketException

        try:
            # Entered here and closed by `close`: a connection lasts longer than a block. What `connect` returns is a
            # connection or, in later versions, what makes one when it is entered.
            return websockets.connect(
                f"{'wss' if self._is_tls else 'ws'}://{self._place}{self._path}{path}",
                additional_headers=self._headers,
                subprotocols=[PROTOCOL],
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
        secure = partial(http.client.HTTPSConnection, context=self._context)
        connection = (secure if self._is_tls else http.client.HTTPConnection)(self._place, timeout=self.timeout_s)
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


def _parts(url: str) -> SplitResult:
    with suppress(ValueError):  # its brackets, or its port
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0:
            return parts
    raise InputError(f"server {url}: it is http://host:port or https://host:port")


def _refusal(url: str, status: int, content: bytes | bytearray) -> str:
    try:
        detail = json.loads(content)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = "no reason given"
    return f"{url} refuses it ({status}): {detail}"
