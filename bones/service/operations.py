"""Routes for whoever runs the service: is it alive, is it ready, what does it count, which networks does it use."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bones.batch import DISCLAIMER
from bones.service.api import KEY, KEY_PROBLEMS
from bones.service.guard import KeyedRoute
from bones.service.problems import responses
from bones.service.schemas import Alive, ModelCard, Models, Ready
from bones.service.settings import Settings
from shared.registry import choose_model, find_model
from shared.report import sha256_of
from shared.runtime import read_metadata

probes = APIRouter(tags=["operations"])
insight = APIRouter(route_class=KeyedRoute, dependencies=[KEY], tags=["operations"])


@probes.head("/health", include_in_schema=False)
@probes.get("/health", operation_id="health", response_model=Alive, responses=responses("forbidden", "failed"))
async def health() -> dict[str, Any]:
    """Say that the server runs."""
    return {"status": "alive"}


@probes.head("/ready", include_in_schema=False)
@probes.get(
    "/ready",
    operation_id="ready",
    response_model=Ready,
    responses=responses("forbidden", "failed") | {503: {"model": Ready, "description": "No worker is there"}},
)
async def ready(request: Request) -> JSONResponse:
    """Say what is loaded, and what it really runs on."""
    state = request.app.state.pool.state
    found = Ready(
        ready=state["workers"] > 0, gate_loaded=state["workers"] > 0, waiting=request.app.state.pool.waiting, **state
    )
    return JSONResponse(found.model_dump(), 200 if found.ready else 503)


@insight.get(
    "/metrics", operation_id="metrics", response_class=Response,
    responses=responses(*KEY_PROBLEMS, "not-ready")
    | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)  # fmt: skip
async def metrics(request: Request) -> Response:
    """Give what Prometheus scrapes."""
    pool = request.app.state.pool
    counted = pool.metrics
    counted.waiting.set(pool.waiting)
    counted.workers.set(pool.state["workers"])
    counted.jobs.set(await run_in_threadpool(request.app.state.jobs.queued))
    return Response(generate_latest(counted.registry), media_type=CONTENT_TYPE_LATEST)


@insight.get("/v1/models", operation_id="models", response_model=Models, responses=responses(*KEY_PROBLEMS))
async def models(request: Request) -> Models:
    """Tell which networks are used: labels, thresholds, scores, provenance, licence."""
    cards: Models = request.app.state.models
    return cards


def model_cards(settings: Settings) -> Models:
    """Read what the model files say of themselves, without loading them.

    Raises:
        SetupError: one is missing, or is none.
    """
    files = (
        find_model("bones", "gate", settings.gate),
        choose_model("bones", settings.precision, settings.device, settings.model),
    )
    cards = [(path, read_metadata(path)) for path in files]
    return Models(
        models=[
            ModelCard(network=str(card.get("network")), file=path.name, sha256=sha256_of(path), card=card)
            for path, card in cards
        ],
        disclaimer=DISCLAIMER,
    )
