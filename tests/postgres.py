"""A Postgres of the tests' own, where Debian's package is installed: on a socket in a folder of its own, no network."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

START_S = 120.0
USER = "skiagram"


@contextmanager
def postgres() -> Iterator[Callable[[], str]]:
    """Start it and give a function that makes an empty database and returns its URL; skips where there is none."""
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = programs[-1] if programs else shutil.which("initdb")
    if not found:
        pytest.skip("no Postgres here: apt-get install postgresql")
    initdb = Path(found)
    folder = Path(tempfile.mkdtemp(prefix="skiagram-pg-"))
    run_as: dict[str, object] = {}
    if os.geteuid() == 0:  # which Postgres refuses to run as
        try:
            someone = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("no user named postgres here, and Postgres does not run as root")
        os.chown(folder, someone.pw_uid, someone.pw_gid)
        run_as = {"user": someone.pw_uid, "group": someone.pw_gid, "extra_groups": []}
    data = folder / "data"
    make = [initdb, "-D", data, "-U", USER, "--auth=trust", "--no-sync", "--locale=C", "--encoding=UTF8"]
    start = [initdb.with_name("postgres"), "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    with (folder / "log").open("wb") as log:
        subprocess.run(make, check=True, cwd=folder, stdout=log, stderr=log, timeout=START_S, **run_as)  # type: ignore[call-overload]
        server = subprocess.Popen(start, cwd=folder, stdout=log, stderr=log, **run_as)  # type: ignore[call-overload]
    try:
        number = iter(range(1000))
        _wait(folder, server)

        def new_database() -> str:
            name = f"test_{next(number)}"
            with psycopg.connect(host=str(folder), user=USER, dbname="postgres", autocommit=True) as db:
                db.execute(f"CREATE DATABASE {name}".encode())
            return f"postgresql://{USER}@/{name}?host={folder}"

        yield new_database
    finally:
        server.send_signal(signal.SIGQUIT)  # at once; nothing is to be kept
        server.wait(START_S)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def out_of_reach(url: str) -> Iterator[None]:
    """End all connections to a database, and let none in meanwhile."""
    name, _, folder = url.removeprefix(f"postgresql://{USER}@/").partition("?host=")
    with psycopg.connect(host=folder, user=USER, dbname="postgres", autocommit=True) as db:
        db.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            db.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())


def _wait(folder: Path, server: subprocess.Popen[bytes]) -> None:
    """Wait until it answers."""
    end = time.monotonic() + START_S
    while True:
        try:
            psycopg.connect(host=str(folder), user=USER, dbname="postgres").close()
            return
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.1)
