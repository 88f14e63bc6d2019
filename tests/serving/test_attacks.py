"""Who may do what, and what attacks get, over real sockets; docs/serving.md has the table."""

import json
import socket
import stat
import sys
import threading
import time
from contextlib import closing, contextmanager, suppress
from types import SimpleNamespace

import httpx
import pytest
from known_depth import Average, film
from served import depth_of, png, rgb, serving
from waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from steadydepth.errors import InputError
from steadydepth.serving import access
from steadydepth.serving.access import Rates
from steadydepth.serving.app import create_app
from steadydepth.serving.settings import Limits, Settings
from steadydepth.serving.tokens import SCOPES, Tokens, new_token


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that asks for tokens, and one of each kind."""
    path = tmp_path_factory.mktemp("tokens") / "tokens.json"
    tokens = {scope: new_token(path, f"a {scope}", (scope,)) for scope in SCOPES}
    limits = Limits(requests_s=1e4, failures_s=1e4)
    with serving(Average(), tokens=path, limits=limits) as server:
        yield server, tokens


@pytest.fixture(scope="module")
def plain():
    limits = Limits(requests_s=1e4, body_bytes=100_000, body_s=1.5, header_s=1.5)
    with serving(Average(), limits=limits) as server:
        yield server


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


ROUTES = {
    "predict": [("POST", "/v1/depth"), ("GET", "/v1/models")],
    "admin": [("PUT", "/v1/models/current"), ("GET", "/metrics")],
}


def ask(server, method, path, headers=None):
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        body = {"/v1/models/current": b'{"model": "model"}', "/v1/depth": png(film(1)[0])}.get(path)
        kind = {"content-type": "image/png" if path == "/v1/depth" else "application/json"}
        return http.request(method, path, content=body, headers={**kind, **(headers or {})})


@pytest.mark.parametrize(("method", "path"), [route for routes in ROUTES.values() for route in routes])
def test_a_route_asks_for_a_token_with_its_scope(guarded, method, path):
    server, tokens = guarded
    needed = next(scope for scope, routes in ROUTES.items() if (method, path) in routes)
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        bearer("x"),
        bearer(tokens["admin"][:-1]),
        bearer(tokens["admin"] + "x"),
        bearer(tokens["admin"].swapcase()),
        {"Authorization": f"Basic {tokens['admin']}"},
        {"Authorization": tokens["admin"]},
        {"X-Token": tokens["admin"]},
        {"Cookie": f"token={tokens['admin']}"},
    ):
        answer = ask(server, method, path, headers)
        assert answer.status_code == 401, headers
        assert answer.headers["www-authenticate"] == "Bearer"
    for scope, token in tokens.items():
        allowed = scope in (needed, "admin")
        assert ask(server, method, path, bearer(token)).status_code == (200 if allowed else 403), scope
    assert ask(server, method, f"{path}?token={tokens['admin']}").status_code == 401


def test_two_tokens_in_one_request_are_none(guarded):
    server, tokens = guarded
    lines = f"Authorization: Bearer {tokens['admin']}\r\n" * 2
    assert raw(server, f"GET /metrics HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode()).startswith(b"HTTP/1.1 401")


def test_health_needs_no_token_and_says_nothing_else(guarded):
    server, _ = guarded
    assert ask(server, "GET", "/healthz").json() == {"status": "ok"}
    assert ask(server, "GET", "/readyz").json() == {"status": "ready"}


def test_a_stream_takes_its_token_from_a_header_or_as_browsers_can(guarded):
    server, tokens = guarded
    address = f"ws://127.0.0.1:{server.port}/v1/stream?format=float32"

    def opened(**options):
        with connect(address, proxy=None, **options) as stream:
            hello = json.loads(stream.recv(10))
            stream.send(rgb(0, film(1)[0]))
            assert depth_of(stream.recv(10))[0]["id"] == 0
            return hello, stream.subprotocol

    assert opened(additional_headers=bearer(tokens["predict"]))[1] is None
    # The token is never given back as the chosen protocol.
    assert opened(subprotocols=["steadydepth.v1", f"bearer.{tokens['predict']}"])[1] == "steadydepth.v1"
    for options, status in (
        ({}, 401),
        ({"subprotocols": ["steadydepth.v1"]}, 401),
        ({"subprotocols": ["steadydepth.v1", "bearer.x"]}, 401),
        ({"subprotocols": [f"bearer.{tokens['predict']}", f"bearer.{tokens['admin']}"]}, 401),
        ({"additional_headers": bearer(tokens["train"])}, 403),
        ({"additional_headers": {"Origin": "http://evil.example", **bearer(tokens["predict"])}}, 403),
    ):
        with pytest.raises(InvalidStatus) as caught:
            opened(**options)
        assert caught.value.response.status_code == status, options


def test_a_stream_ends_with_its_token_and_those_of_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("steadydepth.serving.access._LOOK_EVERY_S", 0.1)
    path = tmp_path / "tokens.json"
    mine, other = new_token(path, "me"), new_token(path, "you")
    with serving(Average(), tokens=path) as server:
        streams = [server.open(additional_headers=bearer(token)) for token in (mine, other)]
        new_token(path, "me")  # in place of the one before
        with pytest.raises(ConnectionClosed) as caught:
            streams[0].recv(20)
        assert (caught.value.rcvd.code, caught.value.rcvd.reason) == (1008, "the token of this stream is no longer one")
        streams[1].send(rgb(0, film(1)[0]))
        assert depth_of(streams[1].recv(20))[0]["id"] == 0
        streams[1].close()


def test_a_name_of_the_server_is_one_in_any_letters():
    with serving(Average(), names=("Depth.Example.org",)) as server:
        for host in ("depth.example.org", "Depth.Example.org", "DEPTH.EXAMPLE.ORG:443", "LocalHost"):
            assert ask(server, "GET", "/v1/models", {"Host": host}).status_code == 200


def test_who_guesses_tokens_is_slowed_down_even_when_right(tmp_path):
    token = new_token(tmp_path / "tokens", "me")
    with serving(Average(), tokens=tmp_path / "tokens", limits=Limits(failures_s=0.01)) as server:
        assert [ask(server, "GET", "/v1/models", bearer("x")).status_code for _ in range(12)] == [401] * 10 + [429] * 2
        assert ask(server, "GET", "/v1/models", bearer(token)).status_code == 429


def test_too_many_requests_of_one_client_wait_and_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "time", SimpleNamespace(monotonic=lambda: 0.0))  # no time goes by
    tokens = [new_token(tmp_path / "tokens", name) for name in ("one", "two")]
    with serving(Average(), tokens=tmp_path / "tokens", limits=Limits(requests_s=2.0)) as server:
        found = [ask(server, "GET", "/v1/models", bearer(tokens[0])).status_code for _ in range(6)]
        assert found == [200] * 4 + [429] * 2
        assert ask(server, "GET", "/v1/models", bearer(tokens[1])).status_code == 200


def test_the_file_of_tokens_holds_no_token_and_only_its_owner_reads_it(tmp_path):
    path = tmp_path / "tokens.json"
    first, second = new_token(path, "camera"), new_token(path, "boss", ("train", "admin"))
    assert first not in path.read_text(encoding="utf-8")
    assert second not in path.read_text(encoding="utf-8")
    if sys.platform != "win32":  # where it has the rights of its folder
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tokens = Tokens(path)
    assert tokens.find(first).may("predict")
    assert not tokens.find(first).may("train")
    assert all(tokens.find(second).may(scope) for scope in SCOPES)
    assert tokens.find("") is tokens.find("x" * 10_000) is tokens.find("\udcff") is None
    third = new_token(path, "camera")  # in place of the first, while the server runs
    assert tokens.find(first) is None
    assert tokens.find(third).name == "camera"
    path.unlink()
    assert tokens.find(third) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds no token"),
        ("{}", "no file of tokens"),
        ("[{}]", "no file of tokens"),
        ('[{"name": "x", "scopes": ["root"], "sha256": "' + "0" * 64 + '"}]', "scopes are of"),
        ('[{"name": "x", "scopes": ["admin"], "sha256": ""}]', "hashes are SHA-256"),
    ],
)
def test_a_damaged_file_of_tokens_opens_no_server(tmp_path, content, message):
    (tmp_path / "tokens").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        create_app(Settings(model="missing", tokens=tmp_path / "tokens"))


def test_a_server_that_others_reach_needs_tokens(tmp_path):
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(InputError, match="nobody would be asked who they are"):
            create_app(Settings(model="missing", host=host))
    for host in ("127.0.0.1", "127.3.2.1", "::1", "localhost"):
        with pytest.raises(InputError, match="missing: no model"):
            create_app(Settings(model="missing", host=host))
    with pytest.raises(InputError, match="does not exist; make it with"):
        create_app(Settings(model="missing", host="0.0.0.0", tokens=tmp_path / "none"))
    with pytest.raises(InputError, match="TLS needs both"):
        create_app(Settings(model="missing", key=tmp_path / "none"))
    with pytest.raises(InputError, match="is a PEM file"):
        create_app(Settings(model="missing", key=tmp_path / "none", certificate=tmp_path / "none"))
    with pytest.raises(InputError, match="port 70000"):
        create_app(Settings(model="missing", port=70000))


def test_windows_serves_and_does_not_train(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(InputError, match=r"uploads and jobs need Linux or macOS.*leave --data out"):
        create_app(Settings(model="missing", data=tmp_path))
    with pytest.raises(InputError, match="missing: no model"):
        create_app(Settings(model="missing"))


def raw(server, data, seconds=10.0):
    """What the server says to those bytes, until it ends the connection or falls silent."""
    with closing(socket.create_connection(("127.0.0.1", server.port), seconds)) as connection:
        connection.sendall(data)
        return rest(connection)


def rest(connection):
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
            if b"\r\n\r\n" in found and b"connection: close" not in found:
                break
    except (TimeoutError, ConnectionError):
        pass
    return found


POST = b"POST /v1/depth HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
GET = b"GET /v1/models HTTP/1.1\r\n"
HEADER_GAMES = {
    "another host (DNS rebinding)": (GET + b"Host: evil.example\r\n\r\n", 421),
    "no host": (GET + b"\r\n", 400),
    "two hosts": (GET + b"Host: 127.0.0.1\r\nHost: evil.example\r\n\r\n", 400),
    "a page of another site": (POST + b"Origin: http://evil.example\r\nContent-Length: 0\r\n\r\n", 403),
    "a page without an origin": (POST + b"Origin: null\r\nContent-Length: 0\r\n\r\n", 403),
    "a broken origin": (POST + b"Origin: http://[\r\nContent-Length: 0\r\n\r\n", 403),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 9\r\n\r\nx", 400),
    "length and chunks": (POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a length that is none": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "a length beyond the limit": (POST + b"Content-Length: 100001\r\n\r\n", 413),
    "an endless length": (POST + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
    "chunks beyond the limit": (
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + bytes(0x8000) + b"\r\n8000\r\n" + bytes(0x8000)
        + b"\r\n8000\r\n" + bytes(0x8000) + b"\r\n8000\r\n" + bytes(0x8000) + b"\r\n", 413,
    ),
    "headers without end": (GET + b"Host: 127.0.0.1\r\n" + b"X-A: " + b"a" * 40_000, 400),
    "a line feed in a header": (GET + b"Host: 127.0.0.1\r\nX-A: a\nX-B: b\r\n\r\n", 200),
    "a NUL in a header": (GET + b"Host: 127.0.0.1\r\nX-A: \0\r\n\r\n", 400),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "a path that climbs": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a path that climbs in code": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "the address of another server": (b"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "another method": (b"TRACE /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
    "half a handshake": (
        b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 400,
    ),
    "a stream for a page of another site": (
        b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Origin: http://127.0.0.1:1\r\n\r\n", 403,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADER_GAMES)
def test_games_with_headers(plain, name):
    data, status = HEADER_GAMES[name]
    answer = raw(plain, data)
    assert answer.startswith(b"HTTP/1.1 %d" % status), answer[:300]
    assert b"Traceback" not in answer
    assert b"root:" not in answer
    assert ask(plain, "GET", "/readyz").status_code == 200


@contextmanager
def connections(server, n):
    opened = []
    try:
        for _ in range(n):
            opened.append(socket.create_connection(("127.0.0.1", server.port), 10))
        yield opened
    finally:
        for each in opened:
            each.close()


def test_who_says_nothing_is_let_go(plain):
    """No request at all, and one that comes a byte at a time."""
    with connections(plain, 2) as (silent, slow):
        with suppress(ConnectionError):  # let go before its last byte
            for byte in GET[:12]:
                slow.sendall(bytes([byte]))
                time.sleep(0.1)
        silent.settimeout(10)
        assert rest(silent) == b""
        assert rest(slow) == b""


def test_who_falls_silent_in_a_second_request_is_let_go(plain):
    with connections(plain, 2) as (slow, idle):
        for each in (slow, idle):
            each.sendall(f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{plain.port}\r\n\r\n".encode())
            each.settimeout(10)
            found = b""
            while b'"ok"' not in found:
                found += each.recv(65536)
        slow.sendall(b"G")  # uvicorn waits for the first byte alone
        for each in (slow, idle):
            ends = [each.recv(65536) for _ in range(2)]  # what the answer had behind it, or the end
            assert ends[-1] == b""


def test_a_body_that_does_not_come_is_not_waited_for(plain):
    answer = raw(plain, POST + b"Content-Length: 1000\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 408")


def test_who_closes_its_half_gets_its_answer_or_nothing(plain):
    with connections(plain, 2) as (asked, cut):
        asked.sendall(GET + b"Host: 127.0.0.1\r\n\r\n")
        asked.shutdown(socket.SHUT_WR)
        assert rest(asked)[:12] in (b"HTTP/1.1 200", b"")
        cut.sendall(POST + b"Content-Length: 1000\r\n\r\nx")
        cut.shutdown(socket.SHUT_WR)
        assert rest(cut)[:10] in (b"HTTP/1.1 4", b"")
    assert ask(plain, "POST", "/v1/depth").status_code == 200


def test_who_leaves_in_the_middle_of_a_body_is_no_failure_of_the_server(plain, caplog):
    """As a page does that is loaded anew while it sends a file."""
    with caplog.at_level("INFO", "steadydepth"):
        with connections(plain, 1) as (gone,):
            gone.sendall(POST + b"Content-Length: 1000\r\n\r\nx")
        wait_until(lambda: any('"/v1/depth", "status": 499' in record.getMessage() for record in caplog.records))
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def is_open(connection):
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_more_connections_than_there_may_be_are_ended():
    limits = Limits(requests_s=1e4, header_s=300.0, connections=60)
    with serving(Average(), limits=limits) as server:
        with connections(server, 120) as opened:
            wait_until(lambda: sum(map(is_open, opened)) <= 60)
            assert sum(map(is_open, opened)) >= 50
        wait_until(lambda: ask(server, "GET", "/readyz").status_code == 200)


def test_what_is_no_message_before_the_handshake_is_answered_ends_the_connection(monkeypatch, caplog):
    asked, goes_on = threading.Event(), threading.Event()

    def choose(*_):
        asked.set()
        assert goes_on.wait(60)

    with serving(Average()) as server:
        monkeypatch.setattr(server.app.state.filters, "choose", choose)
        with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
            connection.sendall(
                b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert asked.wait(60)
            connection.sendall(b"\xff" * 50)
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
        goes_on.set()
    assert [record.getMessage() for record in caplog.records if record.name == "asyncio"] == []


def test_streams_are_bounded():
    with serving(Average(), limits=Limits(requests_s=1e4, sessions=20, sessions_a_client=20)) as server:
        opened, refused = [], 0
        for _ in range(40):
            try:
                opened.append(server.open())
            except InvalidStatus as error:
                refused += error.response.status_code == 429
        assert (len(opened), refused) == (20, 20)
        for each in opened:
            each.close()
        wait_until(lambda: not server.app.state.figures.streams)
        with server.open() as stream:
            stream.send(rgb(0, film(1)[0]))
            assert depth_of(stream.recv(10))[0]["start"]


def test_idle_streams_go():
    with serving(Average(), limits=Limits(requests_s=1e4, idle_s=0.2)) as server:
        opened = [server.open() for _ in range(3)]
        wait_until(lambda: not server.app.state.figures.streams)
        for each in opened:
            with pytest.raises(ConnectionClosed, match=r"no frame in 0\.2 s"):
                each.recv(10)


def test_who_asks_too_fast_is_let_in_at_the_rate():
    rates = Rates(50.0, 5.0)
    let_in = sum(rates.take("a", now=number / 60) for number in range(600))
    assert let_in == pytest.approx(505, abs=2)  # not none: what is refused costs nothing


def test_rates_give_back_with_time():
    rates = Rates(2.0, 3.0)
    assert [rates.take("a", now=10.0) for _ in range(4)] == [True, True, True, False]
    assert rates.take("b", now=10.0)
    assert not rates.take("a", now=10.4)
    assert rates.take("a", now=11.0)
    assert rates.left("a", now=100.0) == 3
    for number in range(10_050):
        rates.take(str(number), now=200.0)
    assert len(rates._left) == 10_000
