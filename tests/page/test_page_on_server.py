"""The page in a real browser, on a real server."""

import shutil
import sys

import cv2
import numpy as np
import pytest
from browser import COLLECT, depths, opened_page, pixels
from known_depth import Red, film
from served import serving
from training_server import QUICK, make_archive, make_model
from waiting import wait_until

from steadydepth.jobs.store import Job
from steadydepth.models.temporal_filter import WEIGHTS
from steadydepth.ops.colours import colour_depth, follow_range
from steadydepth.page import page_files
from steadydepth.serving.settings import Limits
from steadydepth.serving.tokens import new_token


@pytest.fixture(scope="module")
def red():
    with serving(Red()) as server:
        yield server


@pytest.fixture
def page(browser, red):
    with opened_page(browser, red.url) as opened:
        yield opened


def number(page, id):
    return int(page.inner_text(f"#{id}"))


def test_frames_of_the_camera_flow_and_their_depth_is_drawn(page, tmp_path):
    page.select_option("#side", "320")
    page.click("#camera")
    wait_until(lambda: number(page, "shown") >= 8)
    raw, filtered = pixels(page, "raw"), pixels(page, "filtered")
    assert raw.shape == filtered.shape == pixels(page, "colour").shape == (240, 320, 3)
    for drawn in (raw, filtered):
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 2
        assert drawn.any(axis=2).mean() > 0.9  # black is no depth
    assert page.inner_text("#latency").endswith(" ms")
    assert float(page.inner_text("#rate")) > 0
    assert pixels(page, "raw-strip")[:, -1].any()
    page.screenshot(path=tmp_path / "live.png")
    page.click("#stop")
    page.wait_for_timeout(300)
    shown = number(page, "shown")
    page.wait_for_timeout(500)
    assert number(page, "shown") == shown


def test_what_is_drawn_is_the_depth_of_the_image_in_the_package_s_colours(page, tmp_path):
    # Large patches, so that JPEG changes little.
    image = np.kron(film(3)[0][::4, ::4], np.ones((16, 16, 1), np.uint8))
    cv2.imwrite(str(tmp_path / "one.png"), image[..., ::-1])
    page.evaluate(COLLECT)
    page.set_input_files("#files", tmp_path / "one.png")
    depth = wait_until(lambda: depths(page))[0]
    assert np.median(np.abs(depth - (1 + image[..., 0].astype(np.float32)))) <= 2
    wait_until(lambda: pixels(page, "raw").any())
    shown = follow_range(None, depths(page, "filtered")[0], claims="metric")
    difference = np.abs(pixels(page, "raw").astype(int) - colour_depth(depth, *shown).astype(int))
    assert np.mean(difference.max(axis=2) > 12) < 1e-3  # a step of the colours, where rounding differs


def write_images(folder, n_images):
    folder.mkdir()
    for number, image in enumerate(film(3, n_images)):
        cv2.imwrite(str(folder / f"{number}.png"), image[..., ::-1])
    return sorted(folder.iterdir())


def test_an_image_that_is_none_is_named_and_the_others_are_shown(page, red, tmp_path):
    images = write_images(tmp_path / "images", 4)
    for damaged in (images[0], images[2]):
        damaged.write_bytes(b"no image")
    page.set_input_files("#files", images)
    wait_until(lambda: number(page, "shown") == 2)
    assert page.inner_text("#message") == "2.png: no image that this browser reads"
    wait_until(lambda: not red.app.state.figures.streams)  # nothing is to come: the places are free
    assert pixels(page, "raw").any()


def test_images_go_on_where_a_connection_was_lost(browser, tmp_path):
    limits = Limits(session_s=0.7, requests_s=1e4, messages_s=1e5)
    with serving(Red(), limits=limits) as server, opened_page(browser, server.url) as page:
        page.set_input_files("#files", write_images(tmp_path / "images", 9))
        # Until every frame was shown; each connection is cut after some of them.
        wait_until(lambda: number(page, "shown") == 9)
        assert number(page, "dropped") == 0
        page.faults.clear()


def test_what_was_begun_last_is_what_is_shown(page, red, tmp_path):
    """A camera whose permission is given after a file was chosen is closed again."""
    page.evaluate(
        """() => {
          const own = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
          window.cameras = [];
          navigator.mediaDevices.getUserMedia = async (wanted) => {
            await new Promise((resolve) => (window.allow = resolve));
            window.cameras.push(await own(wanted));
            return window.cameras[0];
          };
        }"""
    )
    page.click("#camera")
    page.set_input_files("#files", write_images(tmp_path / "images", 2))
    wait_until(lambda: number(page, "shown") == 2)
    page.evaluate("window.allow()")
    wait_until(lambda: page.evaluate("window.cameras.length && window.cameras[0].getTracks()[0].readyState") == "ended")
    page.wait_for_timeout(300)
    assert number(page, "shown") == 2
    wait_until(lambda: not red.app.state.figures.streams)


def test_a_page_that_may_have_no_camera_says_what_it_needs(page):
    page.evaluate("Object.defineProperty(navigator, 'mediaDevices', { value: undefined })")
    page.click("#camera")
    said = wait_until(lambda: page.inner_text("#message"))
    assert said == "a camera needs a page over TLS, or a server on this machine"


def test_the_keyboard_alone_is_enough(page):
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "camera"
    page.keyboard.press("Enter")
    wait_until(lambda: number(page, "shown") >= 2)
    names = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select")].filter((one) =>
          !(one.textContent.trim() || one.getAttribute("aria-label") || one.labels?.length)).map((one) => one.id)"""
    )
    assert names == []


def test_a_phone_has_nothing_beside_its_screen(page):
    page.set_viewport_size({"width": 360, "height": 640})
    page.select_option("#side", "320")
    page.click("#camera")
    wait_until(lambda: number(page, "shown") >= 1)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = page.evaluate("[...document.querySelectorAll('button, .button, select')].map((one) => one.offsetHeight)")
    assert min(height for height in heights if height) >= 44


def test_the_colours_and_numbers_of_the_page_are_those_of_the_package(page):
    generator = np.random.default_rng(0)
    for claims in ("metric", "disparity", "affine"):
        depth = generator.gamma(2.0, 2.0, (24, 36)).astype(np.float32) - (0 if claims == "metric" else 3)
        depth[0, 0], depth[1, 1] = np.nan, -1
        before = follow_range(None, depth, claims=claims)
        found, follow, colours = page.evaluate(
            """async ([depth, claims]) => {
              const { followRange, colourDepth } = await import("./colours.js");
              const values = Float32Array.from(depth, (value) => value ?? NaN);
              const range = followRange(null, values, 36, claims);
              const next = followRange(range, values.map((value) => value * 2), 36, claims);
              return [range, next, Array.from(colourDepth(values, range, claims))];
            }""",
            [[None if np.isnan(value) else float(value) for value in depth.ravel()], claims],
        )
        np.testing.assert_allclose(found, before, rtol=1e-6)
        np.testing.assert_allclose(follow, follow_range(before, depth * 2, claims=claims), rtol=1e-6)
        drawn = np.array(colours, np.uint8).reshape(24, 36, 4)[..., :3].astype(int)
        expected = colour_depth(depth, *before, claims=claims).astype(int)
        assert np.mean((drawn != expected).any(axis=2)) < 0.01
        assert np.abs(drawn - expected).max() <= 12

    halves = np.array([0, 1, -2.5, 65504, 6e-8, 6.1e-5, np.inf, -np.inf, np.nan, 0.333], np.float16)
    found = page.evaluate(
        """async (bits) => {
          const { halfFloats } = await import("./server.js");
          return Array.from(halfFloats(Uint16Array.from(bits), 2), String);
        }""",
        halves.view(np.uint16).tolist(),
    )
    numbers = [float(text.replace("Infinity", "inf")) for text in found]
    np.testing.assert_array_equal(np.array(numbers), 2 * halves.astype(np.float64))


def test_nothing_comes_from_elsewhere_and_the_policy_is_kept(browser, red):
    asked = []
    with opened_page(browser, red.url) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.reload()
        page.wait_for_selector("html[data-ready=yes]")
        assert asked
        assert all(url.startswith((red.url, "blob:", "data:")) for url in asked)
    text = "".join(path.read_text(encoding="utf-8") for path in page_files().values())
    places = {part.split('"')[0] for part in text.split("http")[1:]}
    assert places <= {"://www.w3.org/2000/svg", "-equiv=", "", "s."} | {part for part in places if part.startswith("(")}
    assert "innerHTML" not in text
    assert " style=" not in text
    assert "onclick" not in text


def test_a_server_that_asks_for_a_token_gets_it(browser, tmp_path):
    token = new_token(tmp_path / "tokens.json", "ann", ("predict",))
    trains = new_token(tmp_path / "tokens.json", "ben", ("train",))
    with serving(Red(), tokens=tmp_path / "tokens.json") as server, opened_page(browser, server.url) as page:
        assert "asks for a token" in page.inner_text("#message")
        page.fill("#token", "wrong")
        page.press("#token", "Enter")
        wait_until(lambda: "not known" in page.inner_text("#message"))
        page.fill("#token", trains)
        page.press("#token", "Enter")
        wait_until(lambda: "needs the scope predict" in page.inner_text("#message"))
        page.fill("#token", token)
        page.press("#token", "Enter")
        wait_until(lambda: "metric" in page.inner_text("#model"))
        assert page.is_hidden("#tab-jobs")  # it may not train
        page.click("#camera")
        wait_until(lambda: number(page, "shown") >= 1)
        # What the server refuses the browser notes as well.
        assert all("401" in fault or "403" in fault for fault in page.faults)
        page.faults.clear()


@pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone")
def test_a_job_is_started_and_finished_from_the_page(browser, tmp_path):
    model, archive = make_model(tmp_path / "small"), make_archive(tmp_path)
    limits = Limits(requests_s=1e4)
    with (
        serving(str(model), data=tmp_path / "server", job_limits=QUICK, limits=limits) as server,
        opened_page(browser, server.url) as page,
    ):
        page.click("#tab-jobs")
        page.set_input_files("#uploads-input", archive)
        wait_until(lambda: page.locator("#uploads .ready").count() == 1)
        assert "2 sequences" in page.inner_text("#uploads")
        assert page.locator("#chosen input:checked").count() == 1
        page.select_option("#kind", "train")
        page.click("summary")
        for name, value in {"optim.steps": 6, "optim.batch": 2, "data.height": 32, "data.width": 40}.items():
            page.fill(f"[name='{name}']", str(value))
        page.fill("#name", "kitchen <b>")
        page.click("#order button")
        wait_until(lambda: page.locator("#job-list .running").count() == 1)
        wait_until(lambda: page.locator("#job-list .finished").count() == 1, seconds=180)
        assert "kitchen <b>" in page.inner_text("#job-list")
        assert "step 6 of 6" in page.inner_text("#job-list")
        assert page.locator("#job-list polyline").count() == 2
        points = page.get_attribute("#job-list polyline", "points").split()
        assert len(points) == 6
        page.screenshot(path=tmp_path / "jobs.png", full_page=True)
        with page.expect_popup() as popup:
            page.click("text=Report")
        popup.value.wait_for_load_state()
        assert "flicker_flow" in popup.value.content()
        assert popup.value.title() == "steadydepth: kitchen <b>"
        popup.value.close()
        with page.expect_download() as download:
            page.click("text=Download")
        assert download.value.suggested_filename.endswith(".zip")
        page.click("text=Put into service")
        wait_until(lambda: "in service" in page.inner_text("#job-list"))
        page.click("#tab-live")
        page.click("#camera")
        wait_until(lambda: page.inner_text("#model").startswith("job-"))


@pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone")
def test_a_filter_that_was_tuned_on_the_server_is_offered_and_taken(browser, tmp_path):
    with serving(Red(), data=tmp_path / "data") as server, opened_page(browser, server.url) as page:
        assert page.is_hidden("#filter")
        jobs = server.app.state.jobs
        job = Job("0123456789abcdef", "filter", "kitchen", "everyone", 1.0, "model", (), {}, state="finished")
        (jobs.of(job) / "run").mkdir(parents=True)
        shutil.copy(WEIGHTS, jobs.of(job) / "run")
        jobs.store.add(job)
        page.wait_for_selector("#filter", timeout=10_000)
        wait_until(lambda: page.inner_text("#filter").split("\n") == ["learned", "of job kitchen"])
        asked = []
        page.on("websocket", lambda socket: asked.append(socket.url.rsplit("=", 1)[1]))
        page.select_option("#filter", "job-0123456789abcdef")
        page.click("#camera")
        wait_until(lambda: number(page, "shown") >= 2)
        assert sorted(asked) == ["job-0123456789abcdef", "none"]
        assert pixels(page, "filtered").any(axis=2).mean() > 0.9
