"""The table of jobs: what was accepted, who has it in hand, and what came of it.

One database, SQLite by default or Postgres, holds it all, the pictures' bytes too, so several machines need share
nothing else. Whoever works on a picture holds it on a lease: when the holder dies the lease runs out, and the next one
takes the picture up. A result is written only by who holds the picture at that moment, and in the same transaction
the picture is deleted, so each file ends in exactly one result. Times are the database's own, for machines' clocks
differ. Why no job engine: docs/decisions/0009-job-engine.md.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from shared.errors import SetupError

Json = dict[str, Any]

CONNECT_S = 10
"""How long Postgres may take to answer."""
BUSY_MS = 30_000
"""How long SQLite waits for another writer."""
READS = "skiagram_reads"
"""Marks what only reads, and so need not wait for those who write."""
SCHEMA_LOCK = 20_260_901
"""Any number, for Postgres' advisory lock: two servers that start at once make the tables one after the other."""

# The names end in the schema's version: jobs live for hours, so a new one starts with new tables, and migrates nothing.
TABLES = sa.MetaData()
JOBS = sa.Table(
    "skiagram_jobs_1",
    TABLES,
    sa.Column("id", sa.String(64), primary_key=True),
    sa.Column("owner", sa.String(128), nullable=False),
    sa.Column("created_s", sa.Double, nullable=False),
    sa.Column("expires_s", sa.Double, nullable=False, index=True),
)
_waiting = sa.text("finished_s IS NULL")
FILES = sa.Table(
    "skiagram_job_files_1",
    TABLES,
    sa.Column("job_id", sa.ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("queued_s", sa.Double, nullable=False),
    sa.Column("tries", sa.Integer, nullable=False, default=0),
    sa.Column("holder", sa.String(32)),
    sa.Column("held_until_s", sa.Double, nullable=False, default=0.0),
    sa.Column("finished_s", sa.Double),
    sa.Column("result", sa.JSON(none_as_null=True)),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Index("skiagram_waiting_1", "tries", "position", "queued_s", sqlite_where=_waiting, postgresql_where=_waiting),
)
# Apart from its file, for SQLite writes a whole row anew at each change, and leases are renewed often.
PICTURES = sa.Table(
    "skiagram_job_pictures_1",
    TABLES,
    sa.Column("job_id", sa.String(64), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("picture", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(["job_id", "position"], [FILES.c.job_id, FILES.c.position], ondelete="CASCADE"),
)


@dataclass(frozen=True, slots=True)
class Held:
    """A file in hand; ``holder`` is of this one lease, ``tries`` counts it."""

    job_id: str
    position: int
    holder: str
    tries: int
    picture: bytes


class Store:
    """The tables, in one database.

    Args:
        url: ``sqlite:///FILE`` or ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        lease_s: how long a file stays with a holder who is not heard of.

    Raises:
        SetupError: the database cannot be opened.
    """

    def __init__(self, url: str, lease_s: float) -> None:
        self.lease_s = lease_s
        try:
            self._engine, self._now = _open(sa.make_url(url))
            self._reader = self._engine.execution_options(**{READS: True})
            with self._engine.begin() as db:
                if db.dialect.name == "postgresql":
                    db.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))
                TABLES.create_all(db)
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            # Not the driver's own words in full: they may quote the address with its password.
            reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise SetupError(f"the jobs' database cannot be opened ({reason}); see SKIAGRAM_JOBS_URL") from None

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add(self, owner: str, files: Sequence[tuple[str, bytes]], keep_s: float) -> str:
        """Write down a job, whole or not at all, and return its id."""
        job_id = secrets.token_urlsafe(16)
        with self._engine.begin() as db:
            now = db.execute(sa.select(self._now)).scalar_one()
            db.execute(JOBS.insert().values(id=job_id, owner=owner, created_s=now, expires_s=now + keep_s))
            for position, (name, picture) in enumerate(files):
                key = {"job_id": job_id, "position": position}
                db.execute(FILES.insert().values(**key, name=name, queued_s=now))
                db.execute(PICTURES.insert().values(**key, picture=picture))
        return job_id

    def unfinished(self) -> int:
        """Count the files that have no result yet."""
        with self._reader.begin() as db:
            return db.execute(sa.select(sa.func.count()).where(FILES.c.finished_s.is_(None))).scalar_one()

    def kept_bytes(self) -> int:
        """Count the bytes of the pictures that are kept."""
        with self._reader.begin() as db:
            size = sa.func.coalesce(sa.func.sum(sa.func.length(PICTURES.c.picture)), 0)
            return int(db.execute(sa.select(size)).scalar_one())

    def take(self) -> Held | None:
        """Take the next file in hand; None if there is none.

        The first of each job, the oldest first, then the second of each: three pictures need not wait for a thousand
        that came before. Those that brought a holder down come last, so they keep nobody waiting.
        """
        holder = secrets.token_hex(16)
        with self._engine.begin() as db:
            row = db.execute(
                sa.select(FILES.c.job_id, FILES.c.position, FILES.c.tries)
                .where(FILES.c.finished_s.is_(None), FILES.c.held_until_s < self._now)
                .order_by(FILES.c.tries, FILES.c.position, FILES.c.queued_s)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            tries = row.tries + 1
            db.execute(
                FILES.update()
                .where(_is(FILES, row.job_id, row.position))
                .values(holder=holder, held_until_s=self._now + self.lease_s, tries=tries)
            )
            picture = sa.select(PICTURES.c.picture).where(_is(PICTURES, row.job_id, row.position))
            return Held(row.job_id, row.position, holder, tries, db.execute(picture).scalar_one())

    def renew(self, held: Held) -> None:
        """Say that a file is still worked on."""
        with self._engine.begin() as db:
            db.execute(FILES.update().where(_in_hand(held)).values(held_until_s=self._now + self.lease_s))

    def finish(self, held: Held, *, result: Json | None = None, error: Json | None = None) -> bool:
        """Write the result down and delete the picture; False if the file is no longer in this hand, or gone."""
        with self._engine.begin() as db:
            change = FILES.update().where(_in_hand(held)).values(finished_s=self._now, result=result, error=error)
            if db.execute(change).rowcount == 0:
                return False
            db.execute(PICTURES.delete().where(_is(PICTURES, held.job_id, held.position)))
            return True

    def release(self, held: Held) -> None:
        """Give a file back as it was."""
        with self._engine.begin() as db:
            db.execute(FILES.update().where(_in_hand(held)).values(held_until_s=0.0, tries=held.tries - 1))

    def read(self, job_id: str, owner: str) -> tuple[sa.Row[Any], Sequence[sa.Row[Any]]] | None:
        """Give a job's row and its files' rows, with ``held`` where one is in somebody's hand; None once it expired."""
        with self._reader.begin() as db:
            mine = sa.and_(JOBS.c.id == job_id, JOBS.c.owner == owner, JOBS.c.expires_s > self._now)
            job = db.execute(sa.select(JOBS).where(mine)).first()
            if job is None:
                return None
            columns = (FILES.c.name, FILES.c.finished_s, FILES.c.result, FILES.c.error)
            held = (FILES.c.held_until_s >= self._now).label("held")
            files = sa.select(*columns, held).where(FILES.c.job_id == job_id).order_by(FILES.c.position)
            rows = db.execute(files).all()
            return (job, rows) if rows else None  # deleted between the two

    def delete(self, job_id: str, owner: str) -> bool:
        """Delete a job with all that belongs to it; False if this owner has no such job."""
        with self._engine.begin() as db:
            return db.execute(JOBS.delete().where(JOBS.c.id == job_id, JOBS.c.owner == owner)).rowcount > 0

    def delete_expired(self) -> int:
        """Delete the jobs whose time is over, and return how many."""
        with self._engine.begin() as db:
            return db.execute(JOBS.delete().where(JOBS.c.expires_s < self._now)).rowcount

    def give_back_space(self) -> None:
        """Cut off what deleted pictures took on disk: SQLite's file and its log only grow otherwise."""
        if self._engine.dialect.name == "sqlite":
            # Not in a transaction. If somebody else is busy for long, the next time will do.
            with closing(self._engine.raw_connection()) as db, suppress(sqlite3.OperationalError):
                db.cursor().executescript("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")


def _is(table: sa.Table, job_id: str, position: int) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.job_id == job_id, table.c.position == position)


def _in_hand(held: Held) -> sa.ColumnElement[bool]:
    return sa.and_(_is(FILES, held.job_id, held.position), FILES.c.holder == held.holder, FILES.c.finished_s.is_(None))


def _open(url: sa.URL) -> tuple[sa.Engine, sa.ColumnElement[float]]:
    """Open the database; the second is its clock, in seconds since 1970."""
    if url.get_backend_name() == "postgresql":
        engine = sa.create_engine(
            url.set(drivername="postgresql+psycopg"),
            connect_args={"connect_timeout": CONNECT_S},
            pool_pre_ping=True,  # a connection that the server has ended is made anew
            hide_parameters=True,  # errors show no pictures
        )
        return engine, sa.extract("epoch", sa.func.clock_timestamp()).cast(sa.Double)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        raise sa.exc.ArgumentError("neither sqlite:///FILE nor postgresql://HOST/DATABASE")
    _make_private(Path(url.database))
    engine = sa.create_engine(url, hide_parameters=True)
    sa.event.listen(engine, "connect", _set_up_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine, (sa.func.julianday("now") - 2_440_587.5) * 86_400.0  # the Julian day of 1970-01-01


def _make_private(path: Path) -> None:
    """Make the file that pictures will lie in, for this user's eyes alone; SQLite gives its log the same mode."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    path.chmod(0o600)


def _begin_sqlite(db: sa.Connection) -> None:
    """Begin a transaction; one that will write says so at once, or two that have read would wait for each other."""
    db.exec_driver_sql("BEGIN" if db.get_execution_options().get(READS) else "BEGIN IMMEDIATE")


def _set_up_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions begin as the function above says
    settings = [
        f"busy_timeout = {BUSY_MS}",
        "journal_mode = WAL",
        "synchronous = FULL",  # what was accepted outlives a power cut
        "foreign_keys = ON",
        "secure_delete = ON",  # a deleted picture is overwritten
    ]
    if connection.execute("PRAGMA page_count").fetchone() == (0,):  # a new file; else it would write, and so wait
        settings.insert(1, "auto_vacuum = INCREMENTAL")
    for setting in settings:
        connection.execute(f"PRAGMA {setting}")
