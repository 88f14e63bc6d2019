"""Who asks, and how often: tokens, scopes and rates at the door of every route."""

import asyncio
import time
from collections import OrderedDict
from typing import Any

from fastapi import Depends, HTTPException
from starlette.requests import HTTPConnection

from steadydepth.serving.settings import Settings
from steadydepth.serving.tokens import LOCAL, Identity, Scope, Tokens

# Browsers cannot set a header when they open a WebSocket: there the token comes as one of the offered subprotocols.
_BEARER = "bearer."
_MOST_CLIENTS = 10_000
_LOOK_EVERY_S = 2.0  # whether a token is still there


class Rates:
    """How often each of many clients may do something: so many a second on average, some at once (a token bucket).

    `now` is in seconds, of `time.monotonic`.
    """

    def __init__(self, per_second: float, burst: float) -> None:
        self._per_second, self._burst = per_second, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float | None = None) -> bool:
        """Count one more of `client`; False where it is one too many."""
        left = self.left(client, now)
        self._left[client] = (left - 1 if left >= 1 else left, time.monotonic() if now is None else now)
        self._left.move_to_end(client)
        while len(self._left) > _MOST_CLIENTS:
            self._left.popitem(last=False)
        return left >= 1

    def left(self, client: str, now: float | None = None) -> float:
        """How many `client` may do at once, from 0 to `burst`; parts of one are on their way."""
        now = time.monotonic() if now is None else now
        left, since = self._left.get(client, (self._burst, now))
        return min(self._burst, left + (now - since) * self._per_second)


class Access:
    """Says who a connection is of, and refuses who comes too often."""

    def __init__(self, settings: Settings) -> None:
        limits = settings.limits
        self._tokens = None if settings.tokens is None else Tokens(settings.tokens)
        self._requests = Rates(limits.requests_s, 2 * limits.requests_s)
        self._failures = Rates(limits.failures_s, 10.0)

    def identify(self, connection: HTTPConnection) -> Identity:
        """Who asks; HTTPException where the token is wrong, missing, or tried too often."""
        address = address_of(connection)
        identity = LOCAL if self._tokens is None else self._by_token(self._tokens, connection, address)
        if not self._requests.take(client_of(identity, connection)):
            raise HTTPException(429, "too many requests", {"Retry-After": "1"})
        return identity

    async def revoked(self, connection: HTTPConnection, scope: Scope) -> None:
        """Return when the token of an open connection may no longer do `scope`; never where there are no tokens."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            token = token_of(connection)
            identity = LOCAL if self._tokens is None else self._tokens.find(token or "")
            if identity is None or not identity.may(scope):
                return

    def _by_token(self, tokens: Tokens, connection: HTTPConnection, address: str) -> Identity:
        # Asked before the token is looked at: who guesses learns nothing more, right or wrong.
        if self._failures.left(address) < 1:
            raise HTTPException(429, "too many wrong tokens", {"Retry-After": "10"})
        token = token_of(connection)
        identity = None if token is None else tokens.find(token)
        if identity is None:
            self._failures.take(address)
            raise HTTPException(401, "a token is needed", {"WWW-Authenticate": "Bearer"})
        return identity


def address_of(connection: HTTPConnection) -> str:
    """The address that a connection comes from."""
    return connection.client.host if connection.client is not None else "unknown"


def client_of(identity: Identity, connection: HTTPConnection) -> str:
    """Whose rates and sessions these are: the token's, or the address's where there are no tokens."""
    return address_of(connection) if identity is LOCAL else f"token {identity.name}"


def token_of(connection: HTTPConnection) -> str | None:
    """The token of the header `Authorization: Bearer`, or of a WebSocket's subprotocol `bearer.TOKEN`."""
    headers = connection.headers.getlist("authorization")
    if connection.scope["type"] == "websocket" and not headers:
        offered = [one for one in connection.scope["subprotocols"] if one.startswith(_BEARER)]
        return offered[0].removeprefix(_BEARER) if len(offered) == 1 else None
    scheme, _, token = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    return token if scheme.lower() == "bearer" and token else None


def requires(scope: Scope) -> Any:
    """A dependency of a route, HTTP or WebSocket: the `Identity` of a client who may do `scope`."""

    def check(connection: HTTPConnection) -> Identity:
        access: Access = connection.app.state.access
        identity = access.identify(connection)
        connection.state.identity = identity
        if not identity.may(scope):
            raise HTTPException(403, f"this token may not do that; it needs the scope {scope}")
        return identity

    return Depends(check)
