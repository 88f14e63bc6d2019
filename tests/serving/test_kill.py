"""kill -9 of a server, of a job, and of both: what was there is there, and all goes on."""

import os
import signal
import sys
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file
from training_server import (
    SMALL,
    Server,
    begin_upload,
    find,
    make_archive,
    make_model,
    offset_of,
    send,
    wait_for,
)

from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.plans import check_settings, config_of
from steadydepth.jobs.unpack import unpack
from steadydepth.training.loop import train

STEPS = {**SMALL, "optim.steps": 40}

# The thread of websockets that reads may find its socket closed already when a connection is cut: its own race.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
    pytest.mark.skipif(sys.platform == "win32", reason="a server trains on Linux and macOS alone"),
]


@pytest.fixture
def server(tmp_path):
    made = Server(make_model(tmp_path / "small"), tmp_path / "server", tmp_path / "server.log")
    yield made
    made.end_all()


def test_uploads_and_jobs_go_on_after_kill_9(server, tmp_path):
    archive = make_archive(tmp_path)
    data = archive.read_bytes()
    http = server.start()
    place = begin_upload(http, "world.zip", data)
    assert send(http, place, data[:50_000], 0).status_code == 204
    # Half of a piece is on its way when the server goes.
    with pytest.raises(httpx.TransportError):
        send(http, place, broken(data[50_000:90_000], server.kill), 50_000)

    http = server.start()
    there = offset_of(http, place)
    assert 50_000 <= there <= 90_000
    assert send(http, place, data[there:], there).status_code == 204
    number = place.rsplit("/", 1)[1]
    assert len(wait_for(lambda: find(http, "uploads", number), "ready")["sequences"]) == 2

    order = {"kind": "train", "model": "small", "uploads": [number], "settings": STEPS}
    job = http.post("/v1/jobs", json=order).json()["id"]

    def step():
        lines = http.get(f"/v1/jobs/{job}/curves").json()
        return {"state": "on" if len(lines) >= 5 else "", "n": len(lines)}

    wait_for(step, "on")
    server.kill()
    survivors = server.workers()
    http = server.start()
    assert len(survivors) == 1
    assert find(http, "jobs", job)["state"] in ("running", "finished")
    server.kill()
    for process in server.workers():
        os.kill(process, signal.SIGKILL)
    http = server.start()
    wait_for(lambda: find(http, "jobs", job), "finished", seconds=240)
    lines = http.get(f"/v1/jobs/{job}/curves").json()
    assert [line["step"] for line in lines] == list(range(1, 41))
    server.stop()

    # The same run here, which nothing has cut.
    folder = tmp_path / "uncut"
    unpack(archive, "world.zip", folder / "videos", JobLimits())
    settings = check_settings("train", STEPS, JobLimits())
    train(config_of(settings, str(server.model), folder))
    cut = load_file(Path(server.folder) / "jobs" / job / "run" / "model.safetensors")
    whole = load_file(folder / "run" / "model.safetensors")
    assert cut.keys() == whole.keys()
    assert all((cut[name] == whole[name]).all() for name in cut)


def broken(data, cut):
    """The first half of a body, and what ends it."""
    yield data[: len(data) // 2]
    cut()
    yield data[len(data) // 2 :]
