"""Routes for programs: pictures in, JSON out."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Query, Request, Security, UploadFile
from fastapi.security import HTTPBearer

from bones.service.guard import PictureRoute, while_there
from bones.service.inference import Pool
from bones.service.problems import Problem, responses
from bones.service.schemas import Detected, Segmented
from bones.service.uploads import read_picture

KEY = Security(HTTPBearer(auto_error=False, description="A key, where the service has any (the guard checks it)"))
KEY_PROBLEMS = ("no-key", "forbidden", "too-many-requests", "failed")
UPLOAD_PROBLEMS = (
    "malformed", *KEY_PROBLEMS, "slow-upload", "too-large", "unsupported-type", "invalid", "unusable-picture", "busy",
)  # fmt: skip
PICTURE_PROBLEMS = (*UPLOAD_PROBLEMS, "too-slow", "stopping", "not-ready")
KINDS = "image/png, image/jpeg, image/tiff, image/bmp, application/dicom"

pictures = APIRouter(route_class=PictureRoute, dependencies=[KEY], tags=["pictures"])
PICTURE_EXAMPLE = "(the bytes of wrist.png)"
PictureFile = Annotated[
    UploadFile, File(description="PNG, JPEG, TIFF, BMP or DICOM (CR, DX)", examples=[PICTURE_EXAMPLE])
]


async def _picture(request: Request, file: PictureFile) -> tuple[str, bytes]:
    return await read_picture(file, request.app.state.settings)


Given = Annotated[tuple[str, bytes], Depends(_picture)]


@pictures.post(
    "/v1/segment",
    operation_id="segment",
    response_model=Segmented,
    response_model_exclude_unset=True,
    responses=responses(*PICTURE_PROBLEMS),
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"encoding": {"file": {"contentType": KINDS}}}}}},
)
async def segment(request: Request, given: Given) -> dict[str, Any]:
    """Ask the gate alone: is this a radiograph with bone, and where is it?"""
    return await look(request, "segment", *given)


@pictures.post(
    "/v1/detect",
    operation_id="detect",
    response_model=Detected,
    response_model_exclude_unset=True,
    responses=responses(*PICTURE_PROBLEMS),
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"encoding": {"file": {"contentType": KINDS}}}}}},
)
async def detect(
    request: Request, given: Given, force: Annotated[bool, Query(description="Skip the gate")] = False
) -> dict[str, Any]:
    """Look for fractures, once the gate has let the picture pass."""
    return await look(request, "detect", *given, force=force)


async def look(request: Request, what: str, name: str, picture: bytes, **arguments: Any) -> dict[str, Any]:
    """Let a worker do something with a picture, and count what came of it.

    Raises:
        Problem: it cannot be done.
    """
    pool: Pool = request.app.state.pool
    try:
        found = await while_there(request, pool.run(what, picture, name=name, **arguments))
    except Problem as problem:
        pool.metrics.pictures.labels(what, problem.slug).inc()
        raise
    pool.metrics.pictures.labels(what, outcome_of(found)).inc()
    return found


def outcome_of(found: dict[str, Any]) -> str:
    """Say in a word what was found."""
    if found["gate"] is not None and not found["gate"]["passed"]:
        return "turned away"
    if found["detections"] is None:
        return "bone"
    return "boxes" if found["detections"] else "no boxes"
