"""Jobs of the server: a queue, when the process of each is started and stopped, and what they leave.

The processes outlive a server that is killed: the next one finds them, and starts those again that were lost, from the
checkpoint of their run.
"""

import json
import logging
import os
import secrets
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import new_file, write_json
from steadydepth.filter_training.tune import NOTE
from steadydepth.jobs.limits import JobLimits
from steadydepth.jobs.plans import RUN, VIDEOS, check_settings
from steadydepth.jobs.processes import PATIENCE_S, Processes, lock_file
from steadydepth.jobs.store import OVER, Job, Store, Upload
from steadydepth.jobs.unpack import remove
from steadydepth.jobs.uploads import Uploads
from steadydepth.jobs.worker import DOING, OUTCOME, REPORT
from steadydepth.models.filter_gates import WEIGHTS
from steadydepth.models.load import model_files
from steadydepth.training.log import LOG, last_step, read_log

logger = logging.getLogger(__name__)
SERVED = "in_service.json"
CURVES = f"{RUN}/{LOG}"
_TICK_S = 0.3
_MOST_CHECKS = 2  # of uploads at a time: each is a process with torch in it
_MOST_LOSSES = 3  # of a process in a row, without a line of its log between them
_SERVED_AS = "job-"


class Jobs:
    """The jobs of a server, below one folder.

    Args:
        folder: holds the store, the uploads and a folder for each job; one server at a time.
        models: the names under which models are served, and what `load` takes for each.
        limits: of uploads and jobs.

    Raises:
        InputError: another server works in the folder, or its store is of another version.
    """

    def __init__(self, folder: Path, *, models: Callable[[], Mapping[str, str]], limits: JobLimits) -> None:
        self.folder, self.models, self.limits = folder.resolve(), models, limits
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        self._own = lock_file(self.folder / "server.lock")
        if self._own is None:
            raise InputError(f"{folder}: another server works in this folder: stop it, or give another one")
        self.store = Store(self.folder / "server.sqlite")
        self.uploads = Uploads(self.folder / "uploads", self.store, self.limits)
        self.processes = Processes()
        self._asked: dict[str, float] = {}  # jobs that were asked to stop, and when
        self._checks: dict[str, threading.Thread] = {}
        self._ends, self._is_over = threading.Event(), False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    # -- the server's own

    def start(self) -> None:
        """Take up what an earlier server left, and work until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Have the jobs write their checkpoints and end, once; the next server resumes jobs and checks."""
        if self._is_over:
            return
        self._is_over = True
        self._ends.set()
        if self._thread.is_alive():
            self._thread.join()
        self.uploads.stop_checks()
        alive = [job for job in self.store.all(Job) if job.state in ("running", "cancelling")]
        asked: set[str] = set()
        deadline = time.monotonic() + PATIENCE_S
        while (
            alive := [job for job in alive if self.processes.is_alive(self.of(job))]
        ) and time.monotonic() < deadline:
            # One that has just begun can be asked a moment later.
            new = [job for job in alive if job.id not in asked]
            asked |= {job.id for job in new if self.processes.signal(self.of(job), signal.SIGTERM)}
            time.sleep(0.05)
        for thread in list(self._checks.values()):  # each leaves when it ends
            thread.join()
        self.store.close()
        if self._own is not None:
            os.close(self._own)

    def _run(self) -> None:
        last_cleaning = 0.0
        while not self._ends.wait(_TICK_S):
            try:
                if time.monotonic() - last_cleaning > 600:
                    last_cleaning = time.monotonic()
                    self.uploads.delete_stale()
                self.tick()
            except Exception:  # of one job; the others continue, and so does the server
                logger.exception("jobs")

    def tick(self) -> None:
        """One look at everything: what has ended, what is to be stopped, what comes next."""
        for upload in self.store.all(Upload):
            if upload.state == "checking" and upload.id not in self._checks and len(self._checks) < _MOST_CHECKS:
                thread = threading.Thread(target=self._check, args=(upload,), name=f"check {upload.id}")
                self._checks[upload.id] = thread
                thread.start()
        jobs = self.store.all(Job)
        for job in jobs:
            if job.state in ("running", "cancelling"):
                self._look_at(job)
        n_running = sum(job.state in ("running", "cancelling") for job in self.store.all(Job))
        for job in [job for job in jobs if job.state == "queued"][: max(0, self.limits.running - n_running)]:
            if (running := self.store.change(job, state="running", started=time.time(), message="")) is not None:
                self._start(running)

    def _check(self, upload: Upload) -> None:
        try:
            self.uploads.check(upload)
        except OSError as error:  # a full disk, for one
            logger.exception("upload %s cannot be checked", upload.id)
            self.store.change(upload, state="refused", message=f"it could not be checked: {error.strerror}")
        finally:
            del self._checks[upload.id]

    # -- one job

    def submit(
        self, kind: str, *, owner: str, name: str = "", model: str | None = None, uploads: tuple[str, ...] = (),
        settings: Mapping[str, object] | None = None,
    ) -> Job:  # fmt: skip
        """Put a job into the queue.

        Args:
            kind: one of `plans.kinds`.
            owner: who asked for it.
            name: a title; the kind without it.
            model: a served name, or `job:ID` of a finished one, that it starts from.
            uploads: numbers of uploads that are ready.
            settings: keys of `plans.kinds`, for others than their defaults.

        Raises:
            InputError: something of it does not fit, or the queue is full.
        """
        chosen = check_settings(kind, settings or {}, self.limits)
        if model is None:
            raise InputError(f"{kind}: model is missing; there are {', '.join(self.models())}")
        self.resolve(model)
        # A model of a job that is in service is known by that name until the next start alone; its job stays.
        if model in {served_name(job) for job in self.store.all(Job)}:
            model = f"job:{model.removeprefix(_SERVED_AS)}"
        held = [one for id in uploads if (one := self.store.get(Upload, id)) is not None and one.state == "ready"]
        wrong = sorted(set(uploads) - {upload.id for upload in held})
        if wrong or not uploads or len(set(uploads)) != len(uploads):
            named = ", ".join(wrong or uploads) or "none is chosen"
            raise InputError(f"uploads: {named}: {kind} takes one or more that are ready, each once")
        if kind == "train" and (bare := [name for one in held for name in self.uploads.without_depth(one)]):
            raise InputError(
                f"uploads: {', '.join(bare)}: no depth images; train learns from uploads that have them for every "
                "sequence: choose stabilise, which needs none, or upload sequence folders with depth/"
            )
        if sum(job.state not in OVER for job in self.store.all(Job)) >= self.limits.waiting:
            raise InputError(f"{self.limits.waiting} jobs are waiting, the most that may: try again later")
        title = "".join(letter for letter in name if letter.isprintable())[:100].strip() or kind
        job = Job(secrets.token_hex(8), kind, title, owner, time.time(), model, tuple(uploads), chosen)
        folder = self.of(job)
        try:
            (folder / VIDEOS).mkdir(parents=True)
            for upload in held:
                self.uploads.link_sequences(upload, folder / VIDEOS)
            self.store.add(job)
        except BaseException:  # a full disk, for one: no folder stays that no job owns
            remove(folder)
            raise
        return job

    def of(self, job: Job) -> Path:
        """The folder of a job."""
        return self.folder / "jobs" / job.id

    def resolve(self, model: str) -> str:
        """What `load` takes for the name of a model.

        Raises:
            InputError: there is no such model.
        """
        served = self.models()
        if model in served:
            return served[model]
        job = self.store.get(Job, model.removeprefix("job:")) if model.startswith("job:") else None
        if job is None or job.state != "finished" or job.kind == "filter":
            raise InputError(f"{model!r}: no such model; there are {', '.join(served)}, and job:ID of finished jobs")
        return str(self.of(job) / RUN)

    def cancel(self, job: Job) -> Job | None:
        """Ask a job to stop after the step under way; it keeps its checkpoint. None where it is over already."""
        if job.state == "queued":
            return self.store.change(job, state="cancelled", ended=time.time())
        return self.store.change(job, state="cancelling") if job.state == "running" else None

    def resume(self, job: Job) -> Job | None:
        """Put a cancelled or failed job into the queue again: it resumes from its checkpoint. None otherwise.

        Raises:
            InputError: an upload that it works on was deleted meanwhile.
        """
        if job.state not in ("cancelled", "failed"):
            return None
        if any(self.store.get(Upload, id) is None for id in job.uploads):
            raise InputError(f"{job.name}: an upload that it works on was deleted: begin another job")
        return self.store.change(job, state="queued", ended=None, losses=0, message="")

    def delete(self, job: Job) -> None:
        """Delete a job with all that it made.

        Raises:
            InputError: it is not over, or its model is in service.
        """
        if job.state not in OVER:
            raise InputError(f"{job.name}: is {job.state}: cancel it first")
        if (served := self.served()) is not None and served.id == job.id:
            raise InputError(f"{job.name}: its model is in service: put another one there first")
        for other in self.store.all(Job):
            if other.state not in OVER and other.model == f"job:{job.id}":
                raise InputError(f"{job.name}: job {other.name!r} starts from its model: cancel that first")
        self.store.remove(job)
        remove(self.of(job))

    def curves(self, job: Job, after: int = 0) -> list[dict[str, Any]]:
        """The lines of its log after a step: losses, and what guards and validations found; none of a damaged log."""
        path = self.of(job) / CURVES
        try:
            return [line for line in read_log(path) if line["step"] > after] if path.is_file() else []
        except InputError:  # by a power cut; what is wrong with it is the message of the job that resumes it
            return []

    def doing(self, job: Job) -> str:
        """What the process of a running job said last; empty where it said nothing yet, and of other jobs."""
        path = self.of(job) / DOING
        is_running = job.state in ("running", "cancelling") and path.is_file()
        return path.read_text(encoding="utf-8", errors="replace") if is_running else ""

    def report(self, job: Job) -> Path | None:
        """The page of a finished job; None where there is none."""
        path = self.of(job) / REPORT
        return path if path.is_file() else None

    def model_files(self, job: Job) -> dict[str, Path]:
        """The files of the model that a finished job made, by name; none of one that is not finished."""
        if job.state != "finished":
            return {}
        # Of one whose folder was removed by hand there are none.
        run = self.of(job) / RUN
        of_filter = [path for path in (run / WEIGHTS.name, run / NOTE) if path.is_file()]
        return {path.name: path for path in (*model_files(run), *of_filter)}

    def pack_model(self, job: Job) -> Path:
        """A zip of `model_files`, in the folder of the job.

        Raises:
            InputError: the job has made no model.
        """
        path, files = self.of(job) / "model.zip", self.model_files(job)
        if not files:
            raise InputError(f"{job.name}: is {job.state}, and has no model")
        if not path.is_file():
            with new_file(path) as part, zipfile.ZipFile(part, "w") as archive:
                for name, file in files.items():
                    archive.write(file, name)
        return path

    def note_served(self, name: str) -> None:
        """Remember which model is in service, for the next start of the server, where it is that of a job."""
        if not name.startswith(_SERVED_AS):
            (self.folder / SERVED).unlink(missing_ok=True)
            return
        write_json(self.folder / SERVED, name.removeprefix(_SERVED_AS))

    def served(self) -> Job | None:
        """The job whose model was put into service last and is still there; None where there is none."""
        path = self.folder / SERVED
        job = self.store.get(Job, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
        return job if job is not None and self.model_files(job) else None

    # -- processes

    def _start(self, job: Job) -> None:
        try:
            model = self.resolve(job.model or "")
        except InputError as error:  # gone since the job was taken; the others continue
            self.store.change(job, state="failed", ended=time.time(), message=str(error))
            return
        limits = vars(self.limits)
        order = {"kind": job.kind, "name": job.name, "settings": job.settings, "model": model, "limits": limits}
        if self.processes.start(self.of(job), order):
            logger.info("job %s (%s): started", job.id, job.kind)

    def _look_at(self, job: Job) -> None:
        if not self.of(job).is_dir():  # somebody made room by hand; the others continue
            self.store.change(job, state="failed", ended=time.time(), message="its folder on the server is gone")
            return
        if self.processes.is_alive(self.of(job)):
            self._hurry(job)
            return
        self._asked.pop(job.id, None)
        outcome, now = self.of(job) / OUTCOME, time.time()
        found = json.loads(outcome.read_text(encoding="utf-8")) if outcome.is_file() else None
        if found is not None and found["state"] in OVER:
            self.store.change(job, state=found["state"], message=found["message"], ended=now)
            logger.info("job %s: %s %s", job.id, found["state"], found["message"])
        elif job.state == "cancelling":
            self.store.change(job, state="cancelled", ended=now)
        elif found is not None:  # stopped with the server before this one
            self._start(self.store.change(job, started=now) or job)
        else:
            self._start_again(job, now)

    def _hurry(self, job: Job) -> None:
        """Ask a job to stop that is to be cancelled or takes too long, and end it where it does not."""
        is_late = time.time() - (job.started or job.created) > self.limits.job_s
        if is_late and job.state == "running":
            hours = self.limits.job_s / 3600
            job = self.store.change(job, state="cancelling", message=f"took longer than {hours:g} hours") or job
        if job.state != "cancelling":
            return
        if job.id not in self._asked:
            if self.processes.signal(self.of(job), signal.SIGTERM):
                self._asked[job.id] = time.monotonic()
        elif time.monotonic() - self._asked[job.id] > PATIENCE_S:
            self.processes.signal(self.of(job), signal.SIGKILL)

    def _start_again(self, job: Job, now: float) -> None:
        step = last_step(self.of(job) / CURVES)
        losses = 1 if step > job.step else job.losses + 1
        if losses > _MOST_LOSSES:
            message = f"its process was lost {losses} times at step {step}, most likely for want of memory or of disk"
            self.store.change(job, state="failed", ended=now, message=message)
            return
        logger.warning("job %s: its process was lost; it resumes from its checkpoint", job.id)
        if (again := self.store.change(job, losses=losses, step=step)) is not None:
            self._start(again)


def served_name(job: Job) -> str:
    """The name under which what a job made is served."""
    return f"{_SERVED_AS}{job.id}"
