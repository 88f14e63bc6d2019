"""The server as a process: the app behind uvicorn, with limits on connections that have not sent anything yet."""

import asyncio
import logging
import socket
import sys
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from steadydepth.errors import InputError
from steadydepth.ops.buffers import keep_buffers
from steadydepth.serving.address import check_address, refused_address, shown_address
from steadydepth.serving.app import create_app
from steadydepth.serving.settings import Limits, Settings

LOG = logging.getLogger(__name__)
_MOST_HEADER_BYTES = 16 << 10
_SWITCH_S = 0.0005


def run_server(settings: Settings) -> None:
    """Serve until interrupted (SIGINT, SIGTERM).

    Raises:
        InputError: the model or the certificate cannot be read, or the address is taken.
    """
    check_address(settings.host, settings.port)  # before a model is loaded, which may take minutes
    server = make_server(settings)
    # The network's thread asks for the interpreter after each of its hundreds of kernels; waiting 5 ms, as is usual,
    # behind threads that read and write frames cost a sixth of the frames a second of eight terminals on two cores.
    sys.setswitchinterval(_SWITCH_S)
    keep_buffers()
    asyncio.run(server.serve())


class _Server(uvicorn.Server):
    """uvicorn's server, which says where it listens; InputError where it cannot."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        config = self.config
        try:
            await super().startup(sockets)
        except SystemExit as error:  # uvicorn's word for an address that it cannot listen on
            raise refused_address(config.host, config.port, error.__context__) from error
        # The port that it has got, where any free one was asked for.
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        LOG.info("serving at %s://%s", "https" if config.ssl else "http", shown_address(host, port))


def make_server(settings: Settings) -> uvicorn.Server:
    """The server, not running yet.

    Raises:
        InputError: the model or the certificate cannot be read.
    """
    app = create_app(settings)
    limits = settings.limits
    config = uvicorn.Config(
        app,
        settings.host,
        settings.port,
        http=_limited(limits),
        ws=_Abortable,
        ws_max_size=limits.frame_bytes,
        # What is compressed can be a thousand times as large as it looks, and images are compressed already.
        ws_per_message_deflate=False,
        h11_max_incomplete_event_size=_MOST_HEADER_BYTES,
        log_config=None,
        access_log=False,  # the audit log says more
        server_header=False,
        proxy_headers=settings.proxy is not None,
        forwarded_allow_ips=settings.proxy,
        timeout_graceful_shutdown=5,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    try:
        config.load()
    except OSError as error:  # ssl.SSLError is one
        files = f"{settings.certificate}, {settings.key}"
        raise InputError(f"{files}: no certificate with its key, for TLS ({error}): give PEM files") from error
    return _Server(config)


def _limited(limits: Limits) -> type[asyncio.Protocol]:
    """Uvicorn's HTTP, which waits without end for the headers of a request, with an end to that."""

    class Limited(H11Protocol):
        """Connections over the limit, and those that say nothing for too long, are ended."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
                return
            self._late = self.loop.call_later(limits.header_s, self._end_silent)

        def on_response_complete(self) -> None:
            # Uvicorn waits for the first byte of the next request alone.
            self._late.cancel()
            self._late = self.loop.call_later(limits.header_s, self._end_silent)
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            if (late := getattr(self, "_late", None)) is not None:
                late.cancel()
            super().connection_lost(exc)

        def handle_websocket_upgrade(self, event: Any) -> None:
            self._late.cancel()
            super().handle_websocket_upgrade(event)

        def _end_silent(self) -> None:
            is_answered = self.cycle is None or self.cycle.response_complete
            if is_answered and not self.transport.is_closing():
                self.transport.abort()

    return Limited


class _Abortable(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, whose app may end a connection that takes nothing, without waiting for it.

    It also ends one that sends what is no message before its handshake is answered; uvicorn fails an assertion there,
    at which asyncio ends a connection on Linux and macOS, but on Windows reads on.
    """

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is None:
            self.transport.abort()
        else:
            super().handle_parser_exception()

    async def run_asgi(self) -> None:
        self.scope["state"]["abort"] = self.transport.abort
        await super().run_asgi()
