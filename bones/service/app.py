"""The application: settings, workers, routes and limits put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.middleware.cors import CORSMiddleware
from prometheus_fastapi_instrumentator import Instrumentator

from bones.batch import DISCLAIMER
from bones.service import api, jobs_api, operations, pages, problems
from bones.service.auth import Keys
from bones.service.guard import Guard
from bones.service.inference import Pool
from bones.service.jobs import Jobs
from bones.service.metrics import Metrics
from bones.service.middleware import Outermost
from bones.service.problems import ProblemDetails
from bones.service.session import Sessions
from bones.service.settings import MEBIBYTE, Settings, read_settings
from shared.errors import SetupError
from shared.registry import TASKS
from shared.report import product_version

MAX_FIELDS = 20


def create_app(settings: Settings | None = None) -> FastAPI:
    """Make the application; settings are read from the environment where none are given.

    Raises:
        SetupError: a setting cannot be what it is, or there is no model.
    """
    settings = settings or read_settings()
    metrics = Metrics()
    app = FastAPI(
        title="Skiagram: bones",
        summary=TASKS["bones"].summary,
        description=DISCLAIMER,
        version=product_version(),
        docs_url=None,  # the usual pages fetch their scripts from elsewhere
        redoc_url=None,
        lifespan=_lifespan,
        redirect_slashes=False,  # to an address that is made of the Host that somebody sent
        form_limits={"max_files": settings.max_job_files, "max_fields": MAX_FIELDS},
    )
    app.state.settings = settings
    app.state.failure = None
    app.state.models = operations.model_cards(settings)
    app.state.keys = Keys(settings.api_keys)
    secret = settings.session_secret.get_secret_value() if settings.session_secret else None
    app.state.sessions = Sessions(secret, settings.session_hours)
    app.state.pool = Pool(settings, metrics)
    app.state.guard = Guard(settings, app.state.keys, app.state.pool)
    routers = (operations.probes, operations.insight, api.pictures, jobs_api.arriving, jobs_api.known, pages.router)
    for router in routers:
        app.include_router(router)
    problems.install(app)
    Instrumentator(registry=metrics.registry).instrument(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization"],
            expose_headers=["Location", "Retry-After", "X-Request-ID"],
        )
    local_only = not (app.state.keys.needed or settings.allow_open)
    app.add_middleware(Outermost, local_only=local_only, cross_origin=bool(settings.cors_origins))
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load before the first request, and end after the last."""
    pool: Pool = app.state.pool
    try:
        await pool.start()
        jobs = app.state.jobs = await run_in_threadpool(_jobs, app.state.settings)
    except SetupError as error:
        app.state.failure = error  # for whoever started the server
        await pool.stop()
        raise
    jobs.start(partial(jobs_api.look_at, pool))
    try:
        yield
    finally:
        await pool.stop()  # puts the jobs' pictures in hand back: whoever stops the server does not wait for them
        await run_in_threadpool(jobs.stop)


def _jobs(settings: Settings) -> Jobs:
    return Jobs(
        settings.jobs_url.get_secret_value() if settings.jobs_url else None,
        threads=settings.job_threads,
        max_queued=settings.max_job_queue,
        max_queued_bytes=settings.max_job_queue_mb * MEBIBYTE,
        tries=settings.job_tries,
        keep_hours=settings.job_hours,
    )


def _described(app: FastAPI) -> dict[str, Any]:
    """Give OpenAPI with the schema of problems, to which every failure refers."""
    described = FastAPI.openapi(app)
    schemas = described.setdefault("components", {}).setdefault("schemas", {})
    if "ProblemDetails" not in schemas:
        schemas["ProblemDetails"] = ProblemDetails.model_json_schema()
    return described
