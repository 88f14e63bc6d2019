"""docs/serving.md is true: its Python runs against a server, its routes, limits and options are there."""

import re
from pathlib import Path

import cv2
import numpy as np
from known_depth import Average, film
from served import serving
from typer.testing import CliRunner

from steadydepth.cli import app
from steadydepth.files.video_write import write_video
from steadydepth.serving.settings import Limits

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frames = film(1, 5, height=48, width=64)
    cv2.imwrite("room.png", frames[0][..., ::-1])
    write_video(tmp_path / "clip.mp4", list(frames), 10.0)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    with serving(Average()) as server:
        for block in blocks:
            assert "http://127.0.0.1:8000" in block
            exec(compile(block.replace("http://127.0.0.1:8000", server.url), "serving.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert abs(float(lines[0]) - 1 - float(np.mean(frames[0][..., 0]))) < 1e-2
    assert [line.split()[0] for line in lines[1:]] == ["0", "1", "2", "3", "4"]


def test_its_routes_and_options_are_there():
    with serving(Average(), webrtc=True) as server:
        served = set(server.app.openapi()["paths"])
        server.open().close()  # /v1/stream, which OpenAPI cannot say
    routes = set(re.findall(r"`(?:GET|POST|PUT) (/[\w/.]*)`", PAGE)) - {"/openapi.json"}
    assert len(routes) >= 5
    assert routes <= served, routes - served
    text = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", " ".join(re.findall(r"steadydepth serve .*", PAGE))))
    assert len(options) > 6
    assert [option for option in options if option not in text] == []


def test_its_limits_are_those_of_the_server():
    limits = Limits()
    for text in (
        f"{limits.body_bytes >> 20} MiB a body",
        f"{limits.frame_bytes >> 20} MiB a frame",
        f"{limits.pixels / 1e6:g} megapixels",
        f"{limits.sessions} streams, {limits.sessions_a_client} of one client",
        f"{limits.requests_s:g} requests a second",
        f"{limits.connections} connections",
        f"{limits.header_s:g} s for headers",
        f"{limits.body_s:g} s for a body",
        f"{limits.send_s:g} s to take an answer",
        f"{limits.idle_s:g} s without a frame",
    ):
        assert text in PAGE, text
