"""Uploads and jobs over HTTP.

Uploads speak tus 1.0 (tus.io): pieces, offsets and checksums, as its clients send them.
"""

import base64
import binascii
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from steadydepth.errors import InputError
from steadydepth.jobs.plans import RUN, describe
from steadydepth.jobs.queue import Jobs, served_name
from steadydepth.jobs.store import Job, Upload
from steadydepth.jobs.uploads import checksum
from steadydepth.serving.access import requires
from steadydepth.serving.models import Models
from steadydepth.serving.tokens import Identity

logger = logging.getLogger(__name__)
TUS = "1.0.0"
_TUS_HEADERS = {"Tus-Resumable": TUS}
# The page of a job is ours, and what it shows comes from strangers: no script, nothing from anywhere.
_REPORT_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; sandbox"
_TICKET_S = 300.0
_BLOCK = 1 << 20

Row = TypeVar("Row", Upload, Job)
Tus = Annotated[str, Header(alias="Tus-Resumable", description=f"the version of the protocol, {TUS}", examples=[TUS])]
Who = Annotated[Identity, requires("train")]
Admin = Annotated[Identity, requires("admin")]
Id = Annotated[str, "the number that the server gave it"]


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

    kind: str = Field(description="one of GET /v1/jobs/kinds")
    name: str = Field("", max_length=100, description="a title")
    model: str | None = Field(None, max_length=200, description="a served model, or job:ID of a finished job")
    uploads: list[str] = Field([], max_length=100, description="numbers of uploads that are ready")
    settings: dict[str, int | float | str] = Field({}, max_length=50, description="keys of the kind")


def jobs_router(jobs: Jobs, models: Models) -> APIRouter:
    """The routes of uploads and jobs.

    Args:
        jobs: does the work.
        models: a job's model is put into service there.
    """
    router = APIRouter(prefix="/v1", tags=["training"])
    _add_uploads(router, jobs)
    _add_jobs(router, jobs)
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
        if job.kind == "filter" and _is_of(job, who) and jobs.model_files(job)
    }


def _add_uploads(router: APIRouter, jobs: Jobs) -> None:
    uploads = jobs.uploads

    @router.options("/uploads", status_code=204)
    def describe_protocol() -> Response:
        """What the server can do of the tus protocol."""
        return Response(status_code=204, headers=_TUS_HEADERS | {
            "Tus-Version": TUS, "Tus-Extension": "creation,checksum,termination",
            "Tus-Checksum-Algorithm": "sha1,sha256", "Tus-Max-Size": str(jobs.limits.upload_bytes),
        })  # fmt: skip

    @router.post("/uploads", status_code=201)
    def create_upload(
        who: Who,
        request: Request,
        tus: Tus,
        length: Annotated[int, Header(alias="Upload-Length", ge=1, description="bytes", examples=[1048576])],
        metadata: Annotated[
            str,
            Header(
                alias="Upload-Metadata", max_length=2000, examples=["filename Y2xpcC5tcDQ="],
                description="`filename`, and `sha256` in hexadecimal digits, each followed by its value in base64",
            ),
        ],
    ) -> Response:  # fmt: skip
        """Begin an upload: a video, or an archive (.zip, .tar.gz) of videos and sequence folders."""
        _check_version(tus)
        given = _metadata(metadata)
        with _refusals():
            upload = uploads.create(given.get("filename", ""), length, owner=who.name, sha256=given.get("sha256"))
        place = request.url_for("send_piece", id=upload.id).path
        return Response(status_code=201, headers=_TUS_HEADERS | {"Location": place})

    @router.head("/uploads/{id}")
    def find_offset(id: Id, who: Who, tus: Tus) -> Response:
        """How many bytes of an upload are there: the sender goes on from that offset."""
        _check_version(tus)
        upload = _find(jobs, Upload, id, who)
        return Response(headers=_TUS_HEADERS | {
            "Upload-Offset": str(upload.received), "Upload-Length": str(upload.size), "Cache-Control": "no-store",
        })  # fmt: skip

    @router.patch("/uploads/{id}", status_code=204)
    async def send_piece(
        id: Id,
        who: Who,
        request: Request,
        tus: Tus,
        offset: Annotated[int, Header(alias="Upload-Offset", ge=0, description="where the piece begins")],
        digest: Annotated[
            str | None,
            Header(
                alias="Upload-Checksum", max_length=200, description="sha1 or sha256, a space, and the digest in base64"
            ),
        ] = None,
    ) -> Response:
        """The next piece; one with a checksum counts only when all of it is there."""
        _check_version(tus)
        if request.headers.get("content-type") != "application/offset+octet-stream":
            raise HTTPException(415, "a piece is application/offset+octet-stream")
        upload = await run_sync(_find, jobs, Upload, id, who)
        if not uploads.claim(upload):
            raise HTTPException(423, "another request is sending a piece of this upload")
        try:
            # It may have got on until it was ours.
            upload = await run_sync(_find, jobs, Upload, id, who)
            if upload.state != "receiving" or offset != upload.received:
                raise HTTPException(409, f"the upload is {upload.state}, with {upload.received} bytes")
            upload = await _receive(jobs, upload, request, _digest_of(digest))
        finally:
            uploads.release(upload)
        return Response(status_code=204, headers=_TUS_HEADERS | {"Upload-Offset": str(upload.received)})

    @router.delete("/uploads/{id}", status_code=204)
    def delete_upload(id: Id, who: Who) -> Response:
        """Delete an upload with its files."""
        upload = _find(jobs, Upload, id, who)
        if not uploads.claim(upload):
            raise HTTPException(423, "another request is sending a piece of this upload")
        try:
            with _refusals():
                uploads.delete(upload)
        finally:
            uploads.release(upload)
        return Response(status_code=204, headers=_TUS_HEADERS)

    @router.get("/uploads")
    def list_uploads(who: Who) -> list[dict[str, Any]]:
        """Uploads, the oldest first: `receiving`, `checking`, `ready` with their sequences, or `refused` and why."""
        return [asdict(each) for each in jobs.store.all(Upload) if _is_of(each, who)]


def _add_jobs(router: APIRouter, jobs: Jobs) -> None:
    @router.get("/jobs/kinds")
    def list_kinds(who: Who) -> dict[str, Any]:
        """What jobs there are, and which keys each lets a client set, within which bounds."""
        return describe(jobs.limits)

    @router.post("/jobs", status_code=201)
    def create_job(order: Order, who: Who) -> dict[str, Any]:
        """Put a job into the queue."""
        # What others own does not exist for who asks.
        for id in order.uploads:
            _find(jobs, Upload, id, who)
        if order.model is not None and order.model.startswith("job:"):
            _find(jobs, Job, order.model.removeprefix("job:"), who)
        with _refusals():
            job = jobs.submit(
                order.kind, owner=who.name, name=order.name, model=order.model, uploads=tuple(order.uploads),
                settings=order.settings,
            )  # fmt: skip
        return asdict(job)

    @router.get("/jobs")
    def list_jobs(who: Who) -> list[dict[str, Any]]:
        """Jobs, the oldest first."""
        return [asdict(each) for each in jobs.store.all(Job) if _is_of(each, who)]

    @router.get("/jobs/{id}")
    def show_job(id: Id, who: Who) -> dict[str, Any]:
        """One job, and the files that it has for you."""
        job = _find(jobs, Job, id, who)
        return asdict(job) | {"has_report": jobs.report(job) is not None, "model_files": list(jobs.model_files(job))}

    @router.get("/jobs/{id}/curves")
    def show_curves(id: Id, who: Who, after: Annotated[int, Query(ge=0)] = 0) -> list[dict[str, Any]]:
        """Lines of its log after a step: ask again with the last step that you have."""
        return jobs.curves(_find(jobs, Job, id, who), after)

    def change(path: str, act: Callable[[Job], Job | None]) -> None:
        def changed(id: Id, who: Who) -> dict[str, Any]:
            job = _find(jobs, Job, id, who)
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
        with _refusals():
            jobs.delete(_find(jobs, Job, id, who))
        return Response(status_code=204)


def _add_results(router: APIRouter, jobs: Jobs, models: Models) -> None:
    tickets: dict[str, tuple[str, float]] = {}
    train = requires("train").dependency

    @router.post("/jobs/{id}/ticket")
    def give_ticket(id: Id, who: Who) -> dict[str, str]:
        """For links of a page, which send no token: the report or the model of this job, for five minutes."""
        job, now = _find(jobs, Job, id, who), time.monotonic()
        for old in [ticket for ticket, (_, ends) in tickets.items() if ends < now]:
            del tickets[old]
        ticket = secrets.token_urlsafe(32)
        tickets[ticket] = job.id, now + _TICKET_S
        return {"ticket": ticket}

    def by_ticket(id: str, ticket: str | None, request: Request) -> Job:
        if ticket is None:
            return _find(jobs, Job, id, train(request))
        found = [of for known, of in tickets.items() if hmac.compare_digest(known.encode(), ticket.encode())]
        job = jobs.store.get(Job, id)
        if job is None or not found or found[0][0] != id or found[0][1] < time.monotonic():
            raise HTTPException(401, "this ticket is not, or no longer, for this job")
        return job

    Ticket = Annotated[str | None, Query(max_length=100, description="of POST /v1/jobs/ID/ticket, in place of a token")]

    @router.get("/jobs/{id}/report", response_class=Response)
    def show_report(id: Id, request: Request, ticket: Ticket = None) -> Response:
        """The page of a finished job: scores before and after, curves, images."""
        page = jobs.report(by_ticket(id, ticket, request))
        if page is None:
            raise HTTPException(404, "this job has no report, or not yet")
        return FileResponse(page, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})

    @router.get("/jobs/{id}/model", response_class=Response)
    def download_model(id: Id, request: Request, ticket: Ticket = None) -> Response:
        """The model of a finished job as a zip of its files."""
        job = by_ticket(id, ticket, request)
        with _refusals(409):
            return FileResponse(jobs.pack_model(job), media_type="application/zip", filename=f"{job.id}.zip")

    @router.post("/jobs/{id}/serve")
    def put_into_service(id: Id, who: Admin) -> dict[str, Any]:
        """Put the model of a finished job in the place of the one in service; no stream is dropped."""
        job = _find(jobs, Job, id, who)
        with _refusals(409):
            models.add(served_name(job), jobs.resolve(f"job:{job.id}"))
            served = models.put_into_service(served_name(job))
        jobs.note_served(served.name)
        return {"model": served.name, "version": served.version}


async def _receive(jobs: Jobs, upload: Upload, request: Request, digest: tuple[Any, bytes] | None) -> Upload:
    """Write the body of a piece behind what is there; returns the upload with its new offset."""
    file = await run_sync(jobs.uploads.begin_piece, upload)
    left, block, is_complete = upload.size - upload.received, bytearray(), False
    try:
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                raise HTTPException(413, f"more than the {upload.size} bytes that were promised")
            block += chunk
            if len(block) >= _BLOCK:
                await run_sync(file.write, bytes(block))
                _update(digest, block)
                block.clear()
        await run_sync(file.write, bytes(block))
        _update(digest, block)
        is_complete = digest is None or digest[0].digest() == digest[1]
    finally:
        # Of a piece that was cut, what came counts, unless it was to be checked.
        keep = is_complete or (digest is None and left >= 0)
        after = await run_sync(lambda: jobs.uploads.end_piece(upload, file, keep=keep))
    if not is_complete:
        raise HTTPException(460, "the checksum of this piece is another one: send it again")
    if after is None:
        raise HTTPException(410, "the upload was deleted")
    return after


def _update(digest: tuple[Any, bytes] | None, block: bytearray) -> None:
    if digest is not None:
        digest[0].update(block)


def _digest_of(header: str | None) -> tuple[Any, bytes] | None:
    if header is None:
        return None
    kind, _, value = header.partition(" ")
    digest = checksum(kind)
    try:
        if digest is not None:
            return digest, base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise HTTPException(400, "Upload-Checksum is sha1 or sha256, a space, and the digest in base64")


def _metadata(header: str) -> dict[str, str]:
    found = {}
    for pair in header.split(","):
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError) as error:
            raise HTTPException(400, "Upload-Metadata is names, each followed by its value in base64") from error
    return found


def _check_version(tus: str) -> None:
    if tus != TUS:
        raise HTTPException(412, f"this server speaks tus {TUS}", {"Tus-Version": TUS})


def _is_of(row: Upload | Job, who: Identity) -> bool:
    return row.owner == who.name or who.may("admin")


def _find(jobs: Jobs, kind: type[Row], id: str, who: Identity) -> Row:
    """The upload or job of that number; 404 where there is none, or none of theirs."""
    row = jobs.store.get(kind, id)
    if row is None or not _is_of(row, who):
        raise HTTPException(404, f"no such {kind.__name__.lower()}")
    return row


@contextmanager
def _refusals(status: int = 422) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise HTTPException(status, str(error)) from error
