"""How training stops other than by reaching its end: Ctrl-C, a non-finite loss, a data worker that died."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from shared.cli import Voice
from shared.errors import SkiagramError
from shared.training_devices import is_first_process
from shared.training_settings import TrainingSettings

log = logging.getLogger(__name__)


class NonFiniteLossError(SkiagramError):
    """The loss became NaN or infinite: names the step and the cases in the batch."""

    exit_status = 1


class WorkerError(SkiagramError):
    """A process that prepares batches failed or was killed."""

    exit_status = 1


@contextmanager
def shown(voice: Voice, task: str, run: Path) -> Iterator[Callable[[int, int, float], None]]:
    """Show how far a training is; whoever stops it is told how it goes on. Gives ``update(step, total, loss)``."""
    with voice.progress("training") as update:
        try:
            yield lambda step, total, loss: update(step, f"step {step} of {total}, loss {loss:.3f}", total)
        except KeyboardInterrupt:
            if (run / "last.ckpt").exists() and is_first_process():
                voice.say(f"stopped; go on with: {task} train --resume {run}")
            raise


class Interrupt:
    """Turns Ctrl-C and SIGTERM (Slurm's, Docker's) into a wish that the loop grants after its step.

    A second Ctrl-C stops at once. Data workers leave both to this process (``shared.parallel.serve_parent``).
    """

    def __init__(self) -> None:
        self.wanted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._process = os.getpid()
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if os.getpid() == self._process:
            log.warning("stopping after this step, to go on from there later; Ctrl-C again stops at once")


def next_batch(batches: Iterator[Any], step: int, settings: TrainingSettings) -> Any:
    """Return the next batch.

    Raises:
        WorkerError: a worker failed, its own traceback is logged; or it was killed.
    """
    try:
        return next(batches)
    except SkiagramError:
        raise
    except Exception as error:
        died = worker_death(error, settings)
        if died is not None:
            raise died from None
        text = str(error)
        if "in DataLoader worker process" not in text:
            if settings.workers and isinstance(error, OSError | EOFError):  # it died while it handed a batch over
                raise _gone(f"step {step}: a data worker is gone ({text or type(error).__name__})", settings) from None
            raise
        log.error("%s", text.strip())  # the worker's traceback, not that of this process
        reason = text.strip().splitlines()[-1]
        raise WorkerError(f"step {step}: a data worker failed: {reason}; its traceback stands above") from None


def worker_death(error: BaseException, settings: TrainingSettings) -> WorkerError | None:
    """Explain torch's RuntimeError about a worker that is gone, or return None where ``error`` is something else.

    torch may raise it anywhere in the step: its handler of SIGCHLD does.
    """
    text = " ".join(str(error).split()).rstrip(".")
    if not (isinstance(error, RuntimeError) and text.startswith("DataLoader worker (pid")):
        return None
    return _gone(text, settings)


def _gone(what: str, settings: TrainingSettings) -> WorkerError:
    return WorkerError(
        f"{what}. The system kills a process when memory runs out: give fewer workers than {settings.workers}, a "
        "smaller batch, or more memory (in Docker: --shm-size)"
    )
