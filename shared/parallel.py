"""One function over many items in several processes, which end with their parent, however that ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from shared.errors import SetupError

Item = TypeVar("Item")
Result = TypeVar("Result")


def cpu_count() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """Return ``work(item)`` of every item, in their order; ``on_done`` hears how many are done.

    ``work`` and items are pickled, so ``work`` is a function of a module, or a partial of one. A single worker is this
    very process. New processes are started afresh, for a fork of a process with threads may hang.

    Raises:
        SetupError: the system ended a worker, most often for want of memory.
    """
    if workers <= 1 or len(items) <= 1:
        results = []
        for done, item in enumerate(items, start=1):
            results.append(work(item))
            on_done(done)
        return results
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(items)), mp_context=context, initializer=end_with_parent)
    try:
        futures = [pool.submit(work, item) for item in items]
        for done, future in enumerate(as_completed(futures), start=1):
            future.result()
            on_done(done)
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        raise SetupError(
            f"the system ended one of {workers} workers, most often for want of memory; take fewer"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent(_worker: int = 0) -> None:
    """Make this worker end when its parent does, however that ends: one that was killed cannot end its workers."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def serve_parent(_worker: int = 0) -> None:
    """Make this worker end with its parent, and leave Ctrl-C and SIGTERM to it.

    A terminal, ``kill -TERM -GROUP`` and Slurm tell every process of a run to stop; a parent whose workers heeded that
    could not finish what it is at. Only a SIGTERM from the parent itself (or SIGKILL) ends this worker before it.
    """
    parent = multiprocessing.parent_process()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if parent is not None and hasattr(signal, "sigwaitinfo"):  # macOS does not say who sent a signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        # Before any thread is made, for those inherit it: what one thread does not block is not waited for in another.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

        def listen() -> None:
            while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
                pass
            os._exit(0)

        threading.Thread(target=listen, daemon=True).start()
    end_with_parent()
