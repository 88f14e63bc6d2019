"""The page's view of uploads and jobs, in a real browser, on lists that the test hands out."""

import json
import sys

import pytest
from browser import opened_page
from known_depth import Average
from served import serving
from waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone")
JOB = {
    "id": "0123456789abcdef", "kind": "stabilise", "name": "kitchen", "model": "small", "uploads": ["a"],
    "settings": {"steps": 6}, "state": "running", "message": "",
}  # fmt: skip
UPLOAD = {
    "id": "a", "name": "walk.mp4", "size": 9, "received": 9, "state": "ready", "message": "", "sequences": ["walk"],
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(Average(), data=tmp_path_factory.mktemp("server")) as running:
        yield running


class Lists:
    """What the page is told: uploads, jobs, lines of their logs; and what it asked for beside that."""

    def __init__(self, page):
        self.page, self.uploads, self.jobs, self.lines, self.asked = page, [dict(UPLOAD)], [], [], []
        self.is_lost = False
        page.route("**/v1/uploads", lambda route: self.answer(route, self.uploads))
        page.route("**/v1/jobs", lambda route: self.answer(route, self.jobs))
        page.route("**/v1/jobs/*/curves?*", lambda route: self.answer(route, self.lines))
        page.route("**/v1/jobs/0123456789abcdef", lambda route: self.answer(route, None))
        page.route("**/v1/models", lambda route: route.abort() if self.is_lost else route.fallback())

    def answer(self, route, found):
        if self.is_lost:
            return route.abort()
        if route.request.method != "GET":
            self.asked.append(route.request.method)
        return route.fulfill(status=200, content_type="application/json", body=json.dumps(found))


@pytest.fixture
def page(browser, server):
    with opened_page(browser, server.url) as opened:
        opened.lists = Lists(opened)
        opened.click("#tab-jobs")
        opened.wait_for_selector("#chosen input")
        yield opened


def test_a_phone_shows_all_of_the_view(page):
    page.lists.jobs = [JOB, {**JOB, "id": "1", "name": "a" * 90, "state": "failed", "message": "b" * 200}]
    page.wait_for_selector("#job-list .failed")
    page.set_viewport_size({"width": 360, "height": 640})
    page.click("summary")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    wide = "[...document.querySelectorAll('#jobs *')].filter((one) => one.getBoundingClientRect().right > 360).length"
    assert page.evaluate(wide) == 0


def test_the_view_is_there_again_after_a_reload(page):
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.is_visible("#jobs")
    assert page.get_attribute("#tab-jobs", "aria-selected") == "true"
    page.click("#tab-live")
    page.reload()
    page.wait_for_selector("html[data-ready=yes]")
    assert page.is_visible("#live")


def test_a_server_that_does_not_answer_is_told_until_it_does(page):
    page.lists.is_lost = True
    wait_until(lambda: page.inner_text("#message") == "no connection to the server; trying again")
    page.lists.is_lost = False
    wait_until(lambda: not page.inner_text("#message"))
    assert page.faults  # the browser notes each request that was lost
    page.faults.clear()


def test_a_token_that_is_known_no_more_is_asked_for_and_not_sent_again(page):
    asked = []

    def refuse(route):
        asked.append(route)
        route.fulfill(status=401, content_type="application/json", body='{"detail": "a token is needed"}')

    page.route("**/v1/models", refuse)
    page.wait_for_selector("#sign-in", timeout=10_000)
    assert page.inner_text("#message") == "That token is not known."
    page.wait_for_timeout(2500)
    assert len(asked) == 1
    page.unroute("**/v1/models", refuse)
    page.fill("#token", "another")
    page.press("#token", "Enter")
    page.lists.jobs = [JOB]
    page.wait_for_selector("#job-list .running")
    assert page.is_hidden("#sign-in")
    assert page.inner_text("#message") == ""
    page.faults.clear()


def test_a_slow_server_is_not_asked_again_before_it_has_answered(page):
    waiting, most = [], []

    def delay(route):
        waiting.append(route)
        most.append(len(waiting))

    page.route("**/v1/uploads", delay)
    page.wait_for_timeout(3500)
    assert len(most) == 1
    page.lists.answer(waiting.pop(), [])
    wait_until(lambda: page.wait_for_timeout(50) or len(most) == 2)  # routes are taken while the page is waited for
    page.unroute("**/v1/uploads", delay)
    page.lists.answer(waiting.pop(), [])


def test_what_has_ended_is_told_in_sight_and_to_screen_readers(page):
    assert page.evaluate("getComputedStyle(document.querySelector('#message[role=status]')).display") != "none"
    page.lists.jobs = [JOB]
    page.wait_for_selector("#job-list .running")
    assert "kitchen" not in page.inner_text("#message")
    page.lists.jobs = [{**JOB, "state": "finished", "message": "better: flicker 2 to 1"}]
    wait_until(lambda: page.inner_text("#message") == "kitchen: finished: better: flicker 2 to 1")
    page.set_viewport_size({"width": 360, "height": 500})
    page.locator("#job-list").scroll_into_view_if_needed()
    assert page.evaluate("document.querySelector('#message').getBoundingClientRect().top") >= 0
    page.lists.uploads = [UPLOAD, {**UPLOAD, "id": "b", "name": "b.zip", "state": "refused", "message": "damaged"}]
    wait_until(lambda: page.inner_text("#message") == "b.zip: refused: damaged")
    assert "bad" in page.get_attribute("#message", "class")


def test_a_job_before_its_first_step_and_after_its_last_says_what_it_does(page):
    page.lists.jobs = [JOB]
    wait_until(lambda: "step 0 of 6 · preparing" in page.inner_text("#job-list"))
    page.lists.jobs = [{**JOB, "doing": "the teacher's depth of video 2 of 9"}]
    wait_until(lambda: "step 0 of 6 · the teacher's depth of video 2 of 9" in page.inner_text("#job-list"))
    assert page.get_by_role("progressbar", name="kitchen trained").get_attribute("value") == "0"
    page.lists.lines = [{"step": step, "absolute": 1.0 / step} for step in range(1, 4)]
    page.lists.jobs = [{**JOB, "doing": "step 3 of 6: absolute 0.3333"}]
    wait_until(lambda: "step 3 of 6" in page.inner_text("#job-list"))
    assert "absolute 0.3333" not in page.inner_text("#job-list")
    page.lists.jobs = [{**JOB, "doing": "measuring the trained model"}]
    wait_until(lambda: "step 3 of 6 · measuring" in page.inner_text("#job-list"))  # its log has not each step
    page.lists.jobs = [{**JOB, "state": "finished"}]
    wait_until(lambda: "step 6 of 6" in page.inner_text("#job-list"))


def test_the_model_that_was_put_into_service_is_named_above(page):
    served = {"model": "job-0123456789abcdef", "claims": "disparity", "models": [], "filters": []}
    page.route("**/v1/models", lambda route: page.lists.answer(route, served))
    wait_until(lambda: page.inner_text("#model").startswith("job-"))
    assert page.inner_text("#model").startswith("job-0123456789abcdef, disparity")


def test_the_first_model_comes_back_into_service(page):
    served = {
        "model": "job-0123456789abcdef",
        "claims": "scale",
        "models": ["small", "job-0123456789abcdef"],
        "filters": [],
    }
    put = []

    def take(route):
        put.append(route.request.post_data_json)
        served["model"] = "small"
        page.lists.answer(route, served)

    page.lists.jobs = [{**JOB, "state": "finished"}]
    page.route("**/v1/models", lambda route: page.lists.answer(route, served))
    page.route("**/v1/models/current", take)
    page.click("#job-list button:has-text('Put small back')")
    wait_until(lambda: page.inner_text("#model").startswith("small"))
    assert put == [{"model": "small"}]
    assert page.locator("#job-list button:has-text('Put into service')").count() == 1


def test_a_file_that_the_server_calls_otherwise_is_listed_once_while_it_is_sent(page):
    waiting = []
    there = {"Location": "/v1/uploads/b"}
    page.route("**/v1/uploads", lambda route: (
        route.fulfill(status=201, headers=there) if route.request.method == "POST" else route.fallback()
    ))  # fmt: skip
    page.route("**/v1/uploads/b", lambda route: waiting.append(route))
    page.lists.uploads = [{**UPLOAD, "id": "b", "name": "clip _1_.mp4", "state": "receiving", "received": 3}]
    page.wait_for_selector("#uploads .receiving")
    page.set_input_files("#uploads-input", {"name": "clip [1].mp4", "mimeType": "video/mp4", "buffer": b"123456789"})
    wait_until(lambda: page.wait_for_timeout(50) or waiting)
    assert page.inner_text("#uploads").split("\n")[:2] == ["clip [1].mp4", "sending"]
    page.lists.uploads = [{**UPLOAD, "id": "b", "name": "clip _1_.mp4"}]
    waiting.pop().fulfill(status=204, headers={"Upload-Offset": "9"})
    wait_until(lambda: page.inner_text("#uploads").split("\n")[:2] == ["clip _1_.mp4", "ready"])


def test_a_file_on_its_way_can_be_cancelled(page):
    waiting, gone = [], []

    def take(route):
        if route.request.method != "DELETE":
            return waiting.append(route)
        gone.append(route)
        return route.fulfill(status=204)

    page.route("**/v1/uploads", lambda route: (
        route.fulfill(status=201, headers={"Location": "/v1/uploads/b"}) if route.request.method == "POST"
        else route.fallback()
    ))  # fmt: skip
    page.route("**/v1/uploads/b", take)
    page.set_input_files("#uploads-input", {"name": "walk2.mp4", "mimeType": "video/mp4", "buffer": b"123456789"})
    wait_until(lambda: page.wait_for_timeout(50) or waiting)
    page.click("#uploads button:has-text('Cancel')")
    wait_until(lambda: page.wait_for_timeout(50) or gone)
    wait_until(lambda: "walk2.mp4" not in page.inner_text("#uploads"))
    assert page.inner_text("#message") == ""


def test_a_setting_out_of_bounds_is_shown_where_the_settings_are_closed(page):
    page.click("summary")
    page.fill("[name='steps']", "0")
    page.click("summary")
    page.click("#order button")
    page.wait_for_selector("[name='steps']:focus")
    assert page.is_visible("[name='steps']")


def test_two_clicks_at_once_start_one_job(page):
    orders = []

    def take(route):
        if route.request.method != "POST":
            return route.fallback()
        orders.append(route)
        return None

    page.route("**/v1/jobs", take)
    page.dblclick("#order button")
    page.wait_for_timeout(500)
    assert len(orders) == 1
    orders[0].fulfill(status=201, content_type="application/json", body="{}")
    page.wait_for_timeout(500)
    page.click("#order button")
    wait_until(lambda: page.wait_for_timeout(50) or len(orders) == 2)
    orders[1].fulfill(status=201, content_type="application/json", body="{}")


def test_a_job_is_deleted_only_after_a_question(page):
    page.lists.jobs = [{**JOB, "state": "finished"}]
    asked = []
    page.once("dialog", lambda dialog: asked.append(dialog.message) or dialog.dismiss())
    page.click("#job-list button:has-text('Delete')")
    assert asked == ["Delete the job kitchen, with what it trained and its report?"]
    assert not page.lists.asked
    page.once("dialog", lambda dialog: dialog.accept())
    page.click("#job-list button:has-text('Delete')")
    wait_until(lambda: page.wait_for_timeout(50) or page.lists.asked == ["DELETE"])


def test_models_to_start_from_are_those_of_jobs_that_there_are(page):
    page.lists.jobs = [{**JOB, "state": "finished"}]
    wait_until(lambda: "of job kitchen" in page.inner_text("#start-model"))
    page.lists.jobs = [{**JOB, "id": "fedcba9876543210", "name": "garden", "state": "finished"}]
    wait_until(lambda: "of job garden" in page.inner_text("#start-model"))
    assert "kitchen" not in page.inner_text("#start-model")
