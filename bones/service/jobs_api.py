"""Routes for many pictures at once: hand them in, ask how far they are, take the results, delete them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, File, Path, Request, Response, UploadFile
from fastapi.concurrency import run_in_threadpool

from bones.service.api import KEY, KEY_PROBLEMS, KINDS, PICTURE_EXAMPLE, UPLOAD_PROBLEMS, outcome_of
from bones.service.guard import JobRoute, KeyedRoute
from bones.service.inference import Pool
from bones.service.jobs import FileStatus, Jobs, JobStatus
from bones.service.problems import Problem, responses
from bones.service.schemas import Job, JobFile
from bones.service.uploads import clean_name, read_picture

arriving = APIRouter(route_class=JobRoute, dependencies=[KEY], tags=["jobs"])
known = APIRouter(route_class=KeyedRoute, dependencies=[KEY], tags=["jobs"])

JobId = Annotated[str, Path(description="As the answer to handing it in said", examples=["0b5f0c6e2d3a4f71"])]


@arriving.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=202,
    response_model=Job,
    response_model_exclude_unset=True,
    responses=responses(*UPLOAD_PROBLEMS, "not-ready")
    | {202: {"headers": {"Location": {"description": "Where to ask", "schema": {"type": "string"}}}}},
    openapi_extra={"requestBody": {"content": {"multipart/form-data": {"encoding": {"file": {"contentType": KINDS}}}}}},
)
async def create_job(
    request: Request,
    response: Response,
    file: Annotated[
        list[UploadFile],
        File(description="Pictures: PNG, JPEG, TIFF, BMP or DICOM", min_length=1, examples=[[PICTURE_EXAMPLE] * 2]),
    ],
) -> Job:
    """Hand pictures in; they are looked at one after another, whatever happens to the server meanwhile."""
    state = request.app.state
    if len(file) > state.settings.max_job_files:
        raise Problem("too-large", f"a job may have {state.settings.max_job_files} pictures; make two of it")
    pictures = [await _checked(each, request) for each in file]
    jobs: Jobs = state.jobs
    job_id = await run_in_threadpool(jobs.submit, request.state.owner, pictures)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/v1/jobs/{job_id}"
    return await _status(request, job_id)


@known.get(
    "/v1/jobs/{job_id}",
    operation_id="get_job",
    response_model=Job,
    response_model_exclude_unset=True,
    responses=responses(*KEY_PROBLEMS, "not-found", "invalid", "not-ready"),
)
async def get_job(request: Request, job_id: JobId) -> Job:
    """Say how far a job is, with the results that are there; only to the key that handed it in."""
    return await _status(request, job_id)


@known.delete(
    "/v1/jobs/{job_id}",
    operation_id="delete_job",
    status_code=204,
    responses=responses(*KEY_PROBLEMS, "not-found", "invalid", "not-ready"),
)
async def delete_job(request: Request, job_id: JobId) -> None:
    """Delete a job, its pictures and its results."""
    jobs: Jobs = request.app.state.jobs
    if not await run_in_threadpool(jobs.delete, job_id, request.state.owner):
        raise _unknown(job_id)


async def _checked(file: UploadFile, request: Request) -> tuple[str, bytes]:
    """Read one of several pictures; its name stands in what is wrong with it."""
    try:
        return await read_picture(file, request.app.state.settings)
    except Problem as problem:
        raise Problem(problem.slug, f"{clean_name(file.filename)}: {problem.detail}") from None


async def _status(request: Request, job_id: str) -> Job:
    jobs: Jobs = request.app.state.jobs
    found = await run_in_threadpool(jobs.status, job_id, request.state.owner)
    if found is None:
        raise _unknown(job_id)
    return _job(found)


def _unknown(job_id: str) -> Problem:
    return Problem("not-found", f"there is no job {job_id[:64]!r}, or it was another key's, or it has expired")


def _job(status: JobStatus) -> Job:
    return Job(
        id=status.id,
        state=status.state,
        created=_time(status.created_s),
        expires=_time(status.expires_s),
        total=len(status.files),
        finished=status.finished,
        files=[_file(file) for file in status.files],
    )


def _file(file: FileStatus) -> JobFile:
    found: dict[str, Any] = {"file": file.name, "state": file.state}
    if file.result is not None:
        found["result"] = file.result | {"file": file.name}
    if file.error is not None:
        found["problem"] = file.error
    return JobFile.model_validate(found)


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def look_at(pool: Pool, picture: bytes) -> dict[str, Any]:
    """Look for fractures on one picture of a job, from its thread.

    Raises:
        Problem: it cannot be used, or the service stops.
    """
    try:
        found = pool.run_blocking("detect", picture, name="")
    except Problem as problem:
        pool.metrics.pictures.labels("job", problem.slug).inc()
        raise
    pool.metrics.pictures.labels("job", outcome_of(found)).inc()
    return found
