"""A camera on a network, played by a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from films import encode
from known_depth import Red

from steadydepth.files import video_read
from steadydepth.files.stored_depth import read_predictions
from steadydepth.files.video_read import read_video
from steadydepth.inference.live import stream_newest
from steadydepth.inference.predict_files import predict_files
from steadydepth.inference.predictor import Predictor
from steadydepth.types import InputError

T, H, W = 20, 24, 40
# The last frames of a broken connection may have come in part.
SURE = 15


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    frames = np.full((T, H, W, 3), 90, np.uint8)
    frames[..., 0] = np.linspace(30, 50, W) + 9 * np.arange(T)[:, None, None]
    return encode(tmp_path_factory.mktemp("rtsp") / "film.ts", frames, rate=10)


@pytest.fixture
def camera(film, monkeypatch) -> Iterator[str]:
    monkeypatch.setattr(video_read, "_PATIENCE_S", 1.0)
    server = Path(__file__).parent.with_name("helpers") / "rtsp_server.py"
    with subprocess.Popen([sys.executable, str(server), str(film)], stdout=subprocess.PIPE, text=True) as process:
        yield f"rtsp://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.mark.parametrize("how", ["ends", "stalls"])
def test_what_a_camera_sent_is_predicted_and_kept(camera, film, tmp_path, how, caplog):
    predict_files(Predictor(Red()), [f"{camera}/{how}"], tmp_path)
    depth, _ = read_predictions(tmp_path, f"127_0_0_1_{how}")
    assert SURE <= len(depth) <= T
    sent = list(read_video(film))[: len(depth)]
    np.testing.assert_allclose(depth, np.stack(sent)[..., 0] + 1.0, rtol=1e-5)
    assert ("no answer for 1 s" in caplog.text) == (how == "stalls")


def test_a_stream_ends_with_its_camera(camera):
    visible = list(stream_newest(Predictor(Red()), f"{camera}/ends"))
    assert visible[0].result.depth.shape == (H, W)
    with pytest.raises(InputError, match=r"stalls: no answer for 1 s: check the address, and that it sends"):
        list(stream_newest(Predictor(Red()), f"{camera}/stalls"))
