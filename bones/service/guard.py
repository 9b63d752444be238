"""What a request must pass before its body is read: a key, the key's rate, the size, and a place in the line.

FastAPI reads a body before it looks at anything else, so these are route classes: ``APIRouter(route_class=...)``.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.formparsers import MultiPartParser
from starlette.requests import HTTPConnection
from starlette.types import Message

from bones.service.auth import LOCAL, STRANGER, Keys, bearer
from bones.service.inference import Pool
from bones.service.problems import Problem
from bones.service.settings import MEBIBYTE, Settings

T = TypeVar("T")
Handler = Callable[[Request], Coroutine[Any, Any, Response]]
FORM_BYTES = 64 * 1024
"""What a form has beside its files: boundaries, names, a few fields."""
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
JOBS_AT_ONCE = 2
"""Jobs that may be arriving at a time, since each is held in memory until it is stored."""

# Starlette would put what is larger than this on the disk; 0 is never. `max_bytes` of a route bounds it instead.
MultiPartParser.spool_max_size = 0
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings quote what was sent


@dataclass(eq=False)
class Bucket:
    """Requests that one key may still make: ``rate`` a minute trickle in, up to as many."""

    rate: float
    level: float = field(init=False)
    since: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.level = self.rate

    def take(self) -> float:
        """Take one, and say 0; or say how many seconds are to be waited for the next."""
        now = time.monotonic()
        self.level = min(self.rate, self.level + (now - self.since) * self.rate / 60)
        self.since = now
        if self.level >= 1:
            self.level -= 1
            return 0.0
        return (1 - self.level) * 60 / self.rate


class Guard:
    """The limits of one application, which its routes ask."""

    def __init__(self, settings: Settings, keys: Keys, pool: Pool) -> None:
        self.settings, self.keys, self.pool = settings, keys, pool
        self._buckets: dict[str, Bucket] = {}  # no more than there are keys
        self._jobs = 0

    def check_rate(self, owner: str) -> None:
        """Count a request.

        Raises:
            Problem: the key has made too many.
        """
        bucket = self._buckets.setdefault(owner, Bucket(self.settings.rate_per_minute))
        if (wait_s := bucket.take()) > 0:
            detail = f"more than {self.settings.rate_per_minute:g} requests in a minute"
            raise Problem("too-many-requests", detail, retry_after_s=wait_s)

    @contextmanager
    def job_place(self) -> Iterator[None]:
        """Let few jobs arrive at a time.

        Raises:
            Problem: so many arrive already.
        """
        if self._jobs >= JOBS_AT_ONCE:
            raise Problem("busy", "other jobs are arriving; come back in a moment", retry_after_s=5)
        self._jobs += 1
        try:
            yield
        finally:
            self._jobs -= 1

    def check_origin(self, request: Request) -> None:
        """Refuse what a page of another web site sends; programs send no origin.

        Raises:
            Problem: it is another site's.
        """
        origin = request.headers.get("origin")
        if request.method in SAFE_METHODS or origin is None or origin in self.settings.cors_origins:
            return
        if _split(origin).netloc != request.headers.get("host"):
            raise Problem("forbidden", "another web site's page asks for this; see SKIAGRAM_CORS_ORIGINS")


def is_local(connection: HTTPConnection) -> bool:
    """Say whether somebody on this machine asks this machine, by a name that no other site can take."""
    host = _split(f"//{connection.headers.get('host', '')}").hostname or ""
    return (connection.client is None or is_loopback(connection.client.host)) and (
        host == "localhost" or is_loopback(host)
    )


def _split(address: str) -> SplitResult:
    """Part an address that somebody sent; one that is none has no parts."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


class KeyedRoute(APIRoute):
    """A route for whoever has a key, who is then ``request.state.owner``; its body may hold a small form at most."""

    def owner(self, request: Request) -> str | None:
        """Name who asks; None for nobody known. Another way to be known may be added here."""
        keys: Keys = request.app.state.keys
        if not keys.needed:
            return LOCAL
        key = bearer(request.headers.get("authorization"))
        return keys.owner_of(key) if key else None

    def max_bytes(self, settings: Settings) -> int:
        """Say how large the body may be."""
        return FORM_BYTES

    def place(self, guard: Guard, owner: str) -> AbstractContextManager[None]:
        """Take what the request needs to be answered, or raise Problem."""
        return nullcontext()

    def get_route_handler(self) -> Handler:
        """Put the checks before FastAPI's own handler."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            guard: Guard = request.app.state.guard
            guard.check_origin(request)
            owner = self.owner(request)
            if owner is None:
                raise Problem("no-key", "send the header `Authorization: Bearer KEY` with a key that is good here")
            if owner != STRANGER:
                guard.check_rate(owner)
            request.state.owner = owner
            max_bytes = self.max_bytes(guard.settings)
            _check_declared(request, max_bytes)
            with self.place(guard, owner):
                return await handler(_bounded(request, max_bytes, guard.settings.upload_seconds))

        return guarded


class PictureRoute(KeyedRoute):
    """A route that takes one picture, and a place in the line before it takes it."""

    def max_bytes(self, settings: Settings) -> int:
        """Say how large the body may be."""
        return settings.max_upload_bytes + FORM_BYTES

    def place(self, guard: Guard, owner: str) -> AbstractContextManager[None]:
        """Take a place in the line."""
        return guard.pool.place(owner)


class JobRoute(KeyedRoute):
    """A route that takes many pictures."""

    def max_bytes(self, settings: Settings) -> int:
        """Say how large the body may be."""
        return settings.max_job_bytes + settings.max_job_files * 1024 + FORM_BYTES

    def place(self, guard: Guard, owner: str) -> AbstractContextManager[None]:
        """Take one of the few places for jobs that arrive."""
        return guard.job_place()


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Wait for work as long as the client does: what nobody waits for any more gives its place in the line away.

    Raises:
        Problem: the client has gone.
    """

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem("gone", "nobody waits for the answer any more")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _check_declared(request: Request, max_bytes: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes:
        raise _too_large(max_bytes)


def _bounded(request: Request, max_bytes: int, seconds: float) -> Request:
    """Give a request whose body ends in a Problem where it is larger, or takes longer, than it may."""
    received = 0
    body_is_whole = False
    deadline = time.monotonic() + seconds

    async def receive() -> Message:
        nonlocal received, body_is_whole
        if body_is_whole:  # what comes now is that the client has gone, whenever that is
            return await request.receive()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                message = await request.receive()
        except TimeoutError:
            raise Problem("slow-upload", f"the request took more than {seconds:g} s to arrive") from None
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        body_is_whole = not message.get("more_body", False)
        return message

    return Request(request.scope, receive)


def _too_large(max_bytes: int) -> Problem:
    return Problem("too-large", f"the request may have {max_bytes / MEBIBYTE:.3g} MiB; see SKIAGRAM_MAX_UPLOAD_MB")


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own and reaches no further."""
    try:
        return ipaddress.ip_address(host.split("%")[0]).is_loopback
    except ValueError:
        return False
