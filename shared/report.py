"""What a run did, in ``report.json``: written whole, also when the run failed or was interrupted."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from shared.errors import SkiagramError
from shared.io.atomic import whole

if TYPE_CHECKING:
    from shared.cohort import Record

SCHEMA_VERSION = 1
PROJECT = "skiagram"
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


@dataclass(slots=True)
class Stopwatch:
    """Seconds per stage; stages nest (``predict/network``) and add up over repetitions. One per thread."""

    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to stage ``name`` of the stage now open; also when it ends in an exception."""
        self._open.append(name)
        key = "/".join(self._open)
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(key, time.perf_counter() - begin)
            self._open.pop()

    def add(self, key: str, seconds: float) -> None:
        """Add ``seconds`` to the stage ``key``, given in full (``predict/network``)."""
        self.seconds[key] = self.seconds.get(key, 0.0) + seconds


@dataclass(slots=True)
class Report:
    """Collects what goes into ``report.json`` while a run goes on.

    Paths stand as the user typed them; of the model only the file's name and sha256. Nothing comes from DICOM tags.
    """

    task: str
    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    config: Any = None
    device: str | None = None
    """The device really used, as the session says it."""
    engine: str | None = None
    """The engine really used, with its version."""
    precision: str | None = None
    model: dict[str, str] | None = None
    inputs: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[Path] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    """What the verb itself has to tell, for instance scores."""
    exit_status: int | None = None
    stopwatch: Stopwatch = field(default_factory=Stopwatch)
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    _begin: float = field(default_factory=lambda: time.perf_counter())

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage of the run itself; stages nest and add up."""
        with self.stopwatch.stage(name):
            yield

    def use_model(self, path: Path, sha256: str | None = None) -> None:
        """Note the model file by name and content, not by the folder it was found in."""
        self.model = {"name": path.name, "sha256": sha256 or sha256_of(path)}

    def add_record(self, record: Record) -> None:
        """Note what became of one input of a cohort; its stages add to the run's, its failure to the failures."""
        item, outcome = record.item, record.outcome
        entry: dict[str, Any] = {"path": item.path, "status": record.status, "seconds": record.seconds}
        if record.status != "skipped":
            with suppress(OSError):  # gone or unreadable: its failure says so
                entry["sha256"] = sha256_of(item.path)
        entry["outputs"] = [path for path in item.files if path.exists()]
        if outcome is not None:
            entry |= {"stages_s": outcome.stages_s, "findings": outcome.findings, "result": outcome.result}
            for key, seconds in outcome.stages_s.items():
                self.stopwatch.add(key, seconds)
        if record.reason is not None:
            entry |= {"reason": record.reason, "traceback": _without_home(record.traceback)}
            self.failures.append(record.reason)
        self.inputs.append(entry)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON values: no NaN, no infinity, paths as text."""
        status = self.exit_status if self.exit_status is not None else int(bool(self.failures))
        content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "product": PROJECT,
            "version": product_version(),
            "commit": git_commit(Path(__file__).resolve().parents[1]),
            "task": self.task,
            "verb": self.verb,
            "arguments": self.arguments,
            "started_utc": self.started.isoformat(timespec="seconds"),
            "exit_status": status,
            "device": self.device,
            "engine": self.engine,
            "precision": self.precision,
            "model": self.model,
            "config": self.config,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "findings": self.findings,
            "failures": self.failures,
            "results": self.results,
            "seconds": time.perf_counter() - self._begin,
            "stages_s": self.stopwatch.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "libraries": library_versions(),
        }
        return {name: plain(value) for name, value in content.items()}

    def write(self, path: Path) -> None:
        """Write ``report.json`` whole or not at all. Raises SetupError if it cannot be written."""
        text = json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)
        with whole(path) as aside:
            aside.write_text(text + "\n", encoding="utf-8")


@contextmanager
def recorded(report: Report, path: Path) -> Iterator[Report]:
    """Write ``report`` to ``path`` when the block ends, however it ends; exceptions go on their way.

    A failure to write the report after another failure does not hide the first one.
    """
    try:
        yield report
    except BaseException as error:
        report.exit_status = exit_status_of(error)
        report.failures.append(reason_of(error))
        with suppress(SkiagramError):
            report.write(path)
        raise
    report.write(path)


def exit_status_of(error: BaseException) -> int:
    """Return the exit status an exception ends the program in: 130 for Ctrl-C, a SkiagramError's own, else 1."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return error.exit_status if isinstance(error, SkiagramError) else 1


def reason_of(error: BaseException) -> str:
    """Say an exception in one line; one that nobody foresaw is named by its type, without the home folder."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    text = " ".join(str(error).split())
    if isinstance(error, SkiagramError):
        return text
    return f"unexpected {type(error).__name__}: {_without_home(text)}"


def sha256_of(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes; of a folder, that of its files' hashes in sorted order.

    A folder's hash depends on the contents only: the names of DICOM files mean nothing.
    """
    if path.is_dir():
        hashes = sorted(sha256_of(file) for file in path.rglob("*") if file.is_file())
        return hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process so far, or None where the system does not say.

    Linux: VmHWM of /proc, for ``ru_maxrss`` there survives exec and may be the parent's. macOS counts in bytes.
    """
    with suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def git_commit(root: Path) -> str | None:
    """Return the commit checked out at ``root``, or None if that is no checkout; reads .git, starts no process."""
    try:
        git = root / ".git"
        if git.is_file():  # a worktree: "gitdir: PATH"
            git = (root / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref:"):
            return head
        name = head.removeprefix("ref:").strip()
        common = git / "commondir"
        store = (git / common.read_text().strip()).resolve() if common.is_file() else git
        for folder in (git, store):
            if (folder / name).is_file():
                return (folder / name).read_text().strip()
        packed = (store / "packed-refs").read_text()
    except OSError:
        return None
    found = re.search(rf"^([0-9a-f]+) {re.escape(name)}$", packed, re.MULTILINE)
    return found[1] if found else None


def product_version() -> str:
    """Return the version of this project from its package metadata."""
    return installed_version(PROJECT) or "unknown"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution without importing it, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def library_versions() -> dict[str, str]:
    """Return name and version of each installed library that this project names in any of its extras."""
    try:
        required = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return {}
    names = {found[0] for line in required if (found := re.match(r"[\w.-]+", line))} - {PROJECT}
    return {name: version for name in sorted(names, key=str.lower) if (version := installed_version(name))}


def plain(value: Any) -> Any:
    """Return ``value`` as JSON knows it: paths as text, arrays as lists, NaN and infinities as null."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if hasattr(value, "model_dump"):
        return plain(value.model_dump(mode="json"))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return plain(value.tolist())
    return str(value)


def _without_home(text: str | None) -> str | None:
    """Put ~ for the user's home folder: tracebacks and messages are no place for a person's name."""
    home = str(Path.home())
    return text.replace(home, "~") if text and len(home) > 1 else text
