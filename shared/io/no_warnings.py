"""Warnings of libraries off for a while, from any thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_one_thread = threading.RLock()


@contextmanager
def no_warnings() -> Iterator[None]:
    """Show no warning within: Pillow and pydicom quote what a file holds.

    Python's filters are the process's: two threads that each set and restore them would leave them changed, so one
    waits for the other.
    """
    with _one_thread, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
