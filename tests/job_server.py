"""Servers that have jobs and no networks, to be killed in tests: ``python job_server.py`` starts one for each line.

Each is a fork of this one, so that a new life takes milliseconds. A picture's worker is a process of its own, as in
the service, and may be killed like the server.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bones.service import jobs
from bones.service.problems import Problem

OWNER = "owner"
PICTURE_S = 0.05
SUBMIT_EVERY_S = 0.02


def read_lines(path: Path) -> list[str]:
    """Give the lines that were written whole."""
    return path.read_text().split("\n")[:-1] if path.exists() else []


def serve(url: str, folder: str, lease_s: float) -> None:
    """Accept a file every so often until there is one called ``enough`` in the folder; work files off until killed.

    ``accepted`` in the folder gets a line for each file once it is accepted: its job, and the hash of its bytes.
    ``begun`` gets one for each picture that is begun: the worker's process and the picture's hash. ``ended`` is there
    when no more files are accepted.
    """
    parent = os.getppid()
    jobs.POLL_S = jobs.RETRY_S = 0.02
    accepted, begun, enough, ended = (Path(folder, name) for name in ("accepted", "begun", "enough", "ended"))

    def work(picture: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(picture).hexdigest()
        worker = subprocess.Popen(["sleep", str(PICTURE_S)])
        with begun.open("a") as lines:
            lines.write(f"{worker.pid} {sha256}\n")
        if worker.wait():
            raise Problem("not-ready", "its worker has died")
        return {"sha256": sha256}

    line = jobs.Jobs(url, threads=2, lease_s=lease_s)
    line.start(work)
    while not enough.exists():
        picture = random.Random(os.urandom(8)).randbytes(50_000)
        job_id = line.submit(OWNER, [("film.png", picture)])
        with accepted.open("a") as lines:
            lines.write(f"{job_id} {hashlib.sha256(picture).hexdigest()}\n")
        time.sleep(SUBMIT_EVERY_S)
    ended.touch()
    while os.getppid() == parent:  # killed tests leave no servers
        time.sleep(0.2)
    os._exit(1)


class Servers:
    """Starts servers; those that were not killed end with it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._alive = process, set[int]()

    def start(self, url: str, folder: Path, lease_s: float) -> int:
        """Start one and return its process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([url, str(folder), lease_s]) + "\n")
        self._process.stdin.flush()
        pid = int(self._process.stdout.readline())
        self._alive.add(pid)
        return pid

    def kill(self, pid: int) -> None:
        """Kill one."""
        os.kill(pid, signal.SIGKILL)
        self._alive.discard(pid)

    def end(self) -> None:
        """Kill all that are left."""
        for pid in list(self._alive):
            self.kill(pid)
        self._process.communicate(timeout=30)


@contextmanager
def servers() -> Iterator[Servers]:
    """Give what starts servers."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started = Servers(process)
    try:
        yield started
    finally:
        started.end()


if __name__ == "__main__":
    for url in ("sqlite://", "postgresql+psycopg://"):
        sa.create_engine(url)  # forks need not import the drivers
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the killed are buried at once
    for command in sys.stdin:
        if child := os.fork():
            print(child, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        serve(*json.loads(command))
