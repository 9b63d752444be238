"""What every answer has: a request id, headers that keep it private, one line in the log, and never a traceback."""

from __future__ import annotations

import logging
import time
import traceback
import uuid
from typing import Any

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bones.service.guard import is_local
from bones.service.problems import Problem, answer

log = logging.getLogger("bones.service")

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
# A page that needs more says so itself.
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Outermost:
    """ASGI middleware around everything else.

    Args:
        app: what is inside.
        local_only: whether only this machine is answered, because no key is set.
        cross_origin: whether other sites may read answers, so that no header forbids it.
    """

    def __init__(self, app: ASGIApp, local_only: bool, cross_origin: bool) -> None:
        self.app, self.local_only = app, local_only
        self.headers = dict(HEADERS)
        if cross_origin:
            self.headers["Cross-Origin-Resource-Policy"] = "cross-origin"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and see to it that it is answered."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex  # always ours: a client's might say who the patient is
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["method"] not in METHODS:  # the metrics and the log would keep whatever somebody makes up
            scope["method"] = "OTHER"
        status = 0
        started = time.perf_counter()

        async def with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if self.local_only and not is_local(Request(scope)):
                detail = "no key is set, so only this machine is answered; set SKIAGRAM_API_KEYS"
                await answer(Problem("forbidden", detail), request_id)(scope, receive, with_headers)
            else:
                await self.app(scope, receive, with_headers)
        except Exception as error:
            # Not its text, which may quote what somebody sent.
            places = "".join(traceback.format_tb(error.__traceback__))
            log.error("%s failed: %s\n%s", request_id, type(error).__name__, places)
            if status:
                raise ConnectionError("the answer ended early") from None
            problem = Problem("failed", "this should not have happened; the service's log says where")
            await answer(problem, request_id)(scope, receive, with_headers)
        finally:
            _log(scope, request_id, status, time.perf_counter() - started)


def _log(scope: Scope, request_id: str, status: int, seconds: float) -> None:
    """One line; the route's pattern and not its path, which may hold anything, and the beginning of the key's hash."""
    route: Any = scope.get("route")
    path, owner = getattr(route, "path", "-"), scope["state"].get("owner", "-")
    log.info("%s %s %s %s %d %.0f ms", request_id, owner, scope["method"], path, status, seconds * 1000)
