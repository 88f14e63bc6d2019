"""The process of one job: `python -m steadydepth.jobs.worker FOLDER`.

It writes outcome.json when it ends by itself. One that was killed leaves none, and the same command resumes from the
checkpoint of its run.
"""

import json
import logging
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from steadydepth.errors import InputError
from steadydepth.files.atomic_writes import write_json
from steadydepth.jobs.limits import JobLimits, give_way
from steadydepth.jobs.unpack import remove
from steadydepth.ops.buffers import keep_buffers

ORDER, OUTCOME, PID, LOG_FILE = "order.json", "outcome.json", "pid", "log.txt"
DOING = "doing.txt"  # what was logged last
REPORT = "report.html"
AGAIN_S = 10.0  # longer than it takes to end what is under way
logger = logging.getLogger("steadydepth.jobs.worker")  # this file is run as __main__


def main(folder: Path) -> None:
    """Do what order.json asks for."""
    outcome = {"state": "stopped", "message": ""}
    with suppress(_Stopped):  # from the first moment on
        outcome = _outcome(folder)
    # It ends by itself now.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    write_json(folder / OUTCOME, outcome)


def _outcome(folder: Path) -> dict[str, str]:
    """What came of it: its state, and a message for the client."""
    try:
        _hear_requests()
        (folder / PID).write_text(str(os.getpid()), encoding="utf-8")
        order = json.loads((folder / ORDER).read_text(encoding="utf-8"))
        limits = JobLimits(**order["limits"])
        give_way(limits.niceness)
        keep_buffers()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        logging.getLogger("steadydepth").addHandler(_Doing(folder))
        done = _work(order, folder, limits)
        return {"state": "stopped", "message": ""} if done is None else {"state": "finished", "message": done}
    except InputError as error:
        return {"state": "failed", "message": without_paths(str(error), folder)}
    except Exception as error:  # whatever it is, it must not be started again
        logger.exception("failed")
        why = getattr(error, "strerror", None) or "an error inside"  # the first of a full disk, for one
        return {"state": "failed", "message": f"{why}; the log of the job has it"}


class _Stopped(BaseException):
    """SIGTERM came."""


def _hear_requests() -> None:
    """Raise `_Stopped` for SIGTERM; a training asks itself, between its steps.

    Libraries that are being imported swallow exceptions, and the server asks once: a request comes again by itself
    for as long as the process is there. To leave without an exception would leave processes of a pool behind.
    """

    def stop(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        raise _Stopped

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    signal.signal(signal.SIGTERM, stop)


class _Doing(logging.Handler):
    """Keeps what was logged last for the server: minutes may pass before a first step, and after the last."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def emit(self, record: logging.LogRecord) -> None:
        text = without_paths(record.getMessage(), self.folder).removeprefix("run: ")  # most lines begin so
        with suppress(OSError):  # of a full disk the work itself complains
            part = self.folder / f".{DOING}"
            part.write_text(text, encoding="utf-8")
            part.replace(self.folder / DOING)


def without_paths(text: str, folder: Path) -> str:
    """An error as a client may see it: names of its files, not where they lie."""
    for root in (folder.resolve(), folder, folder.resolve().parent.parent, folder.parent.parent):
        text = text.replace(f"{root}/", "")
    return text


def _work(order: dict[str, Any], folder: Path, limits: JobLimits) -> str | None:
    """Train, measure and write the report; what came of it, None where it was asked to stop before its end."""
    import torch

    from steadydepth.jobs.plans import RUN, config_of

    torch.set_num_threads(limits.threads)
    if order["kind"] == "filter":
        return _tune_filter(order, folder)
    if order["kind"] == "stabilise":
        return _stabilise(order, folder)

    from steadydepth.training.checkpoint import CARD
    from steadydepth.training.loop import train

    train(config_of(order["settings"], order["model"], folder))
    return _report(order, folder) if (folder / RUN / CARD).is_file() else None


def _tune_filter(order: dict[str, Any], folder: Path) -> str | None:
    from steadydepth.filter_training.tune import NOTE, tune_filter
    from steadydepth.jobs.plans import RUN, VIDEOS

    if (folder / RUN / NOTE).is_file():  # of an earlier start that was interrupted between writing it and saying so
        remove(folder / RUN)
    found = tune_filter(folder / VIDEOS, model=order["model"], out=folder / RUN, **order["settings"])
    if found is None:
        return None
    scores = ", ".join(f"{name} {before:.3f} to {after:.3f}" for name, (before, after) in found.scores.items())
    verdict = "better" if found.is_better else "no better, so the filter is unchanged"
    return f"{verdict}: {scores}"


def _stabilise(order: dict[str, Any], folder: Path) -> str | None:
    from steadydepth.jobs.plans import RUN, VIDEOS
    from steadydepth.reports.report import write_report
    from steadydepth.training.label_free.stabilise import stabilise

    found = stabilise(folder / VIDEOS, model=order["model"], out=folder / RUN, **order["settings"])
    if found is None:
        return None
    _keep_page(write_report([folder / RUN], folder / f".{REPORT}", title=order["name"]), folder)
    return found.verdict


def _report(order: dict[str, Any], folder: Path) -> str:
    """Measure the model before and after on the sequences of the job, and write the page of both; a line of that."""
    from steadydepth.evaluation.evaluate import evaluate
    from steadydepth.evaluation.stored_report import read_report
    from steadydepth.inference.predictor import load
    from steadydepth.jobs.plans import RUN, VIDEOS
    from steadydepth.reports.report import write_report

    model, before, data = order["model"], folder / "before", folder / VIDEOS
    for name, out in ((model, before), (str(folder / RUN), folder / RUN)):
        if not (out / "metrics.json").is_file():
            logger.info("measuring the %s model", "starting" if out is before else "trained")
            evaluate(load(name), data, out=out, controls=False, model_name=name, reference=load(model))
    _keep_page(write_report([before, folder / RUN], folder / f".{REPORT}", title=order["name"]), folder)
    means = [read_report(out)["mean"] for out in (before, folder / RUN)]
    shown = {"flicker_flow": "flicker along the flow {:.2f} to {:.2f} %", "abs_rel": "abs_rel {:.3f} to {:.3f}"}
    found = {name: [mean.get(name) for mean in means] for name in shown}
    changes = [shown[name].format(*pair) for name, pair in found.items() if None not in pair]
    return f"on its own videos: {', '.join(changes)}" if changes else ""


def _keep_page(page: Path, folder: Path) -> None:
    """Put a report in its place, without paths of the server."""
    page.write_text(without_paths(page.read_text(encoding="utf-8"), folder), encoding="utf-8")
    page.rename(folder / REPORT)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
