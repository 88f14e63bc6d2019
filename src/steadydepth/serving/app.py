"""The app: what a server keeps, what stands around its routes, and the routes."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse

from steadydepth.errors import InputError, import_extra
from steadydepth.inference.filters import ChosenFilter
from steadydepth.jobs.queue import Jobs
from steadydepth.serving import depth_route, page_route, status_route, stream_route
from steadydepth.serving.access import Access, Rates
from steadydepth.serving.audit import Audit
from steadydepth.serving.figures import Figures, registry_of
from steadydepth.serving.filters import Filters
from steadydepth.serving.flicker import PAIRS_S
from steadydepth.serving.jobs_route import jobs_router, put_back, tuned_filters
from steadydepth.serving.models import Models
from steadydepth.serving.protection import Guard
from steadydepth.serving.settings import Settings
from steadydepth.serving.uploads_route import uploads_router


def create_app(settings: Settings) -> FastAPI:
    """The server as an ASGI app, its model loaded.

    What the routes share is on `app.state`: settings, models, filters, access, audit, figures, pool (threads for
    frames), jobs.

    Raises:
        InputError: the model or the filter cannot be read, aiortc is missing, or another server works in `data`.
    """
    app = FastAPI(
        title="steadydepth",
        summary="Depth of images and of live video",
        version="1",
        # Their pages load scripts of other sites.
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan,
    )
    limits, state = settings.limits, app.state
    own = getattr(settings.model, "filter", ChosenFilter())
    state.jobs = None
    state.filters = Filters(
        settings.filter or own,
        lambda who: {} if state.jobs is None else tuned_filters(state.jobs, who),
        strength=own.strength,
    )
    state.settings, state.access, state.audit = settings, Access(settings), Audit(settings.audit)
    state.models = Models(settings.model, device=settings.device)
    state.figures, state.flicker_budget = Figures(), Rates(PAIRS_S, PAIRS_S)
    state.registry = registry_of(state.figures, state.models)
    state.pool = ThreadPoolExecutor(limits.sessions + limits.requests, "frames")
    state.peers = {}  # streams over WebRTC
    for part in (depth_route, stream_route, status_route, page_route):
        app.include_router(part.router)
    if settings.webrtc:
        app.include_router(import_extra("steadydepth.serving.webrtc_route", "webrtc", "aiortc is not installed").router)
    if settings.data is not None:
        state.jobs = Jobs(settings.data, models=state.models.sources, limits=settings.job_limits)
        put_back(state.jobs, state.models)
        app.include_router(uploads_router(state.jobs))
        app.include_router(jobs_router(state.jobs, state.models))
    app.add_middleware(Guard, settings=settings, audit=state.audit)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(InputError, _wrong_input)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    jobs: Jobs | None = app.state.jobs
    if jobs is not None:
        jobs.start()
    try:
        yield
    finally:
        tasks = [task for *_, task in app.state.peers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if jobs is not None:
            await asyncio.to_thread(jobs.stop)
        app.state.models.close()
        app.state.pool.shutdown(wait=False, cancel_futures=True)
        app.state.audit.close()


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """What does not fit the schema, without the values that were sent."""
    assert isinstance(error, RequestValidationError)
    faults = [{"where": [str(part) for part in one["loc"]], "what": one["msg"]} for one in error.errors()]
    return JSONResponse({"detail": faults}, 422)


async def _wrong_input(request: Request, error: Exception) -> JSONResponse:
    """The mistake of a client; what is raised for one names no path of the server."""
    return JSONResponse({"detail": str(error)}, 422)


def _openapi(app: FastAPI) -> dict[str, Any]:
    if not app.openapi_schema:
        schema = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
        schema.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{}, {"token": []}]  # none on this machine alone
        app.openapi_schema = schema
    return app.openapi_schema
