"""Errors for programs and people: RFC 9457's ``application/problem+json``, one shape for every failure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
URN = "urn:skiagram:problem:"

# What each kind of failure is called; a program tells them apart by the last part of ``type``.
TITLES: Mapping[str, tuple[int, str]] = {
    "malformed": (400, "The request is malformed"),
    "no-key": (401, "A key is needed"),
    "forbidden": (403, "Not allowed"),
    "not-found": (404, "There is no such thing"),
    "wrong-method": (405, "Not this way"),
    "slow-upload": (408, "The request took too long to arrive"),
    "too-large": (413, "The request is too large"),
    "unsupported-type": (415, "Not a kind of file that is read"),
    "invalid": (422, "A field of the request is wrong"),
    "unusable-picture": (422, "The picture cannot be used"),
    "too-slow": (422, "The picture took too long"),
    "too-many-requests": (429, "Too many requests"),
    "gone": (499, "The client has gone"),  # as proxies log it; nobody reads it
    "failed": (500, "The service failed"),
    "busy": (503, "The service is busy"),
    "stopping": (503, "The service is stopping"),
    "not-ready": (503, "The service is not ready"),
}
_BY_STATUS = {status: slug for slug, (status, _) in reversed(list(TITLES.items()))}


class ProblemDetails(BaseModel):
    """What every failure answers (RFC 9457)."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    type: str = Field(examples=[URN + "unusable-picture"])
    """What went wrong, for programs."""
    title: str = Field(examples=["The picture cannot be used"])
    """The same for people."""
    status: int = Field(examples=[422])
    """The HTTP status."""
    detail: str = Field(examples=["the picture: is empty; export or copy it again"])
    """This very failure, and what to do."""
    request_id: str | None = None
    """Name of the request in the service's logs."""


class Problem(HTTPException):
    """A failure that has a name in ``TITLES``; answered as problem+json."""

    def __init__(self, slug: str, detail: str, *, retry_after_s: float | None = None) -> None:
        self.slug = slug
        headers = {} if retry_after_s is None else {"Retry-After": str(max(1, math.ceil(retry_after_s)))}
        if slug == "no-key":
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(TITLES[slug][0], detail, headers)

    def details(self, request_id: str | None = None) -> dict[str, Any]:
        """Give the answer's content."""
        status, title = TITLES[self.slug]
        content: dict[str, Any] = {"type": URN + self.slug, "title": title, "status": status, "detail": self.detail}
        return content | ({"request_id": request_id} if request_id else {})


class ReaderDied(Problem):
    """Whoever looked at the picture died: of the picture most likely, but it may have been the machine."""

    def __init__(self) -> None:
        super().__init__("unusable-picture", "the picture: its reader broke down; export or copy it again")


def answer(problem: Problem, request_id: str | None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Make the response to a problem."""
    return JSONResponse(
        problem.details(request_id),
        problem.status_code,
        headers={**(problem.headers or {}), **(headers or {})},
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI) -> None:
    """Answer every failure as a problem."""

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        headers = error.headers
        if not isinstance(error, Problem):
            error = Problem(_BY_STATUS.get(error.status_code, "malformed"), str(error.detail))
        return answer(error, getattr(request.state, "request_id", None), headers)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        # What was given is not repeated: it may be a picture.
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        return answer(Problem("invalid", wrong), getattr(request.state, "request_id", None))

    app.add_exception_handler(HTTPException, on_http)
    app.add_exception_handler(RequestValidationError, on_invalid)


def responses(*slugs: str) -> dict[int | str, dict[str, Any]]:
    """Describe failures for OpenAPI."""
    described: dict[int | str, dict[str, Any]] = {}
    for slug in slugs:
        status, title = TITLES[slug]
        known = described.get(status)
        schema = {"$ref": "#/components/schemas/ProblemDetails"}
        described[status] = {
            "description": f"{known['description']}, or: {title[:1].lower()}{title[1:]}" if known else title,
            "content": {MEDIA_TYPE: {"schema": schema}},
        }
        if status in (429, 503):
            described[status]["headers"] = {
                "Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}
            }
    return described
