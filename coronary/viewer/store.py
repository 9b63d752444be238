"""Visitors, and the files of each: in a folder of their own that nobody else can name, until they leave.

A visitor is whoever holds a cookie with a random token; their folder's name is its hash. Nothing about a visitor
outlives the process, and a folder goes when its last page has been closed for a while.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coronary.viewer.jobs import jobs
from coronary.viewer.settings import ViewerSettings, settings
from shared.io.writers import write_json

TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # secrets.token_urlsafe(32)
ID = re.compile(r"[0-9a-f]{16}")
ROOT = "skiagram-viewer-"
CASE_FILE = "case.json"
SWEEP_S = 5.0


def new_token() -> str:
    """Make a token that nobody guesses: 256 random bits."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class Case:
    """An opened scan of a visitor: its folder, and what ``case.json`` says of it."""

    folder: Path
    info: dict[str, Any]

    @property
    def id(self) -> str:
        """The case's name in addresses: a hash of the scan's content."""
        return self.folder.name

    @property
    def scan(self) -> Path:
        """The scan itself: the upload, or the path on the server."""
        return Path(self.info["scan"])


@dataclass(frozen=True, slots=True)
class Visitor:
    """One visitor's folder."""

    folder: Path

    def case(self, case_id: str | None) -> Case | None:
        """The case of that id, if it is this visitor's and was opened whole."""
        if case_id is None or not ID.fullmatch(case_id):
            return None
        folder = self.folder / case_id
        try:
            return Case(folder, json.loads((folder / CASE_FILE).read_text("utf-8")))
        except (OSError, ValueError):
            return None

    def save(self, folder: Path, info: dict[str, Any]) -> Case:
        """Say that a case is opened whole."""
        write_json(info, folder / CASE_FILE)
        return Case(folder, info)

    def make_room(self, most: int, keep: str) -> None:
        """Delete what was opened longest ago, beyond ``most`` cases."""
        cases = [path for path in self.folder.iterdir() if ID.fullmatch(path.name) and path.name != keep]
        for folder in sorted(cases, key=_used, reverse=True)[most - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


def _delete_orphans(where: Path) -> None:
    """Delete what servers left that were killed; theirs is a process number that is no more."""
    if os.name == "nt":  # where signal 0 is no question
        return
    for folder in where.glob(f"{ROOT}*"):
        number = folder.name.removeprefix(ROOT).partition("-")[0]
        if not number.isdigit():
            continue
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # somebody else's


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


class Store:
    """The folders of all visitors under one root, readable by this process's user alone."""

    def __init__(self, limits: ViewerSettings, clock: Callable[[], float] = time.monotonic) -> None:
        if limits.folder is not None:
            limits.folder.mkdir(parents=True, exist_ok=True)
        else:
            _delete_orphans(Path(tempfile.gettempdir()))
        self.root = Path(tempfile.mkdtemp(prefix=f"{ROOT}{os.getpid()}-", dir=limits.folder))  # mode 0700
        self.limits, self._clock = limits, clock
        self._lock = threading.Lock()
        self._pages: dict[str, int] = {}  # open pages of each visitor
        self._seen: dict[str, float] = {}
        self._on_delete: list[Callable[[Path], None]] = []
        self._stop = threading.Event()

    def visitor(self, token: str | None) -> Visitor | None:
        """The visitor who holds this token; None for what is no token."""
        if token is None or not TOKEN.fullmatch(token):
            return None
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        folder = self.root / name
        with self._lock:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._seen[name] = self._clock()
        return Visitor(folder)

    def page_opened(self, visitor: Visitor) -> Callable[[], None]:
        """Count a page of a visitor; call what comes back when it is closed."""
        name = visitor.folder.name
        with self._lock:
            self._pages[name] = self._pages.get(name, 0) + 1

        def closed() -> None:
            with self._lock:
                self._pages[name] = max(self._pages.get(name, 0) - 1, 0)
                self._seen[name] = self._clock()

        return closed

    def on_delete(self, told: Callable[[Path], None]) -> None:
        """Have a visitor's folder told before it is deleted."""
        self._on_delete.append(told)

    def sweep(self) -> None:
        """Delete the folders of visitors who left, and of those not seen for too long."""
        with self._lock:
            now = self._clock()
            gone = [
                name
                for name, seen in self._seen.items()
                if now - seen > 60 * self.limits.keep_minutes
                or (not self._pages.get(name) and now - seen > 60 * self.limits.leave_minutes)
            ]
            for name in gone:
                self._seen.pop(name, None)
        for name in gone:
            for told in self._on_delete:
                told(self.root / name)
            shutil.rmtree(self.root / name, ignore_errors=True)

    def start(self) -> None:
        """Sweep every few seconds until ``close``."""

        def run() -> None:
            while not self._stop.wait(SWEEP_S):
                self.sweep()

        threading.Thread(target=run, name="sweep", daemon=True).start()

    def close(self) -> None:
        """Delete everything."""
        self._stop.set()
        shutil.rmtree(self.root, ignore_errors=True)


@cache
def store() -> Store:
    """The store of this process."""
    import atexit

    made = Store(settings())
    made.on_delete(lambda folder: jobs().cancel_of(folder.name))
    made.start()
    atexit.register(made.close)
    return made
