"""Durable jobs: many files in, one result for each, whatever is killed meanwhile.

``submit`` returns when the files are safely written down; threads of every server on the same database work them off.
All calls wait for the database: an event loop makes them in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa

from bones.service.job_store import Held, Json, Store
from bones.service.problems import Problem, ReaderDied

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How soon files that another machine accepted are seen."""
RETRY_S = 2.0
"""The pause after the database, or the pool of workers, was not there."""
CLEAN_S = 60.0
"""How often expired jobs are deleted."""

ID = re.compile("[A-Za-z0-9_-]{1,64}")
"""What a job's id is made of; a database need not be asked about anything else (Postgres fails at NUL)."""

State = Literal["queued", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class FileStatus:
    """One file of a job: ``result`` when it is done, ``error`` (problem details) when it failed."""

    name: str
    state: State
    result: Json | None
    error: Json | None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job; times are in seconds since 1970, and at ``expires_s`` it is deleted."""

    id: str
    created_s: float
    expires_s: float
    files: tuple[FileStatus, ...]

    @property
    def finished(self) -> int:
        """How many files have ended, well or not."""
        return sum(file.state in ("done", "failed") for file in self.files)

    @property
    def state(self) -> Literal["queued", "running", "done"]:
        """Say whether it has begun, and whether every file has ended."""
        if self.finished == len(self.files):
            return "done"
        return "running" if self.finished or any(file.state == "running" for file in self.files) else "queued"


class Jobs:
    """The line of jobs: give files in, ask for their results, and let ``start`` work them off.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``; None is a file of this user's.
        threads: how many files are worked on here at once.
        max_queued: how many files may wait, of all owners.
        max_queued_bytes: how large all of them together may be.
        tries: how often a file is begun, when whoever looks at it dies each time, before it is given up.
        keep_hours: when a job is deleted, done or not.
        lease_s: after how long another takes up the files of a server that died.

    Raises:
        SetupError: the database cannot be opened.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        threads: int = 1,
        max_queued: int = 2000,
        max_queued_bytes: int = 20 << 30,
        tries: int = 5,
        keep_hours: float = 24.0,
        lease_s: float = 20.0,
    ) -> None:
        self.store = Store(url or default_url(), lease_s)
        self.threads, self.tries, self.keep_s = threads, tries, keep_hours * 3600
        self.max_queued, self.max_queued_bytes = max_queued, max_queued_bytes
        self._in_hand: dict[str, Held] = {}
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._workers: list[threading.Thread] = []
        self._housekeeper = threading.Thread(target=self._keep_house, name="jobs-housekeeper", daemon=True)

    def submit(self, owner: str, files: Sequence[tuple[str, bytes]]) -> str:
        """Accept files, each with its name, and return the job's id.

        Raises:
            Problem: too many wait already, or they are more than may ever wait, or the database does not answer.
        """
        size = sum(len(picture) for _, picture in files)
        if len(files) > self.max_queued or size > self.max_queued_bytes:
            limits = f"{self.max_queued} pictures of {self.max_queued_bytes >> 20} MiB together"
            raise Problem("too-large", f"no more than {limits} may wait; make several jobs of it")
        with _answering():
            waiting = self.store.unfinished()
            if waiting + len(files) > self.max_queued or self.store.kept_bytes() + size > self.max_queued_bytes:
                raise Problem("busy", f"{waiting} pictures wait already; come back later", retry_after_s=30)
            job_id = self.store.add(owner, files, self.keep_s)
        self._news.set()
        return job_id

    def status(self, job_id: str, owner: str) -> JobStatus | None:
        """Say how far a job is, and give the results so far; None if this owner has no such job.

        Raises:
            Problem: the database does not answer.
        """
        with _answering():
            found = self.store.read(job_id, owner) if ID.fullmatch(job_id) else None
        if found is None:
            return None
        job, rows = found
        files = tuple(FileStatus(row.name, _state(row), row.result, row.error) for row in rows)
        return JobStatus(job.id, job.created_s, job.expires_s, files)

    def delete(self, job_id: str, owner: str) -> bool:
        """Delete a job, its pictures and its results; False if this owner has no such job.

        Raises:
            Problem: the database does not answer.
        """
        with _answering():
            if not ID.fullmatch(job_id) or not self.store.delete(job_id, owner):
                return False
            self.store.give_back_space()
            return True

    def queued(self) -> int:
        """Count the files, of all owners and servers, that have no result yet.

        Raises:
            Problem: the database does not answer.
        """
        with _answering():
            return self.store.unfinished()

    def start(self, work: Callable[[bytes], Json]) -> None:
        """Work files off from now on: ``work`` gives a picture's result, and is called from several threads.

        A ``Problem`` that it raises is the file's error. One of status 503 (busy, stopping) puts the file back, and so
        does ``ReaderDied``, but only so often.
        """
        self._workers = [
            threading.Thread(target=self._work_off, args=(work,), name=f"jobs-{number}", daemon=True)
            for number in range(self.threads)
        ]
        for thread in (*self._workers, self._housekeeper):
            thread.start()

    def stop(self) -> None:
        """Finish what is in hand, leave the rest queued, and close the database: this object is of no use any more."""
        self._stopping.set()
        self._news.set()
        for thread in self._workers:
            thread.join()
        self._stopped.set()  # only now, for leases are renewed until the last result is written
        if self._workers:
            self._housekeeper.join()
        self.store.close()

    def _work_off(self, work: Callable[[bytes], Json]) -> None:
        while not self._stopping.is_set():
            try:
                self._take_one(work)
            except Exception as error:
                # Most often the database, away for a while. What was in hand is taken up again when its lease is over.
                log.error("jobs cannot go on just now: %s", type(error).__name__)
                self._stopping.wait(RETRY_S)

    def _take_one(self, work: Callable[[bytes], Json]) -> None:
        """Do the next file, or wait a little for one."""
        held = self.store.take()
        if held is None:
            self._news.wait(POLL_S)
            self._news.clear()
            return
        self._in_hand[held.holder] = held
        try:
            put_back = self._do(work, held)
        finally:
            del self._in_hand[held.holder]
        if put_back:
            self._stopping.wait(RETRY_S)

    def _do(self, work: Callable[[bytes], Json], held: Held) -> bool:
        """Look at one file and write its result down; True if it was put back."""
        result: Json | None = None
        try:
            if held.tries > self.tries:
                raise ReaderDied
            result, error = work(held.picture), None
        except ReaderDied as died:
            if held.tries < self.tries:
                # It may have been the machine: the lease runs out, and then the file is taken up again, after others.
                return False
            error = died.details()
        except Problem as problem:
            if problem.status_code == 503:
                self.store.release(held)
                return True
            error = problem.details()
        except Exception as fault:
            # Not its text: that may quote the picture.
            places = "".join(traceback.format_tb(fault.__traceback__))
            log.error("job %s, file %d: %s\n%s", held.job_id, held.position, type(fault).__name__, places)
            error = Problem("failed", "this should not have happened; the service's log says where").details()
        self.store.finish(held, result=result, error=error)
        if self.store.unfinished() == 0:
            self.store.give_back_space()
        return False

    def _keep_house(self) -> None:
        """Renew the leases of what is in hand, and delete what has expired: at once, and from time to time."""
        cleaned_s = -CLEAN_S
        while True:
            try:
                for held in list(self._in_hand.values()):
                    self.store.renew(held)
                if time.monotonic() - cleaned_s >= CLEAN_S:
                    cleaned_s = time.monotonic()
                    if self.store.delete_expired():
                        self.store.give_back_space()
            except Exception as error:
                log.error("leases cannot be renewed just now: %s", type(error).__name__)
            if self._stopped.wait(self.store.lease_s / 4):
                return


@contextmanager
def _answering() -> Iterator[None]:
    """Tell who asks that the database is not there, and the log why.

    Raises:
        Problem: it is not.
    """
    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        log.error("the jobs' database does not answer: %s", type(error).__name__)
        detail = "the jobs' database does not answer; come back in a moment"
        raise Problem("not-ready", detail, retry_after_s=10) from None


def _state(row: sa.Row[Any]) -> State:
    if row.finished_s is not None:
        return "done" if row.error is None else "failed"
    return "running" if row.held else "queued"


def default_url() -> str:
    """Give the SQLite file of whoever runs the service: below XDG_STATE_HOME, or ~/.local/state."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return sa.URL.create("sqlite", database=str(state / "skiagram" / "jobs.sqlite")).render_as_string()
