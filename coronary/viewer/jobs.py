"""A queue of work with one worker: scans wait in line, and everybody can see how far theirs is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

from shared.errors import SkiagramError

State = Literal["waiting", "running", "done", "failed", "cancelled"]
log = logging.getLogger(__name__)


class Cancelled(Exception):  # noqa: N818 - no error
    """The visitor does not want it any more."""


@dataclass(eq=False)
class Job:
    """One piece of work. ``work`` is called with the job, tells it ``advance``, and is stopped there by ``cancel``."""

    key: str
    owner: str
    work: Callable[[Job], None]
    state: State = "waiting"
    share: float = 0.0
    """How much of it is done, 0 to 1."""
    doing: str = ""
    error: str = ""
    started: float = 0.0
    _cancel: threading.Event = field(default_factory=threading.Event)

    def advance(self, share: float, doing: str = "") -> None:
        """Say how far it is.

        Raises:
            Cancelled: somebody called ``cancel``.
        """
        if self._cancel.is_set():
            raise Cancelled
        self.share = max(self.share, min(share, 1.0))
        self.doing = doing or self.doing

    def cancel(self) -> None:
        """Stop it at its next step, or before it begins."""
        self._cancel.set()
        if self.state == "waiting":
            self.state = "cancelled"

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.state in ("done", "failed", "cancelled")

    def seconds_left(self, now: float | None = None) -> float | None:
        """How long it will still take if it goes on as it did; None while that cannot be told."""
        elapsed = (time.monotonic() if now is None else now) - self.started
        if self.state != "running" or self.share < 0.05 or elapsed < 1.0:
            return None
        return elapsed * (1 - self.share) / self.share


class Jobs:
    """Runs one job after another in a thread of its own."""

    def __init__(self) -> None:
        self._line: list[Job] = []
        self._latest: dict[str, Job] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def submit(self, key: str, owner: str, work: Callable[[Job], None]) -> Job:
        """Put work in line; work of the same key that waits or runs is not doubled."""
        with self._changed:
            job = self._latest.get(key)
            if job is not None and not job.over:
                return job
            job = self._latest[key] = Job(key, owner, work)
            self._line.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="segmentation", daemon=True)
                self._thread.start()
            self._changed.notify()
            return job

    def find(self, key: str) -> Job | None:
        """The latest job of that key."""
        with self._changed:
            return self._latest.get(key)

    def ahead_of(self, job: Job) -> int:
        """How many scans come before this one, the one that runs included."""
        with self._changed:
            line = [other for other in self._line if not other.over]
            return line.index(job) if job in line else 0

    def forget(self, job: Job) -> None:
        """Drop a job that is over, once its end was told."""
        with self._changed:
            if self._latest.get(job.key) is job and job.over:
                del self._latest[job.key]

    def cancel_of(self, owner: str) -> None:
        """Cancel everything of one owner."""
        with self._changed:
            jobs = [job for job in self._latest.values() if job.owner == owner]
        for job in jobs:
            job.cancel()
            if job.over:
                self.forget(job)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._line = [job for job in self._line if not job.over]
                while not self._line:
                    self._changed.wait()
                    self._line = [job for job in self._line if not job.over]
                job = self._line[0]
                job.state, job.started = "running", time.monotonic()
            state, error = _outcome(job)
            with self._changed:
                job.error, job.state = error, state
                job.work = _nothing  # what it held of memory


def _nothing(job: Job) -> None:
    """Stand in for work that is done."""


def _outcome(job: Job) -> tuple[State, str]:
    try:
        job.work(job)
    except Cancelled:
        return "cancelled", ""
    except SkiagramError as error:
        return "failed", getattr(error, "problem", "") or str(error)
    except MemoryError:
        return "failed", "this machine's memory is too small for the scan"
    except Exception as error:
        log.error("segmentation failed: %s", type(error).__name__)  # no text: it may hold a file's name
        return "failed", f"something unforeseen went wrong ({type(error).__name__})"
    return "done", ""


@cache
def jobs() -> Jobs:
    """The queue of this process."""
    return Jobs()
