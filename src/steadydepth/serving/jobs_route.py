"""Jobs over HTTP: what they are, their state, and what they made."""

import hmac
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from steadydepth.errors import InputError
from steadydepth.jobs.plans import RUN, describe
from steadydepth.jobs.queue import Jobs, served_name
from steadydepth.jobs.store import Job, Upload
from steadydepth.serving.access import requires
from steadydepth.serving.models import Models
from steadydepth.serving.owned import Id, Who, conflicts, find, is_of
from steadydepth.serving.tokens import Identity

logger = logging.getLogger(__name__)
# The page of a job is ours, and what it shows comes from strangers: no script, nothing from anywhere.
_REPORT_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; sandbox"
_TICKET_S = 300.0

# With a limit it is looked at: JSON can say letters that are none, which neither the store nor an answer holds.
Text = Annotated[str, Field(max_length=200)]
Admin = Annotated[Identity, requires("admin")]


class Order(BaseModel):
    """A job that is asked for."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "kind": "stabilise", "name": "kitchen", "model": "steady", "uploads": ["6b0ee9c1b1f0a1d2"],
                "settings": {"steps": 200},
            }
        },
    )  # fmt: skip

    kind: Text = Field(description="one of GET /v1/jobs/kinds")
    name: str = Field("", max_length=100, description="a title")
    model: str | None = Field(None, max_length=200, description="a served model, or job:ID of a finished job")
    uploads: list[Text] = Field([], max_length=100, description="numbers of uploads that are ready")
    settings: dict[Text, int | float | Text] = Field({}, max_length=50, description="keys of the kind")


def jobs_router(jobs: Jobs, models: Models) -> APIRouter:
    """The routes of jobs, whose models are put into service in `models`."""
    router = APIRouter(prefix="/v1", tags=["training"])
    _add_jobs(router, jobs, models)
    _add_results(router, jobs, models)
    return router


def put_back(jobs: Jobs, models: Models) -> None:
    """Put that model of a job into service that was when the server before this ended.

    Those of other jobs stay with their owners: what a server knows by name is listed to every token.
    """
    served = jobs.served()
    if served is not None:
        models.add(served_name(served), jobs.resolve(f"job:{served.id}"))
        try:
            models.put_into_service(served_name(served))
        except InputError:
            logger.exception("the model of job %s cannot be put into service again", served.id)


def tuned_filters(jobs: Jobs, who: Identity) -> dict[str, Path]:
    """The filters of their finished jobs, by the names under which their streams choose them."""
    return {
        served_name(job): jobs.of(job) / RUN
        for job in jobs.store.all(Job)
        if job.kind == "filter" and is_of(job, who) and jobs.model_files(job)
    }


def _add_jobs(router: APIRouter, jobs: Jobs, models: Models) -> None:
    @router.get("/jobs/kinds")
    def list_kinds(who: Who) -> dict[str, Any]:
        """What jobs there are, and which keys each lets a client set, within which bounds."""
        return describe(jobs.limits)

    @router.post("/jobs", status_code=201)
    def create_job(order: Order, who: Who) -> dict[str, Any]:
        """Put a job into the queue."""
        # What others own does not exist for who asks.
        for id in order.uploads:
            find(jobs, Upload, id, who)
        if order.model is not None and order.model.startswith("job:"):
            find(jobs, Job, order.model.removeprefix("job:"), who)
        job = jobs.submit(
            order.kind, owner=who.name, name=order.name, model=order.model, uploads=tuple(order.uploads),
            settings=order.settings,
        )  # fmt: skip
        return asdict(job)

    @router.get("/jobs")
    def list_jobs(who: Who) -> list[dict[str, Any]]:
        """Jobs, the oldest first."""
        return [asdict(each) | {"doing": jobs.doing(each)} for each in jobs.store.all(Job) if is_of(each, who)]

    @router.get("/jobs/{id}")
    def show_job(id: Id, who: Who) -> dict[str, Any]:
        """One job, and the files that it has for you."""
        job = find(jobs, Job, id, who)
        made = {"has_report": jobs.report(job) is not None, "model_files": list(jobs.model_files(job))}
        return asdict(job) | {"doing": jobs.doing(job)} | made

    @router.get("/jobs/{id}/curves")
    def show_curves(id: Id, who: Who, after: Annotated[int, Query(ge=0)] = 0) -> list[dict[str, Any]]:
        """Lines of its log after a step: ask again with the last step that you have."""
        return jobs.curves(find(jobs, Job, id, who), after)

    def change(path: str, act: Callable[[Job], Job | None]) -> None:
        def changed(id: Id, who: Who) -> dict[str, Any]:
            job = find(jobs, Job, id, who)
            after = act(job)
            if after is None:
                raise HTTPException(409, f"the job is {job.state}")
            return asdict(after)

        changed.__name__, changed.__doc__ = f"{path}_job", act.__doc__
        router.post(f"/jobs/{{id}}/{path}")(changed)

    change("cancel", jobs.cancel)
    change("resume", jobs.resume)

    @router.delete("/jobs/{id}", status_code=204)
    def delete_job(id: Id, who: Who) -> Response:
        """Delete a job that is over, with its model."""
        job = find(jobs, Job, id, who)
        jobs.delete(job)
        models.forget(served_name(job))
        return Response(status_code=204)


def _add_results(router: APIRouter, jobs: Jobs, models: Models) -> None:
    tickets: dict[str, tuple[str, float]] = {}
    train = requires("train").dependency

    @router.post("/jobs/{id}/ticket")
    def give_ticket(id: Id, who: Who) -> dict[str, str]:
        """For links of a page, which send no token: the report or the model of this job, for five minutes."""
        job, now = find(jobs, Job, id, who), time.monotonic()
        for old in [ticket for ticket, (_, ends) in tickets.items() if ends < now]:
            del tickets[old]
        ticket = secrets.token_urlsafe(32)
        tickets[ticket] = job.id, now + _TICKET_S
        return {"ticket": ticket}

    def by_ticket(id: str, ticket: str | None, request: Request) -> Job:
        if ticket is None:
            return find(jobs, Job, id, train(request))
        found = [of for known, of in tickets.items() if hmac.compare_digest(known.encode(), ticket.encode())]
        job = jobs.store.get(Job, id)
        if job is None or not found or found[0][0] != id or found[0][1] < time.monotonic():
            raise HTTPException(401, "this ticket is not, or no longer, for this job")
        return job

    Ticket = Annotated[str | None, Query(max_length=100, description="of POST /v1/jobs/ID/ticket, in place of a token")]

    @router.head("/jobs/{id}/report", include_in_schema=False)
    @router.get("/jobs/{id}/report", response_class=Response)
    def show_report(id: Id, request: Request, ticket: Ticket = None) -> Response:
        """The page of a finished job: scores before and after, curves, images."""
        page = jobs.report(by_ticket(id, ticket, request))
        if page is None:
            raise HTTPException(404, "this job has no report, or not yet")
        return FileResponse(page, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})

    @router.head("/jobs/{id}/model", include_in_schema=False)
    @router.get("/jobs/{id}/model", response_class=Response)
    def download_model(id: Id, request: Request, ticket: Ticket = None) -> Response:
        """The model of a finished job as a zip of its files."""
        job = by_ticket(id, ticket, request)
        with conflicts():
            return FileResponse(jobs.pack_model(job), media_type="application/zip", filename=f"{job.id}.zip")

    @router.post("/jobs/{id}/serve")
    def put_into_service(id: Id, who: Admin) -> dict[str, Any]:
        """Put the model of a finished job in the place of the one in service; no stream is dropped."""
        job = find(jobs, Job, id, who)
        with conflicts():
            models.add(served_name(job), jobs.resolve(f"job:{job.id}"))
            served = models.put_into_service(served_name(job))
        jobs.note_served(served.name)
        return {"model": served.name, "version": served.version}
