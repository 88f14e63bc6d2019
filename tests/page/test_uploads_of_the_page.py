"""What `tus.js` sends, run by Node against a server that fails as it is told to."""

import json
import shutil
import subprocess
from importlib.resources import files

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node on this machine")

# A server in place of fetch: `failing` has, for each method, what becomes of its next requests.
PROGRAM = """
import { sendFile } from "./tus.js";

const { failing, known, gone, cancelAt } = JSON.parse(process.argv[2]);
const store = new Map(), asked = [], shown = [], keys = [];
globalThis.localStorage = {
  getItem: (key) => store.get(key) ?? null, setItem: (key, value) => store.set(key, value),
  removeItem: (key) => store.delete(key),
};
globalThis.sessionStorage = { getItem: () => null };
globalThis.setTimeout = (then) => queueMicrotask(then);
const file = new File([new Uint8Array(3 << 20).map((_, i) => i % 251)], "walk.mp4", { lastModified: 5 });
const there = new Map(), name = `upload walk.mp4 ${file.size} 5`;
if (known) {
  store.set(name, "/v1/uploads/old");
  if (!gone) there.set("/v1/uploads/old", [new Uint8Array(await file.slice(0, known).arrayBuffer())]);
}
globalThis.fetch = async (place, { method, headers, body, signal }) => {
  signal?.throwIfAborted();
  asked.push(`${method} ${place.split("/").at(-1)} ${headers["Upload-Offset"] ?? ""}`.trim());
  if (method === "POST") keys.push(headers["Upload-Metadata"].split("key ")[1]);
  const failure = failing[method]?.shift();
  if (failure === "lost") throw new TypeError("fetch failed");
  if (failure) return new Response(null, { status: failure });
  if (method === "DELETE") return new Response(null, { status: there.delete(place) ? 204 : 404 });
  if (method === "POST") {
    there.set("/v1/uploads/new", []);
    return new Response(null, { status: 201, headers: { Location: "/v1/uploads/new" } });
  }
  const parts = there.get(place);
  if (!parts) return new Response(null, { status: 404 });
  if (method === "PATCH") parts.push(new Uint8Array(await body.arrayBuffer()));
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  return new Response(null, { status: method === "PATCH" ? 204 : 200, headers: { "Upload-Offset": size } });
};
let error = null;
const stop = new AbortController();
const show = (bytes) => {
  shown.push(bytes);
  if (cancelAt !== null && bytes >= cancelAt) stop.abort();
};
try {
  await sendFile(file, show, stop.signal);
} catch (caught) {
  error = caught.message;
}
const whole = new Uint8Array(await file.arrayBuffer());
const isWhole = [...there.values()].some((parts) => Buffer.concat(parts).equals(Buffer.from(whole)));
console.log(JSON.stringify({ keys, asked, shown, error, isWhole, kept: store.get(name) ?? null }));
"""


@pytest.fixture
def send(tmp_path):
    for name in ("tus.js", "server.js"):
        (tmp_path / name).write_bytes((files("steadydepth.page") / name).read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    (tmp_path / "send.js").write_text(PROGRAM, encoding="utf-8")

    def run(known=0, gone=False, cancel_at=None, **failing):
        given = json.dumps({"failing": failing, "known": known, "gone": gone, "cancelAt": cancel_at})
        done = subprocess.run([NODE, "send.js", given], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_an_upload_whose_answer_is_lost_is_asked_for_again_with_the_same_key(send):
    found = send(POST=["lost", 503])
    assert found["asked"][:4] == ["POST uploads"] * 3 + ["PATCH new 0"]
    assert (found["error"], found["isWhole"]) == (None, True)
    [key] = set(found["keys"])
    assert len(key) > 12
    assert send()["keys"] != [key]


def test_a_file_goes_over_in_pieces(send):
    found = send()
    assert found["asked"] == ["POST uploads", "PATCH new 0", "PATCH new 1048576"]
    assert (found["error"], found["isWhole"], found["kept"]) == (None, True, None)
    assert found["shown"] == [0, 1 << 20, 3 << 20]


@pytest.mark.parametrize("failures", [["lost"], [503, "lost", 429], ["lost"] * 40])
def test_where_the_server_cannot_be_asked_now_the_file_goes_on_from_where_it_was(send, failures):
    found = send(known=1 << 20, HEAD=failures)
    assert found["asked"][: len(failures) + 2] == ["HEAD old"] * (len(failures) + 1) + ["PATCH old 1048576"]
    assert not any(one.startswith("POST") for one in found["asked"])
    assert (found["error"], found["isWhole"], found["kept"]) == (None, True, None)


def test_where_the_upload_has_gone_the_file_begins_anew(send):
    found = send(known=1 << 20, gone=True)
    assert found["asked"][:3] == ["HEAD old", "POST uploads", "PATCH new 0"]
    assert found["isWhole"]


def test_who_has_waited_long_enough_or_may_not_ask_is_told_and_can_go_on_later(send):
    found = send(known=1 << 20, HEAD=["lost"] * 41)
    assert found["asked"] == ["HEAD old"] * 41
    assert (found["error"], found["kept"]) == ("no connection to the server", "/v1/uploads/old")
    found = send(known=1 << 20, HEAD=[401])
    assert found["asked"] == ["HEAD old"]
    assert (found["error"], found["kept"]) == ("the server answered 401", "/v1/uploads/old")


def test_a_piece_that_is_lost_is_sent_again_and_smaller_from_where_the_server_is(send):
    found = send(PATCH=["lost", 503])
    assert found["asked"][:5] == ["POST uploads", "PATCH new 0", "HEAD new", "PATCH new 0", "HEAD new"]
    assert found["asked"][5:7] == ["PATCH new 0", "PATCH new 262144"]
    assert found["isWhole"]
    found = send(PATCH=[413])
    assert found["asked"] == ["POST uploads", "PATCH new 0"]
    assert found["error"] == "the server answered 413"


@pytest.mark.parametrize(("failures", "times"), [([], 1), ([423, "lost", 503], 4), ([404], 1)])
def test_a_file_that_is_cancelled_is_taken_back_from_the_server(send, failures, times):
    found = send(cancel_at=1 << 20, DELETE=failures)
    assert found["asked"] == ["POST uploads", "PATCH new 0"] + ["DELETE new"] * times
    assert (found["shown"], found["error"], found["kept"]) == ([0, 1 << 20], None, None)
