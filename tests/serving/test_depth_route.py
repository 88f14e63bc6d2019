"""`POST /v1/depth` and what a server says of itself, over real sockets."""

import io
import json
import re
import sys
import time

import cv2
import httpx
import numpy as np
import pytest
from known_depth import Average, film
from served import depth_of, png, rgb, serving

from steadydepth.files.exr import read_exr
from steadydepth.inference.predictor import Predictor
from steadydepth.metrics.along_flow import flow_flicker, image_flow
from steadydepth.serving.access import Rates
from steadydepth.serving.audit import Audit
from steadydepth.serving.encoding import encode_depth
from steadydepth.serving.flicker import PAIRS_S, LiveFlicker
from steadydepth.serving.messages import decode_depth, float16_scale


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(Average(), audit=tmp_path_factory.mktemp("audit") / "audit.jsonl") as server:
        yield server


@pytest.fixture
def http(served):
    with httpx.Client(base_url=served.url, trust_env=False) as client:
        yield client


def post(http, image, query="", kind="image/png"):
    return http.post(f"/v1/depth{query}", content=image, headers={"content-type": kind})


def test_each_format_holds_the_depth_of_the_image(http, tmp_path):
    image = film(4)[0]
    expected = Predictor(Average()).predict(image).depth
    answer = post(http, png(image))
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-depth-claims"] == "metric"
    assert answer.headers["x-model"] == "model 1"
    codes = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    depth = codes * float(answer.headers["x-depth-scale"]) + float(answer.headers["x-depth-offset"])
    np.testing.assert_allclose(depth, expected, atol=0.51 * float(answer.headers["x-depth-scale"]))
    with np.load(io.BytesIO(post(http, png(image), "?format=npz").content), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["depth"], expected[None])
        assert str(arrays["claims"]) == "metric"
    (tmp_path / "depth.exr").write_bytes(post(http, png(image), "?format=exr").content)
    np.testing.assert_array_equal(read_exr(tmp_path / "depth.exr"), expected)


def test_jpeg_and_webp_are_read_as_they_are_shown(http):
    """A JPEG that EXIF turns by a quarter, and a WebP without loss."""
    image = film(4)[0]
    webp = cv2.imencode(".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    answer = post(http, webp, "?format=npz", "image/webp; charset=x")
    with np.load(io.BytesIO(answer.content)) as arrays:
        np.testing.assert_array_equal(arrays["depth"][0], Predictor(Average()).predict(image).depth)
    from PIL import Image

    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(file, "JPEG", exif=exif)
    answer = post(http, file.getvalue(), kind="image/jpeg")
    codes = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_UNCHANGED)
    assert codes.shape == image.shape[1::-1]


@pytest.mark.parametrize(
    ("image", "kind", "status"),
    [
        (b"", "image/png", 422),
        (b"\x89PNG\r\n\x1a\n", "image/png", 422),
        (b"GIF89a", "image/png", 422),
        (b"x", "image/gif", 415),
        (b"x", "text/plain", 415),
        (b"http://127.0.0.1/room.png", "image/png", 422),
    ],
)
def test_what_is_no_image_is_refused(http, image, kind, status):
    answer = post(http, image, kind=kind)
    assert answer.status_code == status
    assert answer.json()["detail"]


def test_a_small_file_that_says_it_is_huge_is_refused_before_it_is_unpacked(http):
    bomb = cv2.imencode(".png", np.zeros((6000, 6000), np.uint8))[1].tobytes()
    assert len(bomb) < 200_000
    answer = post(http, bomb)
    assert answer.status_code == 422
    assert "it has 1 to 8300000 pixels" in answer.json()["detail"]


def test_a_server_says_what_it_has(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert [http.head(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]  # as monitors ask
    assert http.get("/readyz").json() == {"status": "ready"}
    assert http.get("/v1/models").json() == {
        "model": "model", "version": 1, "claims": "metric", "models": ["model"],
        "made_by": Predictor(Average()).noted(),
        "filter": "none", "filters": ["none", "learned", "ema", "ema_0.8", "median", "flow_ema"],
    }  # fmt: skip
    assert http.put("/v1/models/current", json={"model": "nobody"}).status_code == 404
    assert http.put("/v1/models/current", json={"model": "../../etc"}).status_code == 404
    assert http.put("/v1/models/current", json={"model": "model", "path": "/"}).status_code == 422


def metric(text, name):
    return float(re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)[1])


def test_metrics_count_what_was_done_and_show_the_flicker_of_each_session(http, served):
    """The flicker is that of evaluate: flow_flicker of the frames and their depth."""
    frames = film(7, 2, height=96, width=128)
    before = http.get("/metrics").text
    with served.open() as stream:
        for number, frame in enumerate(frames):
            stream.send(rgb(number, frame))
            header, _ = depth_of(stream.recv(20))
        post(http, png(frames[0]))
        text = http.get("/metrics").text
        [session] = served.app.state.figures.streams
        for name, more in (("frames_total", 2), ("images_total", 1), ("skipped_total", 0)):
            assert metric(text, f"steadydepth_{name}") == metric(before, f"steadydepth_{name}") + more
        assert metric(text, "steadydepth_sessions") == 1
        assert metric(text, f'steadydepth_session_frames{{session="{session}"}}') == 2
        for quantile in ("0.5", "0.95", "0.99"):
            assert 0 < metric(text, f'steadydepth_latency_seconds{{quantile="{quantile}"}}') < 20
        depths = np.stack([result.depth for result in Predictor(Average()).stream(list(frames))])
        flow = image_flow(frames)
        expected = float(flow_flicker(_tensor(depths), flow)["flicker_flow"])
        found = metric(text, f'steadydepth_session_flicker{{session="{session}"}}')
        assert expected > 1
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        assert header["flicker"] == found


def _tensor(array):
    import torch

    return torch.from_numpy(array)


def test_live_flicker_is_measured_now_and_then():
    frames = film(7, 6, height=96, width=128)
    results = list(Predictor(Average()).stream(list(frames)))
    flicker = LiveFlicker(Rates(PAIRS_S, PAIRS_S))
    flicker.see(results[0], now=100.0)
    assert flicker.value is None
    flicker.see(results[1], now=101.0)
    first = flicker.value
    flicker.see(results[2], now=101.5)  # too early
    assert flicker.value == first
    flicker.see(results[3], now=102.1)
    second = float(flow_flicker(_tensor(np.stack([results[2].depth, results[3].depth])), image_flow(frames[2:4]))[
        "flicker_flow"
    ])  # fmt: skip
    np.testing.assert_allclose(flicker.value, first + 0.2 * (second - first), rtol=1e-6)


@pytest.mark.parametrize("format", ["png16", "float16", "float32", "zstd"])
@pytest.mark.parametrize("claims", ["metric", "scale", "affine", "disparity"])
def test_every_format_keeps_every_kind_of_depth(format, claims):
    """Values below 0 and of 0 where the claims allow them, very large ones, and pixels without a value."""
    from steadydepth.inference.session import Result

    generator = np.random.default_rng(1)
    depth = generator.uniform(0.5, 40, (6, 7)).astype(np.float32)
    if claims in ("affine", "disparity"):
        depth[0, :3] = -7, 0, 3e5
    depth[2, 2] = np.nan
    valid = np.isfinite(depth)
    result = Result(depth, claims, np.zeros((6, 7, 3), np.uint8))
    header, payload = encode_depth(result, format)
    header = json.loads(json.dumps(header))
    found = decode_depth(header, memoryview(payload))
    np.testing.assert_array_equal(np.isfinite(found), valid)
    span = float(np.nanmax(depth) - np.nanmin(depth))
    step = {
        "png16": max(0.51 * header["scale"], 1e-7 * span),
        "float16": 2**-11 * np.abs(depth).max(where=valid, initial=0),
    }
    np.testing.assert_allclose(found, depth, rtol=0, atol=step.get(format, 0))
    if format == "png16":
        assert header["scale"] <= max(0.001, 1.01 * span / 65534)
    if format == "float16":
        assert header["scale"] == float16_scale(float(np.nanmax(np.abs(depth))))


def test_every_answer_has_the_headers_of_a_safe_page(http):
    for path in ("/healthz", "/nowhere", "/v1/models"):
        headers = http.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_a_failure_tells_the_client_a_number_and_the_log_the_rest(caplog):
    class Secret(Average):
        def forward(self, frames, state=None):
            raise RuntimeError("/home/secret/model.py is broken")

    with serving(Secret()) as server, httpx.Client(base_url=server.url, trust_env=False) as http:
        answer = post(http, png(film(1)[0]))
        assert answer.status_code == 500
        number = re.fullmatch(r"internal error ([0-9a-f]{8})", answer.json()["detail"])[1]
        assert "content-security-policy" in answer.headers
        with server.open() as stream:
            stream.send(rgb(0, film(1)[0]))
            assert re.fullmatch(r"internal error [0-9a-f]{8}", json.loads(stream.recv(20))["reason"])
    assert number in caplog.text
    assert "/home/secret/model.py is broken" in caplog.text


def test_the_audit_log_has_a_line_for_each_request(http, served):
    http.get("/nowhere\n{}?token=secret".replace("\n", "%0A"))
    for _ in range(500):  # it is written when the answer has gone
        lines = [json.loads(line) for line in served.app.state.settings.audit.read_text(encoding="utf-8").splitlines()]
        last = lines[-1]
        if last["path"] == "/nowhere\n{}":
            break
        time.sleep(0.01)
    assert (last["event"], last["status"], last["method"], last["who"]) == ("request", 404, "GET", None)
    assert last["path"] == "/nowhere\n{}"
    assert all("secret" not in json.dumps(line) for line in lines)


def test_files_of_the_audit_log_are_its_owner_s_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("steadydepth.serving.audit._MOST_BYTES", 300)
    audit = Audit(tmp_path / "audit.jsonl")
    for _ in range(9):
        audit.note("request", path="/" + "x" * 90)
    audit.close()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert len(modes) > 2
    if sys.platform != "win32":  # where they have the rights of their folder
        assert set(modes.values()) == {0o600}
