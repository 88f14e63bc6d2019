"""A headless Chromium with a camera that shows a test pattern, and folders that it can open."""

import base64
import functools
import shutil
import sys
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--no-sandbox", "--disable-gpu")
ORT_WEB = next(
    (
        folder / "node_modules" / "onnxruntime-web"
        for folder in (Path(sys.prefix), Path.cwd())
        if (folder / "node_modules" / "onnxruntime-web" / "dist").is_dir()
    ),
    None,
)
needs_ort_web = pytest.mark.skipif(
    ORT_WEB is None, reason="no onnxruntime-web: npm install --prefix .venv onnxruntime-web"
)


@contextmanager
def opened_browser():
    """A browser; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def opened_page(browser, url, **options):
    """A page, ready, whose complaints fail the test; `page.faults` has them so far."""
    context = browser.new_context(viewport={"width": 1100, "height": 800}, **options)
    page = context.new_page()
    page.faults = []
    page.on("pageerror", lambda error: page.faults.append(str(error)))
    page.on("console", lambda said: page.faults.append(said.text) if said.type in ("error", "warning") else None)
    try:
        page.goto(url)
        page.wait_for_selector("html[data-ready=yes]", timeout=60_000)
        yield page
        assert not page.faults, page.faults
    finally:
        context.close()


class _Quiet(SimpleHTTPRequestHandler):
    # Python's own table is the system's, which may know neither.
    extensions_map: ClassVar = {
        **SimpleHTTPRequestHandler.extensions_map,
        ".mjs": "text/javascript",
        ".js": "text/javascript",
    }

    def log_message(self, *_):
        pass


@contextmanager
def served_folder(folder):
    """The address of a plain file server on that folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# Keeps what the page computes, for the test to look at.
COLLECT = """() => {
  window.results = [];
  document.addEventListener("depth", ({ detail }) => window.results.push(detail));
}"""
# As text: a list of numbers takes seconds.
TAKE = """(kind) => window.results.map((result) => {
  const bytes = new Uint8Array(result[kind].buffer), parts = [];
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return [result.height, result.width, btoa(parts.join(""))];
})"""


def depths(page, kind="raw"):
    """Depth (h, w) of each frame that the page has shown since COLLECT."""
    return [
        np.frombuffer(base64.b64decode(data), np.float32).reshape(height, width)
        for height, width, data in page.evaluate(TAKE, kind)
    ]


def pixels(page, canvas):
    """RGB (h, w, 3) that a canvas shows."""
    url = page.evaluate("(id) => document.getElementById(id).toDataURL()", canvas)
    return cv2.imdecode(np.frombuffer(base64.b64decode(url.split(",")[1]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
