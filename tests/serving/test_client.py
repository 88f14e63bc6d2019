"""The client over connections that are cut, servers that die, and through the commands; without torch."""

import os
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from known_depth import averages, film
from served import Gated, serving
from training_server import make_model
from typer.testing import CliRunner
from waiting import wait_until

import steadydepth as sd
from steadydepth.cli import app
from steadydepth.client import Client
from steadydepth.errors import InputError
from steadydepth.files.prefetch import BEGIN_S
from steadydepth.files.stored_depth import read_predictions
from steadydepth.files.video_write import write_video
from steadydepth.inference.predictor import Predictor
from steadydepth.served import ServedPredictor
from steadydepth.serving.settings import Limits
from steadydepth.serving.tokens import Tokens, new_token
from steadydepth.training.checkpoint import save_model

# The thread of websockets that reads may find its socket closed already when a connection is cut: its own race.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture(scope="module")
def served():
    with serving(Gated()) as server:
        yield server


class Cutter:
    """Stands between a client and a server; cuts a connection after so many bytes from the server, so many times."""

    def __init__(self, port: int, cuts: list[int]) -> None:
        self._target, self.cuts, self.n_cut, self.n_connections = port, cuts, 0, 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            self.n_connections += 1
            server = socket.create_connection(("127.0.0.1", self._target))
            left = self.cuts.pop(0) if self.cuts else None
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, left), daemon=True).start()

    def _pump(self, source, sink, left):
        try:
            while data := source.recv(4096):
                if left is not None and (left := left - len(data)) <= 0:
                    self.n_cut += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def close(self):
        self._listening.close()


@contextmanager
def cutting(port, cuts):
    cutter = Cutter(port, cuts)
    try:
        yield cutter
    finally:
        cutter.close()


def test_the_client_needs_no_torch():
    code = (
        "import sys, steadydepth.client\n"
        "print([m for m in ('torch', 'jaxtyping', 'fastapi', 'av', 'timm', 'pydantic') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_one_image_comes_back_without_loss(served):
    client = Client(served.url)
    image = film(3)[0]
    answer = client.predict(image)
    np.testing.assert_array_equal(answer.depth, Predictor(Gated()).predict(image).depth)
    assert (answer.claims, answer.model) == ("metric", "model 1")
    assert client.models()["models"] == ["model"]


@pytest.mark.parametrize(("format", "encoding"), [("zstd", "png"), ("float32", "rgb"), ("png16", "png")])
def test_a_recording_comes_back_complete_and_in_order(served, format, encoding):
    frames = film(2, 9)
    found = list(Client(served.url).stream(iter(frames), format=format, encoding=encoding))
    assert [answer.number for answer in found] == list(range(9))
    assert [answer.is_start for answer in found] == [True] + [False] * 8
    assert all(answer.n_skipped == 0 and answer.latency_s > 0 for answer in found)
    for answer, frame, depth in zip(found, frames, averages(frames), strict=True):
        np.testing.assert_allclose(answer.depth, depth, rtol=5e-4 if format == "png16" else 1e-6)
        assert answer.image is not None
        np.testing.assert_array_equal(answer.image, frame)


def test_a_connection_that_is_cut_five_times_loses_no_frame(served):
    """Each frame is answered once, in order; after each cut the session begins anew."""
    frames = film(4, 40)
    one_answer = 4 * frames[0][..., 0].size
    cuts = [300, 3 * one_answer, 5 * one_answer + 700, 4 * one_answer, 6 * one_answer]
    with cutting(served.port, cuts) as cutter:
        found = list(Client(f"http://127.0.0.1:{cutter.port}").stream(frames, format="float32", encoding="rgb"))
        assert (cutter.n_cut, cutter.n_connections) == (5, 6)
    assert [answer.number for answer in found] == list(range(40))
    starts = [answer.number for answer in found if answer.is_start]
    assert 3 <= len(starts) <= 6
    for start, stop in zip(starts, [*starts[1:], 40], strict=True):
        depths = np.stack([answer.depth for answer in found[start:stop]])
        np.testing.assert_allclose(depths, averages(frames[start:stop]), rtol=1e-6)


def test_a_live_stream_that_is_cut_goes_on_with_the_newest_frame(served):
    one_answer = 4 * film(4)[0][..., 0].size
    frames = film(4, 50)
    n_read = 0

    def camera():
        """Ten more frames after the fifth cut."""
        nonlocal n_read
        left = 10
        while left and n_read < 5000:
            time.sleep(0.01)
            left -= cutter.n_cut == 5
            n_read += 1
            yield frames[n_read % 50]

    with cutting(served.port, [3 * one_answer] * 5) as cutter:
        client = Client(f"http://127.0.0.1:{cutter.port}")
        found = list(client.stream(camera(), is_live=True, format="float32", encoding="rgb"))
        assert cutter.n_cut == 5
    numbers = [answer.number for answer in found]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == n_read - 1
    assert sum(answer.n_skipped for answer in found) == n_read - len(found)


def test_back_pressure_a_slow_model_slows_a_recording_and_leaves_out_live_frames():
    model = Gated()
    with serving(model) as server:
        model.gate.clear()
        n_read = 0

        def source():
            nonlocal n_read
            for frame in film(1, 30):
                n_read += 1
                yield frame

        found: list = []
        thread = threading.Thread(target=lambda: found.extend(Client(server.url).stream(source(), encoding="rgb")))
        thread.start()
        wait_until(lambda: n_read >= 4)
        time.sleep(0.3)
        assert n_read == 4  # two on their way, one kept, one in the hand of the thread that reads
        model.gate.set()
        thread.join(30)
        assert [answer.number for answer in found] == list(range(30))
        assert server.app.state.figures.n_skipped == 0

        model.gate.clear()
        n_read = 0
        live: list = []
        arguments = {"is_live": True, "encoding": "rgb"}
        thread = threading.Thread(target=lambda: live.extend(Client(server.url).stream(source(), **arguments)))
        thread.start()
        wait_until(lambda: n_read == 30)
        model.gate.set()
        thread.join(30)
        assert len(live) <= 4
        assert live[-1].number == 29


def test_what_the_client_is_told_it_says(served, tmp_path):
    token = new_token(tmp_path / "tokens", "me")
    free = socket.create_server(("127.0.0.1", 0))
    nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    free.close()
    frames = film(1, 3)
    with pytest.raises(InputError, match="does not answer"):
        Client(nobody).models()
    with pytest.raises(InputError, match="does not answer"):
        next(Client(nobody).stream(frames, patience_s=0.2))
    for url in (
        "127.0.0.1:8000",
        "ftp://x",
        "http://",
        "http://x:80o0",
        "http://x:99999",
        "http://[::1",
        "http://u:p@x",
    ):
        with pytest.raises(InputError, match="it is http://host:port"):
            Client(url)
    with pytest.raises(InputError, match="format 'h264': unknown"):
        Client(served.url).stream(frames, format="h264")
    with pytest.raises(InputError, match="an image is float32"):
        list(Client(served.url).stream([np.zeros((8, 8, 3), np.float32)]))
    with pytest.raises(InputError, match="refuses it"):
        list(Client(served.url).stream(frames, filter="learned_offline"))
    with pytest.raises(ZeroDivisionError):
        list(Client(served.url).stream(frames[1 // number] for number in (1, 1, 0)))
    large = np.zeros((3000, 3000, 3), np.uint8)
    with pytest.raises(InputError, match=r"frame 0 is refused: the image is 3000 x 3000"):
        list(Client(served.url).stream([large]))
    with pytest.raises(InputError, match=r"refuses it \(422\): the image is 3000 x 3000"):
        Client(served.url).predict(large)
    with serving(Gated(), tokens=tmp_path / "tokens") as guarded:
        for wrong in (None, "x"):
            with pytest.raises(InputError, match=r"refuses it \(401\): a token is needed"):
                Client(guarded.url, token=wrong).models()
            with pytest.raises(InputError, match=r"refuses it \(401\): a token is needed"):
                next(Client(guarded.url, token=wrong).stream(frames))
        assert len(list(Client(guarded.url, token=f"{token}\n").stream(frames))) == 3
    for wrong in ("", "a b", "a\nb", "schl\u00fcssel"):
        with pytest.raises(InputError, match="the token is empty, or has letters that no token has"):
            Client(served.url, token=wrong)


@pytest.mark.parametrize("how", ["reset", "closed", "no HTTP"])
def test_a_handshake_that_breaks_off_is_tried_again(how):
    """Whatever a server does that dies, or is none, the client says so after its patience."""
    listening, n_tried, is_over = socket.create_server(("127.0.0.1", 0)), 0, threading.Event()

    def answer():
        nonlocal n_tried
        while True:
            connection, _ = listening.accept()
            if is_over.is_set():
                connection.close()
                return
            n_tried += 1
            if how == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "no HTTP":
                connection.sendall(b"SSH-2.0\r\n\r\n")
            connection.close()

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with pytest.raises(InputError, match="does not answer"):
            list(Client(f"http://127.0.0.1:{listening.getsockname()[1]}").stream(film(1), patience_s=0.5))
    finally:
        # What listens can be shut down on Linux alone; a last connection ends the thread everywhere.
        is_over.set()
        socket.create_connection(listening.getsockname()).close()
        thread.join(10)
        listening.close()
    assert n_tried >= 2


def test_a_client_that_sends_too_much_is_told_why():
    with serving(Gated(), limits=Limits(frame_bytes=1000)) as server:  # noqa: SIM117
        with pytest.raises(InputError, match=r"frame 0 is 6768 bytes as rgb; .* takes 1000: shrink it"):
            list(Client(server.url).stream(film(1), encoding="rgb"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")
def test_tls_is_used_and_checked(tmp_path):
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    with serving(Gated(), certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem") as server:
        url = server.url.replace("http", "https")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        client = Client(url, context=context)
        assert client.models()["model"] == "model"
        assert len(list(client.stream(film(1, 3)))) == 3
        with pytest.raises(InputError, match="certificate"):
            Client(url).models()


@contextmanager
def process(folder, *options, port=0):
    """`steadydepth serve` as a process of its own; its port."""
    words = [sys.executable, "-m", "steadydepth", "serve", "--model", str(folder), "--port", str(port), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        for line in running.stderr:
            if "serving at" in line:
                threading.Thread(target=running.stderr.read, daemon=True).start()
                yield running, int(line.strip().rsplit(":", 1)[1])
                break
        else:
            raise AssertionError("it did not start")
    finally:
        running.kill()
        running.wait(20)
        running.stderr.close()


def test_a_server_that_is_killed_comes_back_and_the_clients_go_on(tmp_path, model):
    """kill -9 in the middle of a stream; the answers of the same server, started again, are the same."""
    save_model(model, tmp_path / "mine")
    frames = film(1, 40, height=64, width=96)
    offline = [result.depth for result in sd.load(tmp_path / "mine", device="cpu").stream(list(frames))]
    found = []
    with process(tmp_path / "mine") as (running, port):
        stream = Client(f"http://127.0.0.1:{port}").stream(frames, format="float32", encoding="png")
        for answer in stream:
            found.append(answer)
            if answer.number == 10:
                break
        running.kill()
        running.wait(20)
    with process(tmp_path / "mine", port=port):
        found.extend(stream)
    assert [answer.number for answer in found] == list(range(40))
    for answer, depth in zip(found, offline, strict=True):
        np.testing.assert_allclose(answer.depth, depth, rtol=1e-5)


def test_predict_and_stream_through_a_server_are_those_of_the_model(tmp_path, served):
    """The files of predict to the last bit; stream as far as JPEG and float16 let it."""
    frames = film(6, 8, height=48, width=64)
    write_video(tmp_path / "clip.mp4", list(frames), 10.0)
    sd.predict(tmp_path / "clip.mp4", model=Gated(), out=tmp_path / "here", filter="ema")
    sd.predict(tmp_path / "clip.mp4", server=served.url, out=tmp_path / "there", filter="ema")
    here, _ = read_predictions(tmp_path / "here", "clip")
    there, claims = read_predictions(tmp_path / "there", "clip")
    assert claims == "metric"
    np.testing.assert_array_equal(here, there)

    grey = np.repeat(frames[..., :1], 3, axis=-1)  # of which JPEG keeps all but the sharpest edges

    def slowly():
        for frame in grey:
            time.sleep(0.03)
            yield frame

    live = list(sd.stream(slowly(), server=served.url))
    assert live[-1].number == 7
    # On a busy machine the first frames are left out before there is a connection.
    near = np.abs(live[0].result.depth - averages(grey[live[0].number :])[0])
    assert live[0].result.is_start
    assert near.mean() < 3
    image = ServedPredictor(served.url).predict(frames[0])
    np.testing.assert_array_equal(image.depth, Predictor(Gated()).predict(frames[0]).depth)
    assert image.valid.all()
    steps = ServedPredictor(served.url).session()
    for frame, depth in zip(frames, averages(frames), strict=True):
        np.testing.assert_allclose(steps.step(frame).depth, depth, rtol=1e-6)


def test_a_stream_through_a_server_ends_in_time_while_its_source_is_silent(served):
    over = threading.Event()

    def frames():
        yield film()[0]
        over.wait(60)
        yield film()[0]

    try:
        assert [each.number for each in sd.stream(frames(), server=served.url, seconds=0.5)] == [0]
    finally:
        over.set()
    for seconds in (-1.0, float("nan")):
        with pytest.raises(InputError, match=f"seconds is {seconds}"):
            list(sd.stream(frames(), server=served.url, seconds=seconds))


def test_a_stream_whose_source_never_begins_names_the_source(served, monkeypatch):
    monkeypatch.setattr("steadydepth.client.stream.BEGIN_S", 0.1)
    over = threading.Event()

    def frames():
        over.wait(60)
        yield film()[0]

    try:
        with pytest.raises(InputError, match=r"no frame came in .* s: check the source"):
            list(Client(served.url).stream(frames(), is_live=True, encoding="rgb", seconds=0.1))
    finally:
        over.set()


def test_a_stream_that_ends_without_depth_names_the_server(monkeypatch):
    model, over = Gated(), threading.Event()
    # The time is over as soon as the server works at the frame, however long that took.
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + BEGIN_S * len(model.batches), sleep=time.sleep)

    def frames():
        yield film()[0]
        over.wait(60)

    with serving(model) as server:
        model.gate.clear()
        model.batches.clear()
        monkeypatch.setattr("steadydepth.client.stream.time", clock)
        try:
            with pytest.raises(InputError, match=f"no answer came in .* s: check {server.url}"):
                list(Client(server.url).stream(frames(), is_live=True, encoding="rgb", seconds=0.1))
        finally:
            model.gate.set()
            over.set()


def test_the_filter_of_a_server_is_left_out_on_request_and_noted(tmp_path):
    frames = film(2, 6, height=48, width=64)
    write_video(tmp_path / "clip.mp4", list(frames), 10.0)
    with serving(Gated(), filter="ema") as server:
        for name, asked in (("own", None), ("none", "none"), ("ema", "ema")):
            sd.predict(tmp_path / "clip.mp4", server=server.url, out=tmp_path / name, filter=asked)
        sd.predict(tmp_path / "clip.mp4", model=Gated(), out=tmp_path / "here", filter="none")
    depth = {name: read_predictions(tmp_path / name, "clip")[0] for name in ("own", "none", "ema", "here")}
    np.testing.assert_array_equal(depth["none"], depth["here"])
    np.testing.assert_array_equal(depth["own"], depth["ema"])
    assert np.abs(depth["own"] - depth["none"]).max() > 0.1
    noted = [str(np.load(tmp_path / name / "clip.npz")["filter"]) for name in ("own", "none", "ema")]
    assert noted == ["ema", "none", "ema"]


def weighted(base):
    """Models of another base have another checksum."""
    model = Gated(base)
    model.register_buffer("base_of_it", torch.tensor(base))
    return model


def test_a_video_through_a_server_is_of_one_model():
    frames = film(2, 12)
    with serving(weighted(1.0)) as server:
        models = server.app.state.models
        for name, base in (("same", 1.0), ("far", 5.0)):
            models.add(name, Predictor(weighted(base)))

        def changing(name):
            for number, frame in enumerate(frames):
                if number == 6:
                    models.put_into_service(name)
                yield frame

        served = ServedPredictor(server.url)
        # The same weights under another name and number begin anew, and are no other model.
        found = list(served.session().run(changing("same")))
        assert [result.is_start for result in found].count(True) == 2
        served.predict(frames[0])
        with pytest.raises(InputError, match=r"another model was put into service meanwhile .*run again"):
            list(served.session().run(changing("far")))
        with pytest.raises(InputError, match="another model was put into service meanwhile"):
            served.predict(frames[0])
        np.testing.assert_allclose(ServedPredictor(server.url).predict(frames[0]).depth, averages(frames[:1], 5.0)[0])


def test_what_a_server_made_is_told_from_what_another_model_made_after_each_of_its_starts(tmp_path):
    """Each start counts versions from 1 again, whatever model it is given."""

    def predict(server, **options):
        sd.predict(tmp_path / "clip.mp4", out=tmp_path / "there", **server, **options)
        return read_predictions(tmp_path / "there", "clip")[0]

    write_video(tmp_path / "clip.mp4", list(film(2, 6, height=48, width=64)), 10.0)
    with serving(weighted(1.0)) as server:
        first = predict({"server": server.url})
    with serving(weighted(5.0)) as server:
        with pytest.raises(InputError, match=r"clip\.npz: was made with another model"):
            predict({"server": server.url}, resume=True)
        server.app.state.models.add("first", Predictor(weighted(1.0)))
        server.app.state.models.put_into_service("first")
        np.testing.assert_array_equal(predict({"server": server.url}, resume=True), first)
        server.app.state.models.put_into_service("model")
        other = predict({"server": server.url}, resume=True, overwrite=True)
    np.testing.assert_allclose(other, first + 4, rtol=1e-6)
    # What is here is the same model as well.
    np.testing.assert_array_equal(predict({"model": weighted(5.0)}, resume=True), other)


def test_a_server_in_place_of_a_model_is_one_of_both(tmp_path, served):
    both = {"model": "x", "server": served.url}
    with pytest.raises(InputError, match="give one of both"):
        sd.predict("clip.mp4", out=tmp_path, **both)
    with pytest.raises(InputError, match="give one of both"):
        sd.stream("clip.mp4", **both)
    with pytest.raises(InputError, match="max_side is 64"):
        sd.predict("clip.mp4", out=tmp_path, server=served.url, max_side=64)


def test_the_command_makes_tokens_and_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words):
        return CliRunner().invoke(app, ["serve", *words])

    made = run("--new-token", "phone", "--tokens", "tokens.json", "--scopes", "predict,train")
    assert made.exit_code == 0
    token = made.output.strip()
    assert len(token) == 43
    assert token not in Path("tokens.json").read_text(encoding="utf-8")
    assert Tokens(Path("tokens.json")).find(token).scopes == {"predict", "train"}
    Path("no.pem").write_text("nothing", encoding="utf-8")
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    make_model(Path("small"))
    for words, message in (
        (("--model", "missing", "--port", str(port)), f"127.0.0.1:{port} is in use by another program: choose"),
        (
            ("--model", "small", "--port", "0", "--certificate", "no.pem", "--key", "no.pem"),
            "no.pem, no.pem: no certificate with its key",
        ),
        (("--new-token", "x"), "--new-token needs --tokens FILE"),
        (("--new-token", "x", "--tokens", "t", "--scopes", "root"), "scopes root: give some of predict, train, admin"),
        (("--model", "missing", "--host", "0.0.0.0"), "nobody would be asked who they are"),
        (("--model", "missing", "--port", "0"), "missing: no model"),
        (("--model", "missing", "--filter", "x", "--port", "0"), "filter 'x': unknown"),
    ):
        error = run(*words).exception
        assert isinstance(error, InputError)
        assert message in str(error)
        assert str(error).count("127.0.0.1:") <= 1
    taken.close()
