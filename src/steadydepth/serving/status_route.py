"""What a server says of itself: its models, whether it is well, and its counts; and the change of the model."""

import logging
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field

from steadydepth.serving.access import requires
from steadydepth.serving.audit import Audit
from steadydepth.serving.models import Models, describe
from steadydepth.types import Claims

LOG = logging.getLogger(__name__)
router = APIRouter()


class ModelList(BaseModel):
    """The models of a server."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "model": "steady",
                "version": 1,
                "claims": "metric",
                "made_by": {"model": "5d1c9a3e0b7f2468", "max_side": 0},
                "models": ["steady", "stabilised"],
                "filter": "learned",
                "filters": ["none", "learned"],
            }
        }
    )
    model: str = Field(description="The one in service")
    version: int = Field(description="Counts the changes of the one in service since the server began, from 1")
    claims: Claims = Field(description="What its numbers mean")
    made_by: dict[str, str | int] = Field(
        description="What outputs note of it: its checksum, whoever serves it, and the longer side that it sees"
    )
    models: list[str] = Field(description="All that can be put into service")
    filter: str = Field(description="That of streams that name none")
    filters: list[str] = Field(description="All that a stream can name")


class Choice(BaseModel):
    """Which model to put into service."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"model": "stabilised"}})
    model: str = Field(min_length=1, max_length=64)


@router.get("/v1/models", dependencies=[requires("predict")], summary="The models", response_model=ModelList)
def models(request: Request) -> dict[str, Any]:
    """The models by name, and the one in service."""
    state = request.app.state
    filters = {"filter": state.filters.default_name, "filters": state.filters.names(request.state.identity)}
    current = state.models.current
    return {**describe(current), "made_by": current.made_by, "models": state.models.names(), **filters}


@router.put(
    "/v1/models/current",
    dependencies=[requires("admin")],
    summary="Put a model into service",
    response_model=ModelList,
    responses={404: {"description": "No model has that name"}},
)
def put_into_service(request: Request, choice: Choice) -> dict[str, Any]:
    """Load a known model and put it in the place of the one in service; streams stay open, and begin anew on it."""
    known: Models = request.app.state.models
    audit: Audit = request.app.state.audit
    if choice.model not in known.names():
        raise HTTPException(404, "no model has that name")
    try:
        now = known.put_into_service(choice.model)
    except Exception:
        # What it says names files of this machine.
        LOG.exception("%s is not put into service", choice.model)
        raise HTTPException(422, "the model cannot be read, or fails: the log says why") from None
    if request.app.state.jobs is not None:
        request.app.state.jobs.note_served(now.name)
    audit.note("model in service", model=now.name, version=now.version, who=request.state.identity.name)
    return models(request)


@router.head("/healthz", include_in_schema=False)
@router.get("/healthz", summary="Whether the process lives")
async def healthz() -> dict[str, str]:
    """For whoever restarts it: it answers, and that is all."""
    return {"status": "ok"}


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", summary="Whether it can predict", responses={503: {"description": "Not now"}})
async def readyz(request: Request, response: Response) -> dict[str, str]:
    """For whoever sends it work: a model is in service."""
    known: Models = request.app.state.models
    is_ready = known.current.batcher.is_alive
    response.status_code = 200 if is_ready else 503
    return {"status": "ready" if is_ready else "not ready"}


@router.get(
    "/metrics",
    dependencies=[requires("admin")],
    response_class=Response,
    summary="Counts for Prometheus",
    responses={200: {"content": {"text/plain": {"example": "steadydepth_sessions 2.0\n"}}}},
)
async def metrics(request: Request) -> Response:
    """Frames, latencies, queues, sessions, and the live flicker of each session."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)
