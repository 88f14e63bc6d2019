"""Uploads and jobs over HTTP: pieces, checksums, who may do what, and what comes of a job."""

import errno
import hashlib
import io
import json
import os
import re
import shutil
import sys
import unicodedata
import zipfile
from base64 import b64encode
from functools import partial

import pytest
from safetensors.numpy import load
from starlette.testclient import TestClient
from training_server import (
    QUICK,
    SMALL,
    TUS,
    begin_upload,
    find,
    make_archive,
    make_model,
    metadata,
    offset_of,
    send,
    upload_all,
    wait_for,
)

from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.store import Job
from steadydepth.jobs.uploads import Uploads
from steadydepth.serving.app import create_app
from steadydepth.serving.settings import Limits, Settings
from steadydepth.serving.tokens import new_token

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone")
QUICKLY = Limits(requests_s=1e5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return make_model(root / "model"), make_archive(root).read_bytes()


def client_of(model, data, **more):
    settings = Settings(model=str(model), data=data, limits=QUICKLY, job_limits=more.pop("job_limits", QUICK), **more)
    return TestClient(create_app(settings), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def http(files, tmp_path_factory):
    with client_of(files[0], tmp_path_factory.mktemp("server")) as client:
        yield client


def test_the_protocol_says_what_it_can(http):
    answer = http.options("/v1/uploads")
    assert answer.status_code == 204
    assert answer.headers["Tus-Version"] == "1.0.0"
    assert set(answer.headers["Tus-Extension"].split(",")) == {"creation", "checksum", "termination"}


def test_pieces_go_on_where_they_were_cut(http, files):
    data = files[1]
    place = begin_upload(http, "world.zip", data)
    assert offset_of(http, place) == 0
    assert send(http, place, data[:1000], 0).headers["Upload-Offset"] == "1000"
    # Again from the beginning, or further on: refused, and nothing has changed.
    for offset in (0, 999, 1001):
        assert send(http, place, data[offset : offset + 10], offset).status_code == 409
    assert offset_of(http, place) == 1000
    wrong = b64encode(hashlib.sha256(b"else").digest()).decode()
    assert send(http, place, data[1000:2000], 1000, **{"Upload-Checksum": f"sha256 {wrong}"}).status_code == 460
    assert offset_of(http, place) == 1000
    for kind in ("sha1", "sha256"):
        start = offset_of(http, place)
        piece = data[start : start + 1000]
        right = b64encode(hashlib.new(kind, piece).digest()).decode()
        assert send(http, place, piece, start, **{"Upload-Checksum": f"{kind} {right}"}).status_code == 204
    assert send(http, place, data[3000:] + b"more", 3000).status_code == 413
    assert offset_of(http, place) == 3000
    assert send(http, place, data[3000:], 3000).status_code == 204
    number = place.rsplit("/", 1)[1]
    found = wait_for(lambda: find(http, "uploads", number), "ready")
    assert found["sequences"] == ["fixed_000003", "moving_000004"]
    assert http.delete(place, headers=TUS).status_code == 204
    assert http.head(place, headers=TUS).status_code == 404


def test_what_arrives_damaged_or_is_no_video_is_refused_and_says_why(http, files):
    data = files[1]
    places = {
        "damaged": begin_upload(http, "world.zip", data),
        "playlist": begin_upload(http, "clip.mp4", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n"),
        "empty": begin_upload(http, "photos.zip", packed := zipped({"notes.txt": b"x"})),
    }
    bodies = {
        "damaged": data[:-1] + bytes([data[-1] ^ 1]),
        "playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "empty": packed,
    }
    words = {"damaged": "arrived damaged", "playlist": "no video of a kind that is read", "empty": "holds no image"}
    for name, place in places.items():
        assert send(http, place, bodies[name], 0).status_code == 204
    for name, place in places.items():
        number = place.rsplit("/", 1)[1]
        found = wait_for(lambda number=number: find(http, "uploads", number), "refused")
        assert words[name] in found["message"]
        assert "/" not in found["message"].replace("w/o", "")
        assert http.delete(place, headers=TUS).status_code == 204


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Upload-Length": "10"}, 422),
        ({"Upload-Metadata": metadata("a.mp4")}, 422),
        ({"Upload-Length": "0", "Upload-Metadata": metadata("a.mp4")}, 422),
        ({"Upload-Length": "-5", "Upload-Metadata": metadata("a.mp4")}, 422),
        ({"Upload-Length": "9" * 30, "Upload-Metadata": metadata("a.mp4")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": metadata("a.exe")}, 422),
        ({"Upload-Length": "10", "Upload-Metadata": "filename ?"}, 400),
        ({"Upload-Length": "10", "Upload-Metadata": metadata("a.mp4"), "Tus-Resumable": "0.2"}, 412),
    ],
)
def test_an_upload_that_cannot_be_is_refused(http, headers, status):
    assert http.post("/v1/uploads", headers=TUS | headers).status_code == status


def test_an_empty_file_is_named(http):
    answer = http.post("/v1/uploads", headers=TUS | {"Upload-Length": "0", "Upload-Metadata": metadata("a.mp4")})
    assert answer.json()["detail"].startswith("a.mp4: 0 bytes; a file has 1 to ")


def test_a_request_that_is_sent_again_with_its_key_gives_the_same_upload(files, tmp_path):
    """The answer to the first one was lost: the sender does not know its upload, which would stay empty for a day."""

    def create(http, key, name="a.mp4"):
        more = f",key {b64encode(key.encode()).decode()}" if key else ""
        headers = TUS | {"Upload-Length": "10", "Upload-Metadata": metadata(name) + more}
        answer = http.post("/v1/uploads", headers=headers)
        assert answer.status_code == 201
        return answer.headers["Location"]

    with client_of(files[0], tmp_path / "keyed") as http:
        first = create(http, "k1")
        assert send(http, first, b"123", 0).status_code == 204
        assert create(http, "k1") == first
        assert offset_of(http, first) == 3
        others = [create(http, "k2"), create(http, "k1", "b.mp4"), create(http, ""), create(http, "")]
        assert len({first, *others}) == 5
        assert http.delete(first, headers=TUS).status_code == 204
        assert create(http, "k1") not in (first, *others)


def test_a_name_is_a_title_and_never_a_path(http):
    place = begin_upload(http, "../../../etc/cron.d/evil<script>.mp4", b"12345")
    found = find(http, "uploads", place.rsplit("/", 1)[1])
    assert found["name"] == "evil_script_.mp4"
    http.delete(place, headers=TUS)
    place = begin_upload(http, unicodedata.normalize("NFD", "k\u00fcche.mp4"), b"12345")  # as macOS sends it
    assert find(http, "uploads", place.rsplit("/", 1)[1])["name"] == "k\u00fcche.mp4"
    http.delete(place, headers=TUS)
    for number in ("..", "%2e%2e", "..%2f..", "x", "0" * 16):
        assert http.head(f"/v1/uploads/{number}", headers=TUS).status_code in (404, 405, 422)
        assert http.get(f"/v1/jobs/{number}/report").status_code in (404, 405)


def test_limits_of_uploads_hold(files, tmp_path):
    limits = JobLimits(niceness=0, upload_bytes=100, stored_bytes=150, uploads=2)
    with client_of(files[0], tmp_path, job_limits=limits) as http:

        def create(size):
            headers = TUS | {"Upload-Length": str(size), "Upload-Metadata": metadata("a.mp4")}
            return http.post("/v1/uploads", headers=headers)

        assert "1 to 100" in create(101).json()["detail"]
        assert create(90).status_code == 201
        assert "150 bytes together" in create(61).json()["detail"]
        assert create(60).status_code == 201
        assert "the most that are kept" in create(1).json()["detail"]


def test_a_job_from_order_to_model_in_service(http, files):
    number = upload_all(http, "world.zip", files[1])
    order = {"kind": "train", "name": "kitchen", "model": "model", "uploads": [number], "settings": SMALL}
    job = http.post("/v1/jobs", json=order).json()
    assert job["settings"]["optim.steps"] == 6
    assert job["settings"]["loss.relative_weight"] == 3.5
    assert http.get(f"/v1/jobs/{job['id']}/model").status_code == 409
    assert http.get(f"/v1/jobs/{job['id']}/report").status_code == 404
    assert http.delete(f"/v1/jobs/{job['id']}").status_code == 422
    done = wait_for(lambda: http.get(f"/v1/jobs/{job['id']}").json(), "finished")
    assert done["has_report"]
    assert re.search(r"flicker along the flow \d+\.\d\d to \d+\.\d\d %, abs_rel", done["message"])
    lines = http.get(f"/v1/jobs/{job['id']}/curves").json()
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert http.get(f"/v1/jobs/{job['id']}/curves?after=5").json() == lines[5:]

    report = http.get(f"/v1/jobs/{job['id']}/report")
    assert "flicker_flow" in report.text
    assert "sandbox" in report.headers["content-security-policy"]
    assert "script-src" not in report.headers["content-security-policy"]
    content = http.get(f"/v1/jobs/{job['id']}/model").content
    asked = http.head(f"/v1/jobs/{job['id']}/model")
    assert (asked.status_code, asked.headers["content-length"], asked.content) == (200, str(len(content)), b"")
    archive = zipfile.ZipFile(io.BytesIO(content))
    assert archive.namelist() == ["config.json", "model.safetensors"]
    assert json.loads(archive.read("config.json"))
    before = load((files[0] / "model.safetensors").read_bytes())
    after = load(archive.read("model.safetensors"))
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)

    assert http.get("/v1/models").json()["version"] == 1
    served = http.post(f"/v1/jobs/{job['id']}/serve").json()
    assert served == {"model": f"job-{job['id']}", "version": 2}
    assert http.get("/v1/models").json()["model"] == f"job-{job['id']}"
    assert "in service" in http.delete(f"/v1/jobs/{job['id']}").json()["detail"]
    assert http.post(f"/v1/jobs/{job['id']}/cancel").status_code == 409

    # Another one in its place is remembered as well: then the job can go.
    first = http.get("/v1/models").json()["models"][0]
    assert http.put("/v1/models/current", json={"model": first}).json()["model"] == first
    assert http.app.state.jobs.served() is None
    assert http.post(f"/v1/jobs/{job['id']}/serve").status_code == 200

    # The next server has it in service again.
    data = http.app.state.settings.data
    http.app.state.jobs._ends.set()
    http.app.state.jobs._thread.join()
    os.close(http.app.state.jobs._own)
    http.app.state.jobs._own = None
    again = create_app(Settings(model=str(files[0]), data=data, job_limits=QUICK))
    try:
        assert again.state.models.current.name == f"job-{job['id']}"
    finally:
        again.state.models.close()
        again.state.jobs.stop()


def test_orders_that_do_not_fit_are_refused_with_every_mistake(http):
    order = {"kind": "train", "model": "model", "settings": {"data.root": "/etc", "optim.steps": 0, "run.seed": 1}}
    answer = http.post("/v1/jobs", json=order)
    assert answer.status_code == 422
    assert "2 mistakes" in answer.json()["detail"]
    assert "data.root: may not be set" in answer.json()["detail"]
    assert http.post("/v1/jobs", json={"kind": "train", "more": 1}).status_code == 422
    assert http.post("/v1/jobs", json={"kind": "train", "model": "job:0", "uploads": []}).status_code == 404
    for half in (
        '"kind": "train", "uploads": ["\\udfff"]',
        '"kind": "train", "settings": {"\\udfff": 1}',
        '"kind": "\\udfff"',
    ):
        broken = http.post("/v1/jobs", content=f"{{{half}}}", headers={"Content-Type": "application/json"})
        assert broken.status_code == 422, half
    kinds = http.get("/v1/jobs/kinds").json()
    assert set(kinds) == {"stabilise", "train", "filter"}


@pytest.fixture(scope="module")
def guarded(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    tokens = {
        name: new_token(folder / "tokens.json", name, (scope,))
        for name, scope in {"eve": "predict", "ann": "train", "bob": "train", "root": "admin"}.items()
    }
    with client_of(files[0], folder / "server", tokens=folder / "tokens.json") as client:
        yield client, {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}


def test_who_may_not_train_sees_nothing_of_it(guarded):
    http, of = guarded
    for path in ("uploads", "jobs", "jobs/kinds", "jobs/x", "jobs/x/curves", "jobs/x/report", "jobs/x/model"):
        assert http.get(f"/v1/{path}").status_code == 401
        assert http.get(f"/v1/{path}", headers=of["eve"]).status_code == 403
    assert http.post("/v1/jobs", json={"kind": "train"}, headers=of["eve"]).status_code == 403
    assert http.get("/").status_code == 200  # the page asks for the token


def test_what_is_of_one_is_not_there_for_another(guarded, files):
    http, of = guarded
    headers = TUS | {"Upload-Length": "5", "Upload-Metadata": metadata("mine.mp4")}
    place = http.post("/v1/uploads", headers=headers | of["ann"]).headers["Location"]
    assert [each["name"] for each in http.get("/v1/uploads", headers=of["ann"]).json()] == ["mine.mp4"]
    assert http.get("/v1/uploads", headers=of["bob"]).json() == []
    assert http.head(place, headers=TUS | of["bob"]).status_code == 404
    assert http.delete(place, headers=of["bob"]).status_code == 404
    order = {"kind": "train", "model": "model", "uploads": [place.rsplit("/", 1)[1]]}
    assert http.post("/v1/jobs", json=order, headers=of["bob"]).status_code == 404
    assert http.post("/v1/jobs", json=order, headers=of["ann"]).status_code == 422  # it is not ready
    assert len(http.get("/v1/uploads", headers=of["root"]).json()) == 1


def test_a_ticket_opens_one_job_and_only_an_admin_changes_the_model(guarded):
    http, of = guarded
    jobs = http.app.state.jobs
    for number in ("aa", "bb"):
        job = Job(number, "train", number, "ann", 1.0, "model", state="failed", ended=2.0)
        jobs.store.add(job)
        jobs.of(job).mkdir()
        (jobs.of(job) / "report.html").write_text(f"report of {number}", encoding="utf-8")
    ticket = http.post("/v1/jobs/aa/ticket", headers=of["ann"]).json()["ticket"]
    assert http.post("/v1/jobs/aa/ticket", headers=of["bob"]).status_code == 404
    assert http.get(f"/v1/jobs/aa/report?ticket={ticket}").text == "report of aa"
    assert http.get(f"/v1/jobs/bb/report?ticket={ticket}").status_code == 401
    assert http.get("/v1/jobs/aa/report?ticket=wrong").status_code == 401
    assert http.get("/v1/jobs/aa/report", headers=of["bob"]).status_code == 404
    assert http.post("/v1/jobs/aa/serve", headers=of["ann"]).status_code == 403
    assert http.post("/v1/jobs/aa/serve", headers=of["root"]).status_code == 409
    assert http.delete("/v1/jobs/aa", headers=of["ann"]).status_code == 204
    assert http.get("/v1/jobs/aa", headers=of["ann"]).status_code == 404


def test_a_restart_shows_the_models_of_jobs_to_their_owners_alone(files, tmp_path):
    tokens = {
        name: {"Authorization": f"Bearer {new_token(tmp_path / 'tokens.json', name, (scope,))}"}
        for name, scope in {"eve": "predict", "ann": "train", "bob": "train", "root": "admin"}.items()
    }
    order = {"kind": "stabilise", "model": "job:aa", "uploads": ["none"]}
    for is_served in (False, True):
        with client_of(files[0], tmp_path / "server", tokens=tmp_path / "tokens.json") as http:
            if not is_served:
                job = Job("aa", "train", "kitchen", "ann", 1.0, "model", state="finished", ended=2.0)
                http.app.state.jobs.store.add(job)
                shutil.copytree(files[0], http.app.state.jobs.of(job) / "run")
            assert http.get("/v1/models", headers=tokens["eve"]).json()["models"] == ["model"]
            assert http.post("/v1/jobs", json=order, headers=tokens["bob"]).status_code == 404
            assert "job-aa" not in http.post("/v1/jobs", json=order | {"model": "x"}, headers=tokens["bob"]).text
            assert http.get("/v1/jobs/aa/model", headers=tokens["ann"]).status_code == 200
            if is_served:
                assert http.post("/v1/jobs/aa/serve", headers=tokens["root"]).status_code == 200
                assert http.get("/v1/models", headers=tokens["eve"]).json()["models"] == ["model", "job-aa"]


def test_a_server_without_a_folder_has_no_training(files):
    with TestClient(create_app(Settings(model=str(files[0]))), base_url="http://127.0.0.1:8000") as http:
        assert http.get("/v1/jobs").status_code == 404


def test_a_model_whose_job_was_deleted_is_known_no_more(files, tmp_path):
    model, _ = files
    with client_of(model, tmp_path / "data") as http:
        jobs = http.app.state.jobs
        job = Job("0123456789abcdef", "train", "kitchen", "local", 1.0, "model", state="finished")
        jobs.store.add(job)
        shutil.copytree(model, jobs.of(job) / "run")
        assert http.post(f"/v1/jobs/{job.id}/serve").json()["model"] == f"job-{job.id}"
        assert http.put("/v1/models/current", json={"model": "model"}).status_code == 200
        assert http.delete(f"/v1/jobs/{job.id}").status_code == 204
        assert http.get("/v1/models").json()["models"] == ["model"]
        assert http.put("/v1/models/current", json={"model": f"job-{job.id}"}).status_code == 404


def test_a_full_disk_is_said_and_the_upload_goes_on_later(http, monkeypatch):
    data = bytes(3000)
    place = begin_upload(http, "clip.mp4", data)
    uploads, begin = http.app.state.jobs.uploads, Uploads.begin_piece

    def full(upload):
        file = begin(uploads, upload)
        monkeypatch.setattr(uploads, "begin_piece", partial(begin, uploads))
        return _Full(file)

    monkeypatch.setattr(uploads, "begin_piece", full)
    answer = send(http, place, data, 0)
    assert answer.status_code == 507
    assert answer.json()["detail"] == "the server cannot write the piece: No space left on device"
    assert offset_of(http, place) == 0
    assert send(http, place, data[:2000], 0).status_code == 204
    assert http.delete(place, headers=TUS).status_code == 204


class _Full:
    """A file on a disk that is full."""

    def __init__(self, file):
        self._file = file

    def write(self, block):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self._file.__enter__()

    def __exit__(self, *error):
        return self._file.__exit__(*error)
