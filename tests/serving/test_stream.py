"""`WS /v1/stream` over real sockets: what comes out, in which order, when a session begins anew, what is refused."""

import asyncio
import json
import socket
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from fastapi import WebSocket
from known_depth import Average, averages, film
from safetensors.torch import save_file
from served import Gated, depth_of, png, rgb, serving
from waiting import wait_until
from websockets.exceptions import ConnectionClosed, InvalidStatus

import steadydepth as sd
from steadydepth.client import Client
from steadydepth.files.video_write import write_video
from steadydepth.inference.predictor import Predictor
from steadydepth.jobs.store import Job
from steadydepth.models.temporal_filter import WEIGHTS, load_gates
from steadydepth.serving import answers, stream_route
from steadydepth.serving.app import create_app
from steadydepth.serving.encoding import encode_depth, raw_image
from steadydepth.serving.figures import StreamFigures
from steadydepth.serving.messages import pack
from steadydepth.serving.settings import Limits, Settings
from steadydepth.serving.terminals import Terminal


@pytest.fixture(scope="module")
def served():
    with serving(Gated()) as server:
        yield server


def ask(stream, message):
    stream.send(message)
    return depth_of(stream.recv(20))


def closing(stream, *messages):
    """Send what is wrong; the code and the reason with which the server ends the stream."""
    for message in messages:
        stream.send(message)
    with pytest.raises(ConnectionClosed) as caught:
        deque((stream.recv(20) for _ in range(1000)), maxlen=0)
    return caught.value.rcvd.code, caught.value.rcvd.reason


@pytest.mark.parametrize(
    ("format", "rtol"), [("float32", 0.0), ("zstd", 0.0), ("float16", 2**-11), ("png16", 0.0005)]
)  # png16: half a millimetre of depth above a metre
def test_a_stream_is_what_the_model_says_offline(served, format, rtol):
    frames = film(3)
    expected = np.stack([result.depth for result in Predictor(Gated()).stream(list(frames))])
    np.testing.assert_allclose(expected, averages(frames), rtol=1e-6)
    with served.open(f"format={format}") as stream:
        for number, frame in enumerate(frames):
            message = pack({"id": number, "kind": "image"}, png(frame)) if number % 2 else rgb(number, frame)
            header, depth = ask(stream, message)
            np.testing.assert_allclose(depth, expected[number], rtol=rtol)
            assert header["id"] == number
            assert header["start"] == (number == 0)
            assert (header["claims"], header["model"], header["version"]) == ("metric", "model", 1)
            assert abs(header["time"] - time.time()) < 60


def test_32_terminals_each_get_their_own_offline_depth(served):
    def run(seed):
        frames = film(seed, 8)
        with served.open() as stream:
            found = [ask(stream, rgb(number, frame))[1] for number, frame in enumerate(frames)]
        np.testing.assert_allclose(np.stack(found), averages(frames), rtol=1e-6)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(run, range(32)))


def test_the_newest_frame_wins_and_each_other_one_is_counted():
    model = Gated()
    with serving(model) as server, server.open() as stream:
        model.gate.clear()
        frames = film(1, 3)
        stream.send(rgb(0, frames[0]))
        wait_until(lambda: model.batches)
        for number in range(1, 12):
            stream.send(rgb(number, frames[2 if number == 11 else 1]))
        skipped = [json.loads(stream.recv(20)) for _ in range(10)]
        assert [(one["type"], one["id"]) for one in skipped] == [("skipped", number) for number in range(1, 11)]
        model.gate.set()
        answers = [depth_of(stream.recv(20)) for _ in range(2)]
        assert [header["id"] for header, _ in answers] == [0, 11]
        assert answers[1][0]["skipped"] == 10
        np.testing.assert_allclose(answers[1][1], averages(frames[[0, 2]])[1], rtol=1e-6)
        [figures] = server.app.state.figures.streams.values()
        assert (figures.n_frames, figures.n_skipped, server.app.state.figures.n_skipped) == (2, 10, 10)
        assert not figures.is_waiting


def test_a_frame_is_in_the_network_while_its_neighbours_are_decoded_and_encoded(monkeypatch):
    model, decoded = Gated(), []

    def decode(*given):
        decoded.append(given)
        return raw_image(*given)

    def encode(result, format):
        wait_until(lambda: len(model.batches) == 2)  # the next one has come to the network before this one is sent
        return encode_depth(result, format)

    monkeypatch.setattr(stream_route, "raw_image", decode)
    monkeypatch.setattr(answers, "encode_depth", encode)
    with serving(model) as server, server.open() as stream:
        frames = film(1, 4)
        model.gate.clear()
        stream.send(rgb(0, frames[0]))
        wait_until(lambda: model.batches)
        for number in (1, 2, 3):
            stream.send(rgb(number, frames[number]))
        assert [json.loads(stream.recv(20))["id"] for _ in range(2)] == [1, 2]
        wait_until(lambda: len(decoded) == 2)  # of those that came meanwhile the first alone
        model.gate.set()
        found = [depth_of(stream.recv(20)) for _ in range(2)]
        assert [header["id"] for header, _ in found] == [0, 3]
        np.testing.assert_allclose(found[1][1], averages(frames[[0, 3]])[1], rtol=1e-6)
        assert len(decoded) == 3


@pytest.mark.parametrize("how", ["header", "text", "size", "cut", "gap", "reconnect"])
def test_a_session_begins_anew(served, how):
    """On request, at another size, at a cut, after a gap between the times of frames, and over another connection."""
    first, second = film(5, 5), film(6, 5, height=80 if how == "size" else 40)
    with served.open() as stream:
        for number, frame in enumerate(first):
            header, _ = ask(stream, rgb(number, frame, time=0.1 * number))
            assert header["start"] == (number == 0)
        if how != "reconnect":
            if how == "text":
                stream.send('{"type": "reset"}')
            after = second if how in ("size", "cut") else first
            more = {"header": {"reset": True}, "gap": {"time": 2.4}}.get(how, {})
            header, depth = ask(stream, rgb(10, after[0], **more))
            assert header["start"]
            np.testing.assert_allclose(depth, averages(after[:1])[0])
            return
    with served.open() as stream:
        header, depth = ask(stream, rgb(0, first[0]))
        assert header["start"]
        np.testing.assert_allclose(depth, averages(first[:1])[0])


def test_a_reset_of_a_frame_that_was_displaced_is_not_lost():
    model = Gated()
    with serving(model) as server, server.open() as stream:
        frames = film(1, 4)
        ask(stream, rgb(0, frames[0]))
        model.gate.clear()
        stream.send(rgb(1, frames[1]))
        wait_until(lambda: len(model.batches) == 2)
        stream.send(rgb(2, frames[2], reset=True))
        stream.send(rgb(3, frames[3]))
        assert json.loads(stream.recv(20))["id"] == 2
        model.gate.set()
        assert not depth_of(stream.recv(20))[0]["start"]
        header, depth = depth_of(stream.recv(20))
        assert (header["id"], header["start"]) == (3, True)
        np.testing.assert_allclose(depth, averages(frames[3:])[0])


@pytest.mark.parametrize("filter", ["learned", "ema"])
def test_a_filter_has_a_memory_for_each_terminal(served, filter):
    films = [film(1, 4), film(2, 4)]
    offline = [[r.depth for r in Predictor(Gated(), filter=filter).stream(list(frames))] for frames in films]
    streams = [served.open(f"format=float32&filter={filter}") for _ in films]
    for number in range(4):
        for frames, expected, stream in zip(films, offline, streams, strict=True):
            np.testing.assert_allclose(ask(stream, rgb(number, frames[number]))[1], expected[number], rtol=1e-5)
    for stream in streams:
        stream.close()


def test_a_model_that_was_loaded_with_a_filter_is_served_with_it():
    frames = film(1, 3)
    model = Predictor(Gated(), filter="ema")
    with serving(model) as server, server.open("format=float32") as stream:
        for number, expected in enumerate(model.stream(list(frames))):
            np.testing.assert_allclose(ask(stream, rgb(number, frames[number]))[1], expected.depth, rtol=1e-5)


def test_a_learned_filter_that_a_stream_names_has_the_strength_of_the_model_that_is_served():
    frames = film(1, 3)
    model = Predictor(Gated(), filter="learned", strength=0.5)
    expected = [result.depth for result in model.stream(list(frames))]
    assert not np.allclose(expected[2], [r.depth for r in model.stream(list(frames), strength=1.0)][2], rtol=1e-4)
    for default in (None, "ema"):
        with serving(model, filter=default) as server, server.open("format=float32&filter=learned") as stream:
            for number in range(3):
                np.testing.assert_allclose(ask(stream, rgb(number, frames[number]))[1], expected[number], rtol=1e-5)


def test_a_filter_that_needs_later_frames_is_no_server_s_own():
    with pytest.raises(sd.InputError, match="learned_offline: looks at later frames"):
        create_app(Settings(model=Predictor(Gated()), filter="learned_offline"))


def test_a_frame_that_cannot_be_read_is_refused_and_the_stream_goes_on(served):
    frames = film(2, 3)
    large = cv2.imencode(".png", np.zeros((4000, 4000), np.uint8))[1].tobytes()
    with served.open() as stream:
        ask(stream, rgb(0, frames[0]))
        for number, payload, reason in (
            (1, png(frames[1])[:-40], "truncated PNG"),
            (2, b"", "none of JPEG, PNG, WEBP"),
            (3, b"BM" + bytes(60), "none of JPEG, PNG, WEBP"),
            (4, large, "4000 x 4000; it has 1 to 8300000 pixels"),
        ):
            stream.send(pack({"id": number, "kind": "image"}, payload))
            said = json.loads(stream.recv(20))
            assert (said["type"], said["id"]) == ("refused", number)
            assert reason in said["reason"]
        for number, size in enumerate([(40, 55), (0, 0), (-40, -56), ("40", 56), (True, 56), (10**9, 10**9)], 5):
            stream.send(pack({"id": number, "kind": "rgb", "height": size[0], "width": size[1]}, bytes(40 * 56 * 3)))
            assert json.loads(stream.recv(20))["type"] == "refused"
        header, depth = ask(stream, rgb(20, frames[1]))
        assert not header["start"]
        np.testing.assert_allclose(depth, averages(frames[:2])[1], rtol=1e-6)


WRONG = {
    "no length": b"ab",
    "length beyond the end": (5000).to_bytes(4, "little") + b"{}",
    "huge length": b"\xff\xff\xff\xff{}",
    "no JSON": (3).to_bytes(4, "little") + b"abc",
    "no UTF-8": (2).to_bytes(4, "little") + b"\xff\xfe",
    "no object": (2).to_bytes(4, "little") + b"[]",
    "deep JSON": (4000).to_bytes(4, "little") + b"[" * 4000,
    "no id": pack({"kind": "rgb"}),
    "id as text": pack({"id": "1", "kind": "image"}),
    "id below 0": pack({"id": -1, "kind": "image"}),
    "id too large": pack({"id": 2**53, "kind": "image"}),
    "true as id": pack({"id": True, "kind": "image"}),
    "kind": pack({"id": 0, "kind": "url"}, b"http://127.0.0.1/"),
    "time": pack({"id": 0, "kind": "image", "time": "now"}),
    "endless time": pack({"id": 0, "kind": "image", "time": float("inf")}),
    "no time": pack({"id": 0, "kind": "image", "time": float("nan")}),
    "reset": pack({"id": 0, "kind": "image", "reset": "yes"}),
    "text": '{"type": "hello"}',
    "long text": "x" * 100_000,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_message_that_is_none_ends_the_stream_with_a_reason(served, name):
    with served.open() as stream:
        code, reason = closing(stream, WRONG[name])
    assert code == 1007
    assert reason
    assert "Traceback" not in reason


def test_ids_go_up(served):
    with served.open() as stream:
        ask(stream, rgb(3, film(1)[0]))
        assert closing(stream, rgb(3, film(1)[0]))[0] == 1007


def test_limits_of_a_stream_are_kept():
    # At a rate that the slowest machine is above.
    many = [rgb(n, film(1)[0]) for n in range(200)]
    with serving(Gated(), limits=Limits(requests_s=1e4, messages_s=5.0)) as server, server.open() as stream:
        assert closing(stream, *many) == (1008, "more than 5 messages a second")
    with serving(Gated(), limits=Limits(requests_s=1e4, idle_s=0.6)) as server, server.open() as stream:
        assert closing(stream) == (1001, "no frame in 0.6 s")
    with serving(Gated(), limits=Limits(requests_s=1e4, frame_bytes=20_000)) as server:
        with server.open() as stream:
            assert closing(stream, bytes(20_001))[0] == 1009
        with server.open() as stream:
            wrong = [pack({"id": n, "kind": "image"}, b"x") for n in range(20)]
            for message in wrong[:-1]:
                stream.send(message)
                assert json.loads(stream.recv(10))["type"] == "refused"
            assert closing(stream, wrong[-1]) == (1008, "20 frames were refused, one after another")
    # Their own server: on a busy machine three streams take longer to open than one may be idle there.
    with serving(Gated(), limits=Limits(sessions=3)) as server:
        streams = [server.open() for _ in range(3)]
        with pytest.raises(InvalidStatus) as caught:
            server.open()
        assert caught.value.response.status_code == 429
        for stream in streams:
            stream.close()
        wait_until(lambda: not server.app.state.figures.streams)
        server.open().close()
    with serving(Gated(), limits=Limits(session_s=0.3)) as server, server.open() as stream:
        assert closing(stream) == (1001, "a stream ends after so long: open another")


def test_a_client_that_takes_no_answer_is_let_go_and_others_go_on():
    """It keeps sending and never reads: its buffers fill, and after a while it is cut off."""
    with serving(Gated(), limits=Limits(requests_s=1e4, messages_s=1e5, send_s=0.5)) as server:
        frames = film(1, 2, height=400, width=560)
        with server.open() as other:
            raw = socket.create_connection(("127.0.0.1", server.port))
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.sendall(
                b"GET /v1/stream?format=float32 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
                b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Sec-WebSocket-Version: 13\r\n\r\n"
            )
            assert raw.recv(12) == b"HTTP/1.1 101"  # before it is there, nothing may be sent
            is_over = threading.Event()

            def flood():
                try:
                    for number in range(100_000):
                        message = pack({"id": number, "kind": "image"}, png(frames[number % 2]))
                        raw.sendall(b"\x82\xff" + len(message).to_bytes(8, "big") + bytes(4) + message)
                except OSError:
                    pass
                is_over.set()

            thread = threading.Thread(target=flood, daemon=True)
            thread.start()
            for number in range(5):
                ask(other, rgb(number, film(3, 5)[number]))
            assert is_over.wait(30)
            thread.join()
            raw.close()
            wait_until(lambda: len(server.app.state.figures.streams) == 1)
            ask(other, rgb(10, film(3, 5)[0]))


def test_a_client_that_goes_in_the_middle_of_a_frame_leaves_nothing_behind():
    model = Gated()
    with serving(model) as server:
        model.gate.clear()
        stream = server.open()
        stream.send(rgb(0, film(1)[0]))
        wait_until(lambda: model.batches)
        stream.socket.shutdown(socket.SHUT_RDWR)
        wait_until(lambda: not server.app.state.figures.streams)
        model.gate.set()
        batcher = server.app.state.models.current.batcher
        wait_until(lambda: batcher._n_open == 0)
        with server.open() as again:
            assert ask(again, rgb(0, film(1)[0]))[0]["start"]


async def answer_one_that_goes(app, turns):
    """A stream whose client sends a frame, and goes `turns` turns of the loop before its answer is sent."""
    is_gone = asyncio.Event()
    messages = [{"type": "websocket.receive", "bytes": rgb(0, film(1)[0])}, {"type": "websocket.connect"}]

    async def receive():
        if messages:
            return messages.pop()
        await is_gone.wait()
        return {"type": "websocket.disconnect", "code": 1006}

    async def send(message):
        if message.get("bytes"):
            is_gone.set()
            for _ in range(turns):
                await asyncio.sleep(0)

    scope = {"type": "websocket", "app": app, "state": {}, "headers": [], "subprotocols": []}
    client = WebSocket(scope, receive, send)
    await client.accept()
    async with asyncio.timeout(20):
        await stream_route._Stream(client, "a", Terminal(app.state.models), "float32").run()


@pytest.mark.parametrize("turns", range(12))
def test_the_stream_of_a_client_that_goes_while_it_is_answered_ends(turns):
    app = create_app(Settings(model=Predictor(Average())))
    app.state.figures.streams["a"] = StreamFigures("ann")
    asyncio.run(answer_one_that_goes(app, turns))
    wait_until(lambda: app.state.models.current.batcher._n_open == 0)
    app.state.models.close()
    assert app.state.figures.n_refused == 0


def test_another_model_takes_over_a_stream(served):
    frames = film(1, 4)
    served.app.state.models.add("far", Predictor(Gated(500.0)))
    with served.open() as stream:
        ask(stream, rgb(0, frames[0]))
        served.app.state.models.put_into_service("far")
        header, depth = ask(stream, rgb(1, frames[1]))
        assert (header["model"], header["start"]) == ("far", True)
        np.testing.assert_allclose(depth, averages(frames[1:2], 500.0)[0])
        header, depth = ask(stream, rgb(2, frames[2]))
        assert not header["start"]
        np.testing.assert_allclose(depth, averages(frames[1:3], 500.0)[1])


@pytest.mark.parametrize("query", ["format=h264", "filter=learned_offline", "filter=x", "format="])
def test_a_stream_that_cannot_be_is_refused(served, query):
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        served.open(query)


@pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone")
def test_a_stream_chooses_a_filter_that_was_tuned_on_the_server(tmp_path):
    """By the name of its job, beside the others; deleted, it ends with the next model and names no path."""
    with serving(Gated(), data=tmp_path / "data") as server:
        jobs = server.app.state.jobs
        job = Job("0123456789abcdef", "filter", "mine", "ann", 1.0, "model", (), {}, state="finished")
        (jobs.of(job) / "run").mkdir(parents=True)
        gates = load_gates()
        with torch.no_grad():
            gates.head.bias[:3] -= 1  # another filter: it keeps less of what was before
        save_file(gates.state_dict(), jobs.of(job) / "run" / WEIGHTS.name)
        with pytest.raises(InvalidStatus, match="422"):
            server.open("filter=job-0123456789abcdef")
        jobs.store.add(job)
        client = Client(server.url)
        assert client.models()["filters"][-2:] == ["flow_ema", "job-0123456789abcdef"]

        frames = film(2, 6)
        expected = {
            name: [result.depth for result in Predictor(Gated(), filter=filter).stream(list(frames))]
            for name, filter in (("learned", "learned"), ("job-0123456789abcdef", str(jobs.of(job) / "run")))
        }
        assert np.abs(np.subtract(*expected.values())).max() > 0.01
        for name, depths in expected.items():
            found = [answer.depth for answer in client.stream(frames, filter=name, format="zstd", encoding="png")]
            np.testing.assert_allclose(found, depths, rtol=1e-5)
        write_video(tmp_path / "clip.mp4", list(frames), 10.0)
        sd.predict(tmp_path / "clip.mp4", server=server.url, out=tmp_path / "out", filter="job-0123456789abcdef")
        with np.load(tmp_path / "out" / "clip.npz") as arrays:
            assert str(arrays["filter"]) == "job-0123456789abcdef"

        with server.open("format=float32&filter=job-0123456789abcdef") as stream:
            ask(stream, rgb(0, frames[0]))
            jobs.delete(job)
            ask(stream, rgb(1, frames[1]))
            server.app.state.models.add("far", Predictor(Gated(500.0)))
            server.app.state.models.put_into_service("far")
            stream.send(rgb(2, frames[2]))
            said = json.loads(stream.recv(10))
        assert said["type"] == "refused"
        assert said["reason"] == "the filter of this stream is not there any more: choose another one"
