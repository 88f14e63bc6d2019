"""Jobs as a server runs them, without HTTP."""

import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from films import encode
from safetensors.numpy import load_file
from training_server import QUICK, SMALL, make_archive, make_model
from waiting import wait_until

from steadydepth.errors import InputError
from steadydepth.filter_training.tune import tune_filter
from steadydepth.jobs import worker
from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.plans import check_settings, config_of, describe, kinds
from steadydepth.jobs.processes import LOCK, Processes, lock_file
from steadydepth.jobs.queue import Jobs, served_name
from steadydepth.jobs.receive import receive as unpack_and_check
from steadydepth.jobs.store import OVER, Job, Store, Upload
from steadydepth.jobs.unpack import unpack
from steadydepth.jobs.uploads import DATA, PART
from steadydepth.models.temporal_filter import WEIGHTS
from steadydepth.serving.jobs_route import tuned_filters
from steadydepth.serving.tokens import Identity
from steadydepth.synthetic.world import make_world

TRAIN = frozenset({"train"})
# What FFmpeg calls the formats of suffixes, where it is not the suffix.
FORMATS = {
    ".mkv": "matroska", ".m4v": "mp4", ".mpg": "mpeg", ".ts": "mpegts", ".mts": "mpegts", ".m2ts": "mpegts",
    ".ogv": "ogg", ".wmv": "asf",
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    return make_model(root / "model"), make_archive(root).read_bytes()


@pytest.fixture
def jobs(tmp_path, files):
    made = Jobs(tmp_path / "server", models=lambda: {"small": str(files[0])}, limits=QUICK)
    yield made
    for job in made.store.all(Job):
        made.processes.signal(made.of(job), signal.SIGKILL)
    made.stop()


def arrived(jobs, name, data, **more):
    """An upload that is to be checked."""
    upload = jobs.uploads.create(name, len(data), owner="ann", **more)
    file = jobs.uploads.begin_piece(upload)
    file.write(data)
    upload = jobs.uploads.end_piece(upload, file, keep=True)
    assert upload.state == "checking"
    return upload


def receive(jobs, name, data, **more):
    """An upload that has arrived, and was checked."""
    return jobs.uploads.check(arrived(jobs, name, data, **more))


def states(jobs):
    return [upload.state for upload in jobs.store.all(Upload)]


def ready(jobs, files, archive=None):
    """An upload as if it had been received and checked."""
    upload = Upload("0123456789abcdef", "world.zip", len(files[1]), None, "ann", time.time(), state="ready")
    unpack(Path(archive or files[0].parent / "world.zip"), "world.zip", jobs.uploads.of(upload) / DATA, QUICK)
    jobs.store.add(upload)
    return upload


def run_until(jobs, job, *states, look=lambda job: True, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        jobs.tick()
        job = jobs.store.get(Job, job.id)
        if job.state in states and look(job):
            return job
        assert job.state not in OVER or job.state in states, job
        time.sleep(0.03)
    raise AssertionError(job)


def weights(jobs, job):
    return load_file(jobs.of(job) / "run" / "model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all((one[name] == other[name]).all() for name in one)


def test_a_job_that_is_killed_and_cancelled_ends_as_one_that_never_was(jobs, files):
    upload = receive(jobs, "world.zip", files[1])
    assert (upload.state, upload.sequences) == ("ready", ("fixed_000003", "moving_000004"))
    order = {"owner": "ann", "model": "small", "uploads": (upload.id,), "settings": SMALL}
    plain = run_until(jobs, jobs.submit("train", name="plain", **order), "finished")

    job = jobs.submit("train", name="cut", **order)
    run_until(jobs, job, "running", look=lambda job: len(jobs.curves(job)) >= 2)
    assert jobs.processes.signal(jobs.of(job), signal.SIGKILL)
    job = run_until(jobs, job, "running", look=lambda job: job.losses == 1)
    run_until(jobs, job, "running", look=lambda job: (jobs.of(job) / "pid").is_file() and len(jobs.curves(job)) >= 3)
    assert jobs.cancel(jobs.store.get(Job, job.id)).state == "cancelling"
    job = run_until(jobs, job, "cancelled", "finished")
    if job.state == "cancelled":  # or it was too quick
        assert jobs.model_files(job) == {}
        assert jobs.resume(job).state == "queued"
        job = run_until(jobs, job, "finished")

    gone = replace(job, state="cancelled", uploads=(upload.id, "gone"))
    with pytest.raises(InputError, match="an upload that it works on was deleted: begin another job"):
        jobs.resume(gone)
    assert same(weights(jobs, plain), weights(jobs, job))
    assert not same(weights(jobs, plain), load_file(files[0] / "model.safetensors"))
    steps = [line["step"] for line in jobs.curves(job)]
    assert steps == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in jobs.curves(job, after=4)] == [5, 6]
    assert sorted(jobs.model_files(job)) == ["config.json", "model.safetensors"]
    page = jobs.report(job).read_text(encoding="utf-8")
    assert "flicker_flow" in page
    assert str(jobs.folder) not in page

    assert jobs.store.change(job, ended=None)
    with pytest.raises(InputError, match="cancel and delete"):
        jobs.uploads.delete(upload)


def test_an_order_keeps_the_job_of_a_model_that_was_in_service_then(jobs, files):
    made = Job("aa", "train", "kitchen", "ann", 1.0, "small", state="finished", ended=2.0)
    jobs.store.add(made)
    shutil.copytree(files[0], jobs.of(made) / "run")
    known, jobs.models = jobs.models, lambda: {**known(), served_name(made): str(jobs.of(made) / "run")}
    job = jobs.submit("train", owner="bob", model="job-aa", uploads=(ready(jobs, files).id,))
    jobs.models = known  # the next start, with another model in service
    assert jobs.resolve(job.model) == str(jobs.of(made) / "run")
    with pytest.raises(InputError, match="no such model"):
        jobs.resolve("job-aa")


def test_a_job_whose_model_another_one_starts_from_stays_until_that_is_over(jobs, files):
    made = Job("aa", "train", "kitchen", "ann", 1.0, "small", state="finished", ended=2.0)
    jobs.store.add(made)
    shutil.copytree(files[0], jobs.of(made) / "run")
    order = {"owner": "ann", "uploads": (ready(jobs, files).id,)}
    next_one = jobs.submit("train", model="job:aa", name="hall", **order)
    with pytest.raises(InputError, match="'hall' starts from its model"):
        jobs.delete(made)
    # A model that is gone all the same fails its job, with the reason, and no other one.
    other = jobs.submit("train", model="small", settings={**SMALL, "optim.steps": 3}, **order)
    shutil.rmtree(jobs.of(made))
    jobs.store.remove(made)
    jobs.tick()
    failed = jobs.store.get(Job, next_one.id)
    assert failed.state == "failed"
    assert "no such model" in failed.message
    run_until(jobs, other, "finished")


def test_another_model_in_service_frees_the_job_of_the_one_before(jobs, files):
    made = Job("aa", "train", "kitchen", "ann", 1.0, "small", state="finished", ended=2.0)
    jobs.store.add(made)
    shutil.copytree(files[0], jobs.of(made) / "run")
    jobs.note_served(served_name(made))
    assert jobs.served().id == "aa"
    jobs.note_served("small")
    assert jobs.served() is None
    jobs.delete(made)


def test_a_job_outlives_a_server_that_is_gone_and_the_next_one_finds_it(tmp_path, files):
    def models():
        return {"small": str(files[0])}

    first = Jobs(tmp_path, models=models, limits=QUICK)
    upload = ready(first, files)
    settings = {**SMALL, "optim.steps": 12}
    job = first.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=settings)
    run_until(first, job, "running", look=first.curves)
    with pytest.raises(InputError, match="another server works in this folder"):
        Jobs(tmp_path, models=models, limits=QUICK)
    pid = int((first.of(job) / "pid").read_text(encoding="utf-8"))
    os.close(first._own)  # all that is left of a killed server: nothing
    first.store.close()

    second = Jobs(tmp_path, models=models, limits=QUICK)
    assert second.processes.is_alive(second.of(job))
    job = run_until(second, job, "finished")
    assert (
        first.processes.children.pop(first.of(job)).wait(10) == 0
    )  # a killed server is no parent any more; this one still is
    assert job.losses == 0
    assert int((second.of(job) / "pid").read_text(encoding="utf-8")) == pid
    assert second.resolve(f"job:{job.id}") == str(second.of(job) / "run")
    second.note_served(served_name(job))
    with pytest.raises(InputError, match="its model is in service"):
        second.delete(job)
    (second.folder / "in_service.json").unlink()
    second.delete(job)
    assert not second.of(job).exists()
    second.stop()


def test_a_model_is_stabilised_on_videos_without_labels(jobs, files):
    upload = ready(jobs, files)
    for depth in (jobs.uploads.of(upload) / DATA).glob("*/depth"):
        shutil.rmtree(depth)
    order = {"owner": "ann", "model": "small", "uploads": (upload.id,)}
    job = run_until(jobs, jobs.submit("stabilise", settings={"steps": 6, "max_side": 64}, **order), "finished")
    assert "flicker" in job.message
    assert "flicker_flow" in jobs.report(job).read_text(encoding="utf-8")
    assert not same(weights(jobs, job), load_file(files[0] / "model.safetensors"))


def test_a_server_that_stops_has_its_jobs_write_their_checkpoints(tmp_path, files):
    jobs = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    upload = ready(jobs, files)
    settings = {**SMALL, "optim.steps": 3000}
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=settings)
    run_until(jobs, job, "running", look=jobs.curves)
    jobs.stop()
    assert json.loads((jobs.of(job) / "outcome.json").read_text(encoding="utf-8"))["state"] == "stopped"
    assert (jobs.of(job) / "run" / "checkpoint.pt").is_file()

    after = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    job = after.store.get(Job, job.id)
    assert job.state == "running"
    job = run_until(after, job, "running", look=lambda job: after.processes.is_alive(after.of(job)))
    assert after.cancel(job).state == "cancelling"
    assert run_until(after, job, "cancelled").losses == 0
    after.stop()


def test_a_job_that_has_just_begun_stops_with_the_server_and_is_not_lost_by_it(tmp_path, files):
    jobs = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    upload = ready(jobs, files)
    settings = {**SMALL, "optim.steps": 3000}
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=settings)
    for _ in range(2):
        jobs.tick()
        process = jobs.processes.children[jobs.of(job)]
        jobs.stop()
        assert process.poll() == 0
        assert json.loads((jobs.of(job) / "outcome.json").read_text(encoding="utf-8"))["state"] == "stopped"
        jobs = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    assert jobs.store.get(Job, job.id).losses == 0
    jobs.stop()


def test_a_request_to_stop_that_an_import_swallows_comes_again(monkeypatch):
    monkeypatch.setattr(worker, "AGAIN_S", 0.2)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGALRM)}
    try:
        worker._hear_requests()
        with suppress(BaseException):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(worker._Stopped):
            time.sleep(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_running_job_says_what_it_does_without_paths(jobs, files):
    upload = ready(jobs, files)
    settings = {**SMALL, "optim.steps": 3000}
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=settings)
    assert jobs.doing(job) == ""
    job = run_until(jobs, job, "running", look=lambda job: jobs.doing(job).startswith("step "))
    jobs.cancel(job)
    job = run_until(jobs, job, "cancelled")
    assert jobs.doing(job) == ""


def test_a_job_whose_folder_is_gone_fails_and_the_next_one_begins(jobs, files):
    upload = ready(jobs, files)
    jobs.store.add(Job("aa", "train", "kitchen", "ann", 1.0, "small", state="running"))
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=SMALL)
    jobs.tick()
    gone = jobs.store.get(Job, "aa")
    assert (gone.state, gone.message) == ("failed", "its folder on the server is gone")
    assert jobs.store.get(Job, job.id).state == "running"
    jobs.store.add(Job("bb", "filter", "kitchen", "ann", 1.0, "small", state="finished"))
    assert tuned_filters(jobs, Identity("ann", frozenset({"train"}))) == {}


def test_a_process_that_is_always_lost_fails_the_job(jobs, files, monkeypatch):
    upload = ready(jobs, files)
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=SMALL)
    monkeypatch.setattr("sys.executable", shutil.which("false"))
    job = run_until(jobs, job, "failed")
    assert "its process was lost 4 times at step 0" in job.message


def test_what_a_job_cannot_do_is_its_message_without_paths(jobs, files):
    upload = ready(jobs, files)
    # No clip of seventeen frames is in a sequence of six.
    settings = {**SMALL, "data.clip_length": 16}
    job = jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=settings)
    job = run_until(jobs, job, "failed")
    assert "videos" in job.message or "clip" in job.message
    assert str(jobs.folder) not in job.message


def test_a_job_for_which_the_disk_has_no_room_says_so(tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run"))

    monkeypatch.setattr(worker, "_hear_requests", full)  # the first of what it does
    message = "No space left on device; the log of the job has it"
    assert worker._outcome(tmp_path) == {"state": "failed", "message": message}


def test_a_session_of_its_own_gives_way_as_a_whole():
    read = "open('/proc/self/autogroup').read().split()[-1:]"
    code = f"from steadydepth.jobs.limits import give_way; before = {read}; give_way(7); print(before, {read})"

    def niceness(**more):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **more)
        return [word.strip("'") for word in done.stdout.strip()[1:-1].split("] [")]

    # The file is empty for a process that the kernel has in no such group, as in many containers and on servers.
    if not Path("/proc/self/autogroup").is_file() or niceness(start_new_session=True)[0] != "0":
        pytest.skip("needs a Linux that shares the processor out among sessions")
    assert niceness(start_new_session=True) == ["0", "7"]
    before, after = niceness()
    assert before == after  # that of this process, and of whoever started it, is not touched


def test_checks_that_a_server_has_begun_are_begun_anew_by_the_next_one(tmp_path, files):
    jobs = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    for name in "abc":
        arrived(jobs, f"{name}.zip", files[1])
    jobs.tick()
    wait_until(lambda: len(jobs.uploads._checks) == 2)
    jobs.tick()
    assert len(jobs._checks) == 2  # at a time, however many arrive
    processes = list(jobs.uploads._checks.values())
    assert {os.getsid(each.pid) for each in processes} == {each.pid for each in processes}  # Ctrl-C is none for them
    jobs.stop()
    assert all(each.poll() == -signal.SIGKILL for each in processes)

    after = Jobs(tmp_path, models=lambda: {"small": str(files[0])}, limits=QUICK)
    assert states(after) == ["checking"] * 3
    first = after.store.all(Upload)[0]
    orphan = lock_file(after.uploads.of(first) / LOCK)  # what a server that was killed has left at work
    assert after.uploads.check(first) is None
    assert states(after) == ["checking"] * 3
    os.close(orphan)
    wait_until(lambda: after.tick() or states(after) == ["ready"] * 3)
    after.stop()


def test_what_uploads_take_is_counted_while_others_are_deleted(jobs, monkeypatch):
    for number in range(2):
        folder = jobs.uploads.folder / str(number) / "data"
        folder.mkdir(parents=True)
        (folder / "film.mp4").write_bytes(bytes(10))
    walk = os.walk

    def deleting(top):
        for folder, names, files in walk(top):
            if files and (gone := jobs.uploads.folder / "1").exists():
                shutil.rmtree(gone)
            yield folder, names, files

    monkeypatch.setattr(os, "walk", deleting)
    assert jobs.uploads.used_bytes() in (0, 10)


def test_an_upload_that_is_deleted_is_checked_no_further(jobs, files):
    upload = arrived(jobs, "world.zip", files[1])
    jobs.tick()
    wait_until(lambda: upload.id in jobs.uploads._checks)
    process = jobs.uploads._checks[upload.id]
    jobs.uploads.delete(upload)
    assert process.poll() == -signal.SIGKILL
    wait_until(lambda: not jobs._checks)
    assert states(jobs) == []
    assert list(jobs.uploads.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        *((f"clip{suffix}", "mpeg4") for suffix in (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".3gp")),
        *((f"clip{suffix}", "mpeg2video") for suffix in (".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".mxf")),
        *(("clip.webm", "libvpx"), ("clip.ogv", "libtheora"), ("clip.wmv", "wmv2"), ("clip.flv", "flv")),
    ],
)
def test_videos_of_every_kind_that_is_read_may_be_sent(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg writes no {codec}")
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), np.uint8)
    suffix = Path(name).suffix
    encode(tmp_path / PART, noise, codec=codec, format=FORMATS.get(suffix, suffix[1:]))
    size = (tmp_path / PART).stat().st_size
    assert unpack_and_check(tmp_path, name, size, None, JobLimits()) == ["clip"]


def test_jobs_wait_for_their_turn_and_leave_the_queue(jobs, files, monkeypatch):
    upload = ready(jobs, files)
    started = []
    monkeypatch.setattr(jobs, "_start", started.append)
    monkeypatch.setattr(jobs.processes, "is_alive", lambda folder: True)
    order = {"owner": "ann", "model": "small", "uploads": (upload.id,), "settings": SMALL}
    first, second, third = (jobs.submit("train", name=name, **order) for name in ("one", "two", "three"))
    jobs.tick()
    jobs.tick()
    assert [job.id for job in started] == [first.id]
    assert jobs.cancel(second).state == "cancelled"
    assert jobs.cancel(jobs.store.get(Job, second.id)) is None
    jobs.store.change(jobs.store.get(Job, first.id), state="finished")
    jobs.tick()
    assert [job.id for job in started] == [first.id, third.id]
    jobs.store.change(jobs.store.get(Job, third.id), state="finished")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "search"}, "no kind of job; there are stabilise, train, filter"),
        ({"model": None}, "model is missing; there are small"),
        ({"model": "/etc"}, "no such model; there are small"),
        ({"model": "job:../../x"}, "no such model"),
        ({"uploads": ()}, "uploads: none is chosen: train takes one or more that are ready"),
        ({"uploads": ("../..",)}, "train takes one or more that are ready"),
        ({"kind": "filter", "uploads": ()}, "filter takes one or more that are ready"),
    ],
)
def test_an_order_that_does_not_fit_is_refused(jobs, change, words):
    order = {"kind": "train", "owner": "ann", "model": "small", "uploads": ("none",)} | change
    with pytest.raises(InputError, match=words):
        jobs.submit(order.pop("kind"), **order)


def test_a_job_that_the_full_disk_refuses_leaves_no_folder(jobs, files, monkeypatch):
    def full(_):
        raise sqlite3.OperationalError("database or disk is full")

    upload = ready(jobs, files)
    monkeypatch.setattr(jobs.store, "add", full)
    with pytest.raises(sqlite3.OperationalError, match="full"):
        jobs.submit("train", owner="ann", model="small", uploads=(upload.id,), settings=SMALL)
    assert list((jobs.folder / "jobs").iterdir()) == []
    assert jobs.uploads.of(upload).is_dir()  # to which the folder had links


def test_training_on_what_has_no_depth_is_refused_when_it_is_asked_for(jobs, files):
    upload = ready(jobs, files)
    order = {"owner": "ann", "model": "small", "settings": SMALL}
    assert jobs.submit("train", uploads=(upload.id,), **order).state == "queued"
    film = Upload("fedcba9876543210", "walk.mp4", 9, None, "ann", time.time(), state="ready")
    (jobs.uploads.of(film) / DATA).mkdir(parents=True)
    (jobs.uploads.of(film) / DATA / "walk.mp4").write_bytes(b"any video")
    jobs.store.add(film)
    with pytest.raises(InputError, match=r"uploads: walk\.mp4: no depth images; .*stabilise, which needs none"):
        jobs.submit("train", uploads=(upload.id, film.id), **order)
    assert jobs.submit("stabilise", owner="ann", model="small", uploads=(film.id,)).state == "queued"
    assert len(jobs.store.all(Job)) == 2


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("data.root", "/etc", "may not be set"),
        ("run.folder", "/elsewhere", "may not be set"),
        ("run.tracker", "wandb", "may not be set"),
        ("model.init", "os:getcwd", "may not be set"),
        ("model.weights", "/etc/passwd", "may not be set"),
        ("optim.steps", 10**9, "a whole number from 1 to 20000"),
        ("optim.steps", 2.5, "a whole number"),
        ("optim.steps", True, "a whole number"),
        ("optim.learning_rate", float("nan"), "a number from"),
        ("optim.learning_rate", "3e-4", "a number from"),
        ("data.motion", "/etc", "choose one of none, flow, dis"),
    ],
)
def test_only_safe_keys_within_bounds_are_taken(key, value, words):
    with pytest.raises(InputError, match=words):
        check_settings("train", {key: value}, JobLimits())


def test_every_setting_reaches_the_config(tmp_path):
    limits = JobLimits()
    changed = {
        each.key: each.choices[-1] if each.choices else each.least if each.least else each.most
        for each in kinds(limits)["train"].settings
    }
    config = config_of(check_settings("train", changed, limits), "model", tmp_path)
    for key, value in changed.items():
        section, name = key.split(".")
        assert getattr(getattr(config, section), name) == value
    assert config.data.root == tmp_path / "videos"
    assert config.run.folder == tmp_path / "run"
    shown = {each["key"]: each for each in describe(limits)["train"]["settings"]}
    assert shown["optim.steps"]["is_whole"]
    assert not shown["optim.learning_rate"]["is_whole"]


def test_the_store_keeps_what_it_is_told(tmp_path):
    store = Store(tmp_path / "store.sqlite")
    job = Job("a1", "train", "Küche 'x'; --", "ann", 5.0, "small", ("u1", "u2"), {"optim.steps": 3, "x": "y"})
    upload = Upload("u1", "clip.mp4", 10, None, "ann", 4.0)
    store.add(job)
    store.add(upload)
    assert store.change(job, state="running", started=6.5).state == "running"
    assert store.change(job, state="cancelled") is None  # it is queued no longer
    store.change(upload, sequences=("one", "two"), received=10)
    store.close()
    again = Store(tmp_path / "store.sqlite")
    kept = again.get(Job, "a1")
    assert (kept.name, kept.uploads, kept.settings) == (job.name, job.uploads, job.settings)
    assert (kept.state, kept.started) == ("running", 6.5)
    assert again.get(Upload, "u1").sequences == ("one", "two")
    assert [each.id for each in again.all(Job)] == ["a1"]
    again.remove(kept)
    assert again.get(Job, "a1") is None
    again.close()


def test_a_store_of_another_version_or_of_none_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "other.sqlite") as other:
        other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(InputError, match="another version"):
        Store(tmp_path / "other.sqlite")
    (tmp_path / "none.sqlite").write_bytes(b"x" * 5000)
    with pytest.raises(InputError, match="no store of the server"):
        Store(tmp_path / "none.sqlite")


def test_the_check_of_an_upload_keeps_a_limit_that_is_lower_already():
    code = (
        "import resource\n"
        "from steadydepth.jobs.receive import _limit\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (100, 200))\n"
        "_limit(resource.RLIMIT_CPU, 600, 605)\n"
        "print(resource.getrlimit(resource.RLIMIT_CPU))\n"
        "_limit(resource.RLIMIT_CPU, 50, 55)\n"
        "print(resource.getrlimit(resource.RLIMIT_CPU))\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "(100, 200)\n(50, 55)\n"


def test_a_lock_is_of_one_at_a_time(tmp_path):
    first = lock_file(tmp_path / LOCK)
    assert first is not None
    assert lock_file(tmp_path / LOCK) is None
    os.close(first)
    second = lock_file(tmp_path / LOCK)
    assert second is not None
    os.close(second)


@pytest.mark.parametrize(
    ("kind", "of_model"),
    [
        ("train", ["config.json", "model-00001-of-00002.safetensors", "preprocessor_config.json", "steadydepth.json"]),
        ("filter", [WEIGHTS.name, "tuning.json"]),
    ],
)
def test_a_model_is_packed_by_what_is_its_own(jobs, kind, of_model):
    """What else lies in the folder of a run shows what it was trained on, or is of whoever worked there."""
    job = Job("aa", kind, "kitchen", "ann", 1.0, "small", state="finished", ended=2.0)
    run = jobs.of(job) / "run"
    run.mkdir(parents=True)
    others = ["config.yaml", "metrics.json", "README.md", "checkpoint.pt", "notes.txt", "verify.json", ".lock", "a.mp4"]
    for name in (*of_model, *others):
        (run / name).write_text("x", encoding="utf-8")
    assert sorted(jobs.model_files(job)) == sorted(of_model)
    with zipfile.ZipFile(jobs.pack_model(job)) as archive:
        assert sorted(archive.namelist()) == sorted(of_model)


def test_the_filter_is_tuned_to_a_model_and_videos(jobs, files, tmp_path):
    make_world(tmp_path / "longer", n_clips=1, seed=5, n_frames=40, height=48, width=64, workers=1)
    archive = shutil.make_archive(str(tmp_path / "longer"), "zip", tmp_path / "longer")
    upload = ready(jobs, files, archive)
    order = {"owner": "ann", "model": "small", "uploads": (upload.id,), "settings": {"batches": 3}}
    job = jobs.submit("filter", **order)
    run_until(jobs, job, "running", look=jobs.curves, seconds=240)
    assert jobs.processes.signal(jobs.of(job), signal.SIGKILL)
    job = run_until(jobs, job, "finished", seconds=240)
    assert (job.losses, [line["step"] for line in jobs.curves(job)]) == (1, [1, 2, 3])
    assert "better: error" in job.message or "unchanged: error" in job.message
    assert set(jobs.model_files(job)) == {WEIGHTS.name, "tuning.json"}
    tuned = load_file(jobs.model_files(job)[WEIGHTS.name])
    assert tuned.keys() == load_file(WEIGHTS).keys()
    with pytest.raises(InputError, match="no such model"):
        jobs.resolve(f"job:{job.id}")
    ann, ben, chief = (Identity(*each) for each in (("ann", TRAIN), ("ben", TRAIN), ("chief", frozenset({"admin"}))))
    assert tuned_filters(jobs, ann) == tuned_filters(jobs, chief) == {f"job-{job.id}": jobs.of(job) / "run"}
    assert tuned_filters(jobs, ben) == {}
    plain = tune_filter(jobs.of(job) / "videos", model=str(files[0]), out=tmp_path / "plain", batches=3)
    assert f"error {plain.scores['error'][0]:.3f} to {plain.scores['error'][1]:.3f}" in job.message
    assert same(tuned, load_file(tmp_path / "plain" / WEIGHTS.name))


def test_a_damaged_log_of_one_job_holds_up_no_other(jobs):
    """A power cut leaves lines of zeros; the server looked at no job after that one, and the page showed none."""
    for number, log in (("aa", b"\0" * 40 + b"\n"), ("bb", b'{"step": 4}\n')):
        job = Job(number, "train", number, "ann", 1.0, "gone", state="running", started=2.0)
        (jobs.of(job) / "run").mkdir(parents=True)
        (jobs.of(job) / "run" / "metrics.jsonl").write_bytes(log)
        jobs.store.add(job)
    jobs.tick()
    assert [(job.losses, job.step) for job in jobs.store.all(Job)] == [(1, 0), (1, 4)]
    assert [jobs.curves(job) for job in jobs.store.all(Job)] == [[], [{"step": 4}]]
    assert [job.state for job in jobs.store.all(Job)] == ["failed", "failed"]  # for their model is gone


def test_a_process_that_cannot_be_started_leaves_no_lock(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    processes = Processes()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        processes.start(tmp_path, {"limits": {"threads": 1}})
    assert not processes.is_alive(tmp_path)


def test_a_process_that_let_go_of_its_lock_is_waited_for(jobs):
    job = Job("cc", "train", "kitchen", "ann", 1.0, "small", state="running")
    jobs.of(job).mkdir(parents=True)
    # Its lock is free, and it ends a moment later.
    ending = jobs.processes.children[jobs.of(job)] = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(0.5)"]
    )
    assert not jobs.processes.is_alive(jobs.of(job))
    assert ending.returncode == 0
    assert jobs.of(job) not in jobs.processes.children
