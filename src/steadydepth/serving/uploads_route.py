"""Uploads over HTTP by tus 1.0 (tus.io): pieces, offsets and checksums, as its clients send them."""

import base64
import hashlib
import logging
from dataclasses import asdict
from typing import IO, Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Header, HTTPException, Request, Response

from steadydepth.jobs.queue import Jobs
from steadydepth.jobs.store import Upload
from steadydepth.serving.owned import Id, Who, find, is_of

logger = logging.getLogger(__name__)
TUS = "1.0.0"
_TUS_HEADERS = {"Tus-Resumable": TUS}
_BLOCK = 1 << 20

Tus = Annotated[str, Header(alias="Tus-Resumable", description=f"the version of the protocol, {TUS}", examples=[TUS])]


def uploads_router(jobs: Jobs) -> APIRouter:
    """The routes of uploads."""
    router, uploads = APIRouter(prefix="/v1", tags=["training"]), jobs.uploads

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
        length: Annotated[int, Header(alias="Upload-Length", description="bytes", examples=[1048576])],
        metadata: Annotated[
            str,
            Header(
                alias="Upload-Metadata", max_length=2000, examples=["filename Y2xpcC5tcDQ="],
                description="`filename`, `sha256` in hexadecimal digits, and a `key` of the sender's, with which a "
                "request that is sent again gives the same upload; each followed by its value in base64",
            ),
        ],
    ) -> Response:  # fmt: skip
        """Begin an upload: a video, or an archive (.zip, .tar.gz) of videos and sequence folders."""
        _check_version(tus)
        given = _metadata(metadata)
        upload = uploads.create(
            given.get("filename", ""), length, owner=who.name, sha256=given.get("sha256"), key=given.get("key", "")
        )
        place = request.url_for("send_piece", id=upload.id).path
        return Response(status_code=201, headers=_TUS_HEADERS | {"Location": place})

    @router.head("/uploads/{id}")
    def find_offset(id: Id, who: Who, tus: Tus) -> Response:
        """How many bytes of an upload are there: the sender resumes from that offset."""
        _check_version(tus)
        upload = find(jobs, Upload, id, who)
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
        upload = await run_sync(find, jobs, Upload, id, who)
        with uploads.claim(upload) as is_ours:
            if not is_ours:
                raise HTTPException(423, "another request is sending a piece of this upload")
            # It may have got on until it was ours.
            upload = await run_sync(find, jobs, Upload, id, who)
            if upload.state != "receiving" or offset != upload.received:
                raise HTTPException(409, f"the upload is {upload.state}, with {upload.received} bytes")
            try:
                upload = await _receive(jobs, upload, request, _digest_of(digest))
            except OSError as error:  # a full disk, for one
                logger.exception("a piece of upload %s cannot be written", id)
                raise HTTPException(507, f"the server cannot write the piece: {error.strerror}") from None
        return Response(status_code=204, headers=_TUS_HEADERS | {"Upload-Offset": str(upload.received)})

    @router.delete("/uploads/{id}", status_code=204)
    def delete_upload(id: Id, who: Who) -> Response:
        """Delete an upload with its files."""
        upload = find(jobs, Upload, id, who)
        with uploads.claim(upload) as is_ours:
            if not is_ours:
                raise HTTPException(423, "another request is sending a piece of this upload")
            uploads.delete(upload)
        return Response(status_code=204, headers=_TUS_HEADERS)

    @router.get("/uploads")
    def list_uploads(who: Who) -> list[dict[str, Any]]:
        """Uploads, the oldest first: `receiving`, `checking`, `ready` with their sequences, or `refused` and why."""
        return [asdict(each) for each in jobs.store.all(Upload) if is_of(each, who)]

    return router


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
                await run_sync(_write, file, block, digest)
                block.clear()
        await run_sync(_write, file, block, digest)
        is_complete = digest is None or digest[0].digest() == digest[1]
    finally:
        # Of an incomplete piece, what arrived counts, unless it was to be checked.
        keep = is_complete or (digest is None and left >= 0)
        after = await run_sync(lambda: jobs.uploads.end_piece(upload, file, keep=keep))
    if not is_complete:
        raise HTTPException(460, "the checksum of this piece is another one: send it again")
    if after is None:
        raise HTTPException(410, "the upload was deleted")
    return after


def _write(file: IO[bytes], block: bytearray, digest: tuple[Any, bytes] | None) -> None:
    file.write(block)
    if digest is not None:
        digest[0].update(block)


def _digest_of(header: str | None) -> tuple[Any, bytes] | None:
    if header is None:
        return None
    kind, _, value = header.partition(" ")
    try:
        return {"sha1": hashlib.sha1, "sha256": hashlib.sha256}[kind](), base64.b64decode(value, validate=True)
    except (KeyError, ValueError):
        raise HTTPException(400, "Upload-Checksum is sha1 or sha256, a space, and the digest in base64") from None


def _metadata(header: str) -> dict[str, str]:
    found = {}
    for pair in header.split(","):
        key, _, value = pair.strip().partition(" ")
        try:
            found[key] = base64.b64decode(value, validate=True).decode()
        except ValueError as error:
            raise HTTPException(400, "Upload-Metadata is names, each followed by its value in base64") from error
    return found


def _check_version(tus: str) -> None:
    if tus != TUS:
        raise HTTPException(412, f"this server speaks tus {TUS}", {"Tus-Version": TUS})
