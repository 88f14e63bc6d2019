"""The page to drop a video on: what it writes, and, where Gradio and a browser are, a video dropped on it."""

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from typer.testing import CliRunner
from waiting import wait_until

from steadydepth import cli, gradio_app
from steadydepth.files.video_read import probe_video, read_video
from steadydepth.files.video_write import write_video
from steadydepth.gradio_app import app as serve_page
from steadydepth.gradio_app import compare_filter, make_app
from steadydepth.inference.predictor import Predictor
from steadydepth.ops.depth_view import DepthView
from steadydepth.training.checkpoint import save_model
from steadydepth.types import InputError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def film(tmp_path, moving_clip):
    write_video(tmp_path / "film.mp4", list(moving_clip.frames), 15.0)
    return tmp_path / "film.mp4"


def test_frame_raw_and_filtered_stand_beside_each_other_in_one_range(film, tmp_path, model):
    predictor, view = Predictor(model), DepthView("grey")
    out = compare_filter(predictor, film, tmp_path / "out.mp4", filter="ema_0.8", view=view)
    info = probe_video(out)
    assert (info.n_frames, info.height, info.width, info.fps) == (5, 48, 3 * 64, 15.0)
    frames = list(read_video(film))
    raw, filtered = (
        np.stack([result.depth for result in predictor.stream(film, filter=name)]) for name in ("none", "ema_0.8")
    )
    shown = next(view.ranges(lambda: iter(raw), "metric"))
    for number, image in enumerate(read_video(out)):
        expected = [
            frames[number],
            view.paint(raw[number], shown, "metric"),
            view.paint(filtered[number], shown, "metric"),
        ]
        assert np.abs(image.astype(int) - np.hstack(expected)).mean() < 4  # what H.264 takes away
    with pytest.raises(InputError, match="filter 'mean': unknown"):
        compare_filter(predictor, film, tmp_path / "other.mp4", filter="mean")


def test_large_videos_are_shrunk(film, tmp_path, model):
    compare_filter(Predictor(model), film, tmp_path / "out.mp4", max_side=32)
    info = probe_video(tmp_path / "out.mp4")
    assert (info.height, info.width) == (24, 96)


def test_without_gradio_the_extra_is_named(monkeypatch, model):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match=r"pip install 'steadydepth\[app\]'"):
        make_app(model)
    result = CliRunner().invoke(cli.app, ["app", "--port", "0"])
    assert isinstance(result.exception, InputError)
    assert "open http" not in result.output  # no page that is not there


def test_a_port_that_is_taken_is_one_message_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError) as caught:
            serve_page("missing", port=port)
    assert str(caught.value) == (
        f"127.0.0.1:{port} is in use by another program: choose another --port, or end that program"
    )


def test_port_0_is_a_free_port_that_the_message_names(monkeypatch, caplog):
    """Gradio takes 0 for a port like any other."""
    caplog.set_level(logging.INFO, "steadydepth")
    launched = {}
    page = SimpleNamespace(launch=lambda **options: launched.update(options))
    monkeypatch.setattr(gradio_app, "make_app", lambda model, device: page)
    serve_page("missing", port=0)
    assert launched["server_port"] > 0
    assert f"open http://127.0.0.1:{launched['server_port']}" in caplog.text


@pytest.fixture
def page(tmp_path, model):
    """The command in a process of its own."""
    pytest.importorskip("gradio", reason="the extra app is not installed", exc_type=ImportError)
    save_model(model, tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "own").mkdir()
    places = {"TMPDIR": str(tmp_path / "own"), "GRADIO_TEMP_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "steadydepth", "app", "--model", str(tmp_path / "model"), "--port", str(port)]
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"} | places
        )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            assert process.poll() is None, (tmp_path / "log").read_text(encoding="utf-8")
            try:
                urlopen(address, timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        process.wait(120)


@pytest.mark.filterwarnings("default")
def test_a_video_that_was_made_is_kept_by_gradio_alone_which_deletes_it_in_time(page, film, tmp_path):
    from gradio_client import Client, handle_file  # comes with Gradio

    client = Client(page, verbose=False, download_files=False)
    given = {"filter": "ema", "colours": "turbo", "look_ahead": 0, "api_name": "/predict"}
    made = [client.predict(handle_file(str(film)), **given)["path"] for _ in range(2)]
    assert all(probe_video(path).n_frames == 5 and path.startswith(str(tmp_path / "cache")) for path in made)
    wait_until(lambda: not list((tmp_path / "own").rglob("*.mp4")))


@pytest.mark.filterwarnings("default")
def test_a_video_dropped_in_a_browser_comes_back_with_its_depth(page, film, tmp_path):
    browsers = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed", exc_type=ImportError)
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with browsers.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1280, "height": 720})
        tab.goto(page)
        tab.get_by_role("button", name="Predict").click()
        tab.get_by_text("Drop a video first.").wait_for(timeout=60000)
        # What the user did wrong is told to the user: the terminal has no traceback of it.
        assert "Traceback" not in (tmp_path / "log").read_text(encoding="utf-8")
        tab.locator("input[type=file]").first.set_input_files(str(film))
        tab.locator("video").first.wait_for(timeout=60000)
        tab.get_by_role("button", name="Predict").click()
        result = tab.locator("video").nth(1)
        result.wait_for(timeout=120000)
        tab.wait_for_function("document.querySelectorAll('video')[1].videoWidth > 0", timeout=60000)
        width = result.evaluate("video => video.videoWidth")
        if "STEADYDEPTH_SCREENSHOT" in os.environ:
            tab.screenshot(path=os.environ["STEADYDEPTH_SCREENSHOT"])
        browser.close()
    assert width == 3 * 64
