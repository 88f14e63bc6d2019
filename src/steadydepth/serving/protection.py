"""What stands around every route: hosts and origins, limits of bodies, headers, plain errors, the audit log."""

import asyncio
import logging
import secrets
import time
from urllib.parse import SplitResult, urlsplit

from fastapi import HTTPException
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadydepth.serving.access import address_of
from steadydepth.serving.audit import Audit
from steadydepth.serving.settings import Settings

LOG = logging.getLogger(__name__)
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
# Nothing comes from other sites; WebAssembly for the models that run in the page, blobs for its images.
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=()",
    "cache-control": "no-store",
}
_TLS = {"strict-transport-security": "max-age=31536000"}


class Guard:
    """Goes around the complete app, WebSockets included; what it refuses never reaches a route.

    Args:
        app: all routes.
        settings: of the server: hosts, origins, limits, certificate.
        audit: gets a line of each request.
    """

    def __init__(self, app: ASGIApp, *, settings: Settings, audit: Audit) -> None:
        self.app, self.settings, self.audit = app, settings, audit
        headers = _HEADERS | (_TLS if settings.certificate is not None else {})
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0
        is_http = scope["type"] == "http"

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                status = message["status"]
                known = {name.lower() for name, _ in message["headers"]}
                own = [(name, value) for name, value in self._headers if name not in known]
                message = {**message, "headers": [*message["headers"], *own]}
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        connection = HTTPConnection(scope)
        try:
            fault = self._fault(connection)
            if fault is not None:
                await _refusal(*fault)(scope, receive, send_guarded)
                return
            await self.app(scope, _Body(receive, self.settings) if is_http else receive, send_guarded)
        except ClientDisconnect:
            status = 499  # it went in the middle of its body: nobody waits for an answer, and nothing is wrong here
        except Exception:
            # What went wrong goes to the log alone; the number joins it with the client's answer.
            number = secrets.token_hex(4)
            LOG.exception("error %s at %s %s", number, scope.get("method", "WS"), scope["path"])
            if status == 0:
                await _refusal(500, f"internal error {number}")(scope, receive, send_guarded)
        finally:
            identity = scope.get("state", {}).get("identity")
            self.audit.note(
                "request",
                method=scope.get("method", "WS"),
                path=scope["path"],
                status=status,
                who=getattr(identity, "name", None),
                address=address_of(connection),
                ms=round(1e3 * (time.monotonic() - begun)),
            )

    def _fault(self, connection: HTTPConnection) -> tuple[int, str] | None:
        """What forbids a connection before anything is read of it; None when nothing does."""
        hosts = connection.headers.getlist("host")
        if len(hosts) != 1:
            return 400, "one Host header is needed"
        # A name that an attacker's DNS points at this machine is not one of ours. Where tokens are asked for, such a
        # page has none.
        names = [name.lower() for name in (*_LOCAL_NAMES, self.settings.host, *self.settings.names)]
        is_checked = self.settings.tokens is None or self.settings.names
        if is_checked and _parts(f"//{hosts[0]}").hostname not in names:
            return 421, "this server has another name"
        origin = connection.headers.get("origin")
        is_reading = connection.scope["type"] == "http" and connection.scope["method"] in ("GET", "HEAD", "OPTIONS")
        if origin is not None and not is_reading and (_parts(origin).netloc.lower() or None) != hosts[0].lower():
            return 403, "pages of other sites are refused"
        lengths = connection.headers.getlist("content-length")
        if lengths and "transfer-encoding" in connection.headers:
            return 400, "a body has a length or comes in chunks"  # a proxy might go by the other one
        if lengths and (not lengths[0].isdecimal() or int(lengths[0]) > self.settings.limits.body_bytes):
            return 413, f"a body has at most {self.settings.limits.body_bytes} bytes"
        return None


class _Body:
    """`receive` of a request whose body may be so large and take so long."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive, self._limits = receive, settings.limits
        self._left, self._ends, self._is_over = settings.limits.body_bytes, 0.0, False

    async def __call__(self) -> Message:
        if self._is_over:  # what comes now is that the client has gone, and that may be waited for
            return await self._receive()
        now = time.monotonic()
        self._ends = self._ends or now + self._limits.body_s
        try:
            async with asyncio.timeout(max(0.0, self._ends - now)):
                message = await self._receive()
        except TimeoutError:
            late = f"a body is there within {self._limits.body_s:g} s"
            raise HTTPException(408, late, {"Connection": "close"}) from None
        self._left -= len(message.get("body", b""))
        self._is_over = not message.get("more_body", False)
        if self._left < 0:
            raise HTTPException(413, f"a body has at most {self._limits.body_bytes} bytes", {"Connection": "close"})
        return message


def _parts(address: str) -> SplitResult:
    """The parts of an address; empty ones of what is none."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def _refusal(status: int, detail: str) -> JSONResponse:
    """An answer to a request, or to the handshake of a WebSocket."""
    return JSONResponse({"detail": detail}, status, {"Connection": "close"})
