"""The pool of worker processes: a bounded line of pictures, a time limit for each, a fresh worker after a fault.

The event loop only moves bytes: reading a picture and running the networks happen in processes, each with one picture
at a time. So a picture that takes too long can really be stopped, and one that brings its reader down costs nobody
else's answer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from bones.service import confine, frames
from bones.service.auth import LOCAL
from bones.service.metrics import Metrics
from bones.service.problems import Problem, ReaderDied
from bones.service.settings import MEBIBYTE, PREFIX, Settings
from shared.errors import SetupError
from shared.parallel import cpu_count
from shared.registry import MODELS_VARIABLE

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "bones.service.worker")
MOST_WORKERS = 4
TRIES = 2
"""A picture whose worker died is given to another, once: it may have been the machine, not the picture."""
RESTART_S = 2.0
FIRST_GUESS_S = 0.5
"""What a picture takes, until one has been looked at."""


@dataclass(eq=False)
class Task:
    """A picture that waits for its turn, and the answer that is waited for."""

    what: str
    picture: bytes
    arguments: Mapping[str, Any]
    answer: asyncio.Future[dict[str, Any]]
    tries: int = 0


@dataclass(eq=False)
class Worker:
    """One process, loaded; ``state`` is what it last said of itself."""

    process: asyncio.subprocess.Process
    state: dict[str, Any] = field(default_factory=dict)

    async def ask(self, message: Mapping[str, Any], picture: bytes = b"") -> dict[str, Any]:
        """Send a message and wait for the answer.

        Raises:
            ConnectionError: it has died.
            SetupError: it cannot load its networks.
        """
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(frames.pack(dict(message), picture))
            process.stdin.write(picture)
            await process.stdin.drain()
            answer = await frames.receive(process.stdout)
        except (asyncio.IncompleteReadError, OSError, ValueError, RecursionError) as error:
            raise ConnectionError("a worker has died, or talks nonsense") from error
        if "setup" in answer:
            raise SetupError(answer["setup"])
        self.state = answer.pop("state")
        return answer

    async def stop(self) -> None:
        """End it now."""
        with suppress(ProcessLookupError):
            self.process.kill()
        assert self.process.stdin is not None
        self.process.stdin.close()
        await self.process.wait()


class Pool:
    """Workers and the line before them: ``await pool.run("detect", picture, name="a.png")`` gives the JSON.

    Args:
        settings: how many, how long the line, how long a picture may take, and what they load.
        metrics: what is counted.
    """

    def __init__(self, settings: Settings, metrics: Metrics | None = None) -> None:
        self.settings = settings
        self.metrics = metrics or Metrics()
        self.size = settings.workers or min(cpu_count(), MOST_WORKERS)
        self._threads = settings.threads or max(1, cpu_count() // self.size)
        self._memory_bytes = settings.worker_memory_mb * MEBIBYTE or confine.memory_share(self.size)
        self._workers: dict[int, Worker] = {}
        self._slots: list[asyncio.Task[None]] = []
        self._line: asyncio.Queue[Task] = asyncio.Queue()
        self._places = Counter[str]()
        self._most = self.size + settings.max_queue
        self._most_of_one = self._most if len(settings.api_keys) < 2 else math.ceil(self._most / 2)
        self._seconds = FIRST_GUESS_S
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        """Start the workers and wait until each has loaded the gate.

        Raises:
            SetupError: a model is missing or cannot be loaded.
        """
        self._loop = asyncio.get_running_loop()
        started = await asyncio.gather(*(self._started() for _ in range(self.size)), return_exceptions=True)
        workers = [worker for worker in started if isinstance(worker, Worker)]
        if failures := [error for error in started if isinstance(error, BaseException)]:
            await asyncio.gather(*(worker.stop() for worker in workers))
            raise failures[0]
        self._slots = [asyncio.create_task(self._serve(slot, worker)) for slot, worker in enumerate(workers)]

    async def stop(self) -> None:
        """End the workers; what still waits is told so."""
        self._stopping = True
        for slot in self._slots:
            slot.cancel()
        await asyncio.gather(*self._slots, return_exceptions=True)
        while not self._line.empty():
            _fail(self._line.get_nowait(), Problem("stopping", "come back in a moment", retry_after_s=5))

    @property
    def state(self) -> dict[str, Any]:
        """Say what is loaded and what it really runs on; ``workers`` is how many are there now."""
        known = [worker.state for worker in self._workers.values()]
        first: dict[str, Any] = known[0] if known else {}
        loaded = [state for state in known if state["detector_loaded"]]
        return {
            "workers": len(known),
            "engine": (loaded[0] if loaded else first).get("engine"),
            "device": (loaded[0] if loaded else first).get("device"),
            "precision": first.get("precision"),
            "detector_loaded": len(loaded) > 0,
        }

    @property
    def waiting(self) -> int:
        """How many pictures wait for their turn."""
        return self._line.qsize()

    @contextmanager
    def place(self, owner: str = LOCAL) -> Iterator[None]:
        """Take a place in the line, from before a picture is read from the network until it is answered.

        Where there are several keys, none has more than half of the places: it could keep all others away.

        Raises:
            Problem: there is none, or the service stops.
        """
        if self._stopping:
            raise Problem("stopping", "come back in a moment", retry_after_s=5)
        taken = self._places.total()
        if taken >= self._most or self._places[owner] >= self._most_of_one:
            wait_s = taken * self._seconds / self.size
            raise Problem("busy", f"{taken} pictures are before this one; come back later", retry_after_s=wait_s)
        self._places[owner] += 1
        try:
            yield
        finally:
            self._places[owner] -= 1

    async def run(self, what: str, picture: bytes, **arguments: Any) -> dict[str, Any]:
        """Let a worker do ``what`` (a name in ``work.WORK``) with a picture, when its turn comes; give its JSON.

        Raises:
            Problem: the picture cannot be used, or took too long; or the service cannot.
        """
        if self._stopping:
            raise Problem("stopping", "come back in a moment", retry_after_s=5)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        arguments = {"max_pixels": self.settings.max_pixels, **arguments}
        await self._line.put(Task(what, picture, arguments, answer))
        return await answer

    def run_blocking(self, what: str, picture: bytes, **arguments: Any) -> dict[str, Any]:
        """Do the same from a thread."""
        assert self._loop is not None  # after start()
        return asyncio.run_coroutine_threadsafe(self.run(what, picture, **arguments), self._loop).result()

    async def _started(self) -> Worker:
        """Start a process and let it load.

        Raises:
            SetupError: it cannot.
        """
        settings = self.settings
        # Neither keys nor the jobs' database are for a process that reads strangers' files.
        environment = {
            name: value
            for name, value in os.environ.items()
            if name == MODELS_VARIABLE or not name.upper().startswith(PREFIX)
        }
        process = await asyncio.create_subprocess_exec(
            *WORKER, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment
        )
        worker = Worker(process)
        loading = {
            "model": settings.model and str(settings.model.resolve()),
            "gate": settings.gate and str(settings.gate.resolve()),
            "preload": settings.preload,
            "device": settings.device,
            "precision": settings.precision,
            "operating_point": settings.operating_point,
            "threads": self._threads,
            "memory_bytes": self._memory_bytes,
        }
        try:
            async with asyncio.timeout(settings.load_seconds):
                await worker.ask(loading)
        except BaseException as error:
            await worker.stop()
            if isinstance(error, TimeoutError):
                limit = f"{PREFIX}LOAD_SECONDS"
                raise SetupError(f"a worker did not load in {settings.load_seconds:g} s; raise {limit}") from None
            if isinstance(error, ConnectionError):
                raise SetupError("a worker died while it loaded; see its messages above") from None
            raise
        return worker

    async def _serve(self, slot: int, worker: Worker | None) -> None:
        """Keep one place for a worker filled, and give it one picture after another."""
        task: Task | None = None
        try:
            while True:
                if worker is None:
                    worker = await self._restarted()
                self._workers[slot] = worker
                task = task or await self._line.get()
                if task.answer.done():  # nobody waits any more
                    task = None
                    continue
                if await self._look(worker, task):
                    task = None
                else:
                    del self._workers[slot]
                    await worker.stop()
                    worker = None
                    task = None if task.answer.done() else task
        finally:
            if task is not None:
                _fail(task, Problem("stopping", "come back in a moment", retry_after_s=5))
            if worker is not None:
                await worker.stop()
            self._workers.pop(slot, None)

    async def _restarted(self) -> Worker:
        while True:
            try:
                return await self._started()
            except SetupError as error:
                log.error("a worker cannot be started again: %s", error)
                await asyncio.sleep(RESTART_S)

    async def _look(self, worker: Worker, task: Task) -> bool:
        """Let a worker look at one picture; False if it is of no use any more."""
        task.tries += 1
        loading = not worker.state["detector_loaded"]
        limit_s = self.settings.picture_seconds + loading * self.settings.load_seconds
        started = time.perf_counter()
        try:
            async with asyncio.timeout(limit_s):
                message = {"what": task.what, "arguments": dict(task.arguments), "limit_s": limit_s}
                answer = await worker.ask(message, task.picture)
        except TimeoutError:
            self.metrics.restarts.labels("too slow").inc()
            _fail(task, Problem("too-slow", f"looking at the picture took more than {limit_s:g} s; make it smaller"))
            return False
        except ConnectionError:
            self.metrics.restarts.labels("died").inc()
            if task.tries >= TRIES:
                _fail(task, ReaderDied())
            return False
        except SetupError as error:
            log.error("the detector cannot be loaded: %s", error)
            _fail(task, Problem("not-ready", "the detector cannot be loaded; see the service's log", retry_after_s=60))
            return True
        seconds = time.perf_counter() - started
        self.metrics.seconds.labels(task.what).observe(seconds)
        self._seconds += 0.1 * (seconds - self._seconds)
        _answer(task, answer)
        return True


def _answer(task: Task, answer: dict[str, Any]) -> None:
    if "unusable" in answer:
        _fail(task, Problem("unusable-picture", f"the picture: {answer['unusable']}"))
    elif "failed" in answer:
        log.error("a worker failed: %s", answer["failed"])
        _fail(task, Problem("failed", "this should not have happened; the service's log says where"))
    elif not task.answer.done():
        task.answer.set_result(answer["result"])


def _fail(task: Task, problem: Problem) -> None:
    if not task.answer.done():
        task.answer.set_exception(problem)
