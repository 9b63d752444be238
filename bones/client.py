"""A client of the fracture service for programs: pictures in, typed answers out.

    with Client("http://localhost:8010", key) as service:
        found = service.detect("wrist.png")
        job = service.wait(service.submit(sorted(folder.iterdir())).id)

It needs httpx and pydantic, and nothing of the server. Where the service is busy it waits and asks again.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

import httpx
import numpy as np
from jaxtyping import Bool
from pydantic import BaseModel, ValidationError

from bones.service.schemas import Detected, Job, Models, Ready, Segmented
from shared.errors import SkiagramError

Picture: TypeAlias = Path | str | bytes | tuple[str, bytes]
"""A file's path, its bytes, or a name and bytes."""
Progress: TypeAlias = Callable[[Job], None]

BUSY = (429, 503)
FIRST_POLL_S, LONGEST_POLL_S = 0.2, 5.0

A = TypeVar("A", bound=BaseModel)


class ServiceError(SkiagramError):
    """The service did not do what was asked, and says why.

    ``status`` is the HTTP status, 0 where there was no answer; ``kind`` tells failures apart, such as
    ``unusable-picture``; ``request_id`` names the request in the service's logs.
    """

    def __init__(
        self, status: int, title: str, detail: str = "", kind: str = "", request_id: str | None = None
    ) -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.status, self.title, self.detail, self.kind, self.request_id = status, title, detail, kind, request_id


class Client:
    """One service; use it as a context, or call `close`.

    Args:
        address: where the service is.
        key: an API key, where the service asks for one.
        timeout_s: how long an answer may take.
        patience_s: how long to go on asking a service that is busy; 0 takes its first word.
        http: an httpx client to ask with, such as one with certificates of one's own.
    """

    def __init__(
        self,
        address: str = "http://localhost:8010",
        key: str | None = None,
        *,
        timeout_s: float = 120.0,
        patience_s: float = 60.0,
        http: httpx.Client | None = None,
    ) -> None:
        self._http = http or httpx.Client(base_url=address, timeout=timeout_s)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._patience_s = patience_s

    def segment(self, picture: Picture) -> Segmented:
        """Ask the gate alone: is there bone, and where? `mask_of` gives the mask as an array.

        Raises:
            ServiceError: the picture cannot be used, or the service cannot.
            OSError: the file is missing, or cannot be read.
        """
        return self._ask(Segmented, "POST", "/v1/segment", files=[_part(picture)])

    def detect(self, picture: Picture, *, force: bool = False) -> Detected:
        """Look for fractures; ``force`` skips the gate.

        Raises:
            ServiceError: the picture cannot be used, or the service cannot.
            OSError: the file is missing, or cannot be read.
        """
        query = {"force": "true"} if force else {}
        return self._ask(Detected, "POST", "/v1/detect", files=[_part(picture)], params=query)

    def submit(self, pictures: Iterable[Picture]) -> Job:
        """Hand in many pictures, which the service works off by itself; ask `job` or `wait` for its ``id``.

        Raises:
            ServiceError: one of them cannot be taken, or the service cannot.
            OSError: a file is missing, or cannot be read.
        """
        return self._ask(Job, "POST", "/v1/jobs", files=[_part(picture) for picture in pictures])

    def job(self, job_id: str) -> Job:
        """Say how far a job is, with the results that are there.

        Raises:
            ServiceError: there is none with this id.
        """
        return self._ask(Job, "GET", f"/v1/jobs/{job_id}")

    def wait(self, job_id: str, *, timeout_s: float | None = None, on_progress: Progress = lambda job: None) -> Job:
        """Wait until a job is done; a picture that failed has a ``problem`` in place of a ``result``.

        Raises:
            ServiceError: there is none with this id.
            TimeoutError: it is not done by then; it goes on nevertheless.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        pause_s = FIRST_POLL_S
        while (job := self.job(job_id)).state != "done":
            on_progress(job)
            if end is not None and time.monotonic() + pause_s > end:
                raise TimeoutError(f"job {job_id}: {job.finished} of {job.total} pictures after {timeout_s:g} s")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_POLL_S)
        on_progress(job)
        return job

    def delete(self, job_id: str) -> None:
        """Delete a job with its pictures and results.

        Raises:
            ServiceError: there is none with this id.
        """
        self._send("DELETE", f"/v1/jobs/{job_id}")

    def is_alive(self) -> bool:
        """Say whether the service answers at all."""
        try:
            return self._http.get("/health").is_success
        except httpx.TransportError:
            return False

    def ready(self) -> Ready:
        """Say what is loaded, and what it really runs on; ``ready`` is False while it starts.

        Raises:
            ServiceError: the service does not answer.
        """
        with _reached():
            return _read(Ready, self._http.get("/ready", headers=self._headers), accepted=(200, 503))

    def models(self) -> Models:
        """Tell which networks the service uses.

        Raises:
            ServiceError: the service cannot say.
        """
        return self._ask(Models, "GET", "/v1/models")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, kind: type[A], method: str, path: str, **request: Any) -> A:
        return _read(kind, self._send(method, path, **request))

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a request, again where the service says when; what it refused for being busy it has not begun."""
        end = time.monotonic() + self._patience_s
        while True:
            with _reached():
                answer = self._http.request(method, path, headers=self._headers, **request)
            wait_s = answer.headers.get("Retry-After", "")
            again = answer.status_code in BUSY and wait_s.isdigit() and time.monotonic() + int(wait_s) <= end
            if not again:
                break
            time.sleep(int(wait_s))
        if not answer.is_success:
            raise _error(answer)
        return answer


def mask_of(answer: Segmented) -> Bool[np.ndarray, "y x"]:
    """Give the gate's mask ``y x``, of the picture's size."""
    from PIL import Image

    mask: Bool[np.ndarray, "y x"] = np.asarray(Image.open(BytesIO(base64.b64decode(answer.mask_png)))) > 0
    return mask


def _part(picture: Picture) -> tuple[str, tuple[str, bytes]]:
    """Give a picture as a part of a form."""
    if isinstance(picture, tuple):
        return "file", picture
    if isinstance(picture, bytes):
        return "file", ("picture", picture)
    path = Path(picture)
    return "file", (path.name, path.read_bytes())


@contextmanager
def _reached() -> Iterator[None]:
    """Say of a service that cannot be reached that it cannot."""
    try:
        yield
    except httpx.TransportError as error:
        raise ServiceError(0, "No answer from the service", str(error) or type(error).__name__) from error


def _read(kind: type[A], answer: httpx.Response, accepted: tuple[int, ...] = ()) -> A:
    if not answer.is_success and answer.status_code not in accepted:
        raise _error(answer)
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        raise ServiceError(
            answer.status_code, "No answer of this service", f"{answer.url} gave something else"
        ) from error


def _error(answer: httpx.Response) -> ServiceError:
    """Make an error of problem+json, or of whatever a proxy says."""
    try:
        said = answer.json()
        kind = said["type"].rpartition(":")[2]
        return ServiceError(answer.status_code, said["title"], said["detail"], kind, said.get("request_id"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServiceError(answer.status_code, f"HTTP {answer.status_code} {answer.reason_phrase}")
