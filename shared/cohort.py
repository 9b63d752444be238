"""Folder in, folder out: skip what is done, go on after a failure, say what became of each input."""

from __future__ import annotations

import logging
import os
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from shared.errors import InputError, SetupError, SkiagramError
from shared.io.atomic import leftovers, write_error
from shared.report import exit_status_of, reason_of

log = logging.getLogger(__name__)

SUFFIXES = (
    ".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd", ".zip", ".dcm", ".dicom",
    ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp",
)  # fmt: skip
"""What is cut from an input's name; anything else after a dot is part of the name (``1.2.840.4711``)."""


NO_INPUT = ("no input in this folder", "name the folder that holds the scans or pictures")


@dataclass(frozen=True, slots=True)
class Input:
    """A file or folder to work on, and the ``name`` its outputs share: its own, without suffix, sub-folders kept.

    ``refused`` says why it cannot be worked on, and what to do.
    """

    path: Path
    name: str
    refused: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Item:
    """One unit of work: an input, the ``outputs`` that every success leaves, and ``optional`` ones that some do.

    An item is done when all its ``outputs`` exist; as each is written whole or not at all, existing is enough. The
    work writes the ``optional`` ones before the last of ``outputs``, or a killed run would pass for done without them.
    One that is ``refused`` (why, and what to do) has no outputs, and fails.
    """

    path: Path
    outputs: tuple[Path, ...]
    optional: tuple[Path, ...] = ()
    refused: tuple[str, str] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that this item may leave."""
        return self.outputs + self.optional

    @property
    def is_done(self) -> bool:
        """Whether an earlier run has left every output."""
        return bool(self.outputs) and all(path.exists() for path in self.outputs)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the work on one item has to tell: findings, seconds per stage, and a small JSON-able result."""

    findings: tuple[str, ...] = ()
    stages_s: Mapping[str, float] = field(default_factory=dict)
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one item. A failure has a ``reason`` (one line that names the file).

    ``traceback`` is kept only of a failure that nobody foresaw.
    """

    item: Item
    status: Literal["done", "skipped", "failed"]
    seconds: float = 0.0
    outcome: Outcome | None = None
    reason: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class CohortResult:
    """Records in the order of the items; fewer than items if the run was ``stopped`` by Ctrl-C or a SetupError."""

    records: tuple[Record, ...]
    left: tuple[Item, ...] = ()
    stopped: KeyboardInterrupt | SetupError | None = None

    def having(self, status: Literal["done", "skipped", "failed"]) -> tuple[Record, ...]:
        """Return the records of one status."""
        return tuple(record for record in self.records if record.status == status)

    @property
    def exit_status(self) -> int:
        """0: all done now or earlier. 1: some failed. 2 or 130: stopped by a SetupError or by Ctrl-C."""
        return exit_status_of(self.stopped) if self.stopped else int(bool(self.having("failed")))


def plan_results(
    inputs: Sequence[Path], accepts: Callable[[Path], bool], out: Path, ends: Sequence[str], own: Sequence[str]
) -> list[Item]:
    """Find the inputs and name their results, ``out/NAME`` with each of ``ends``; ``own`` are files of the run itself.

    Refused are inputs that would be written to one name, in part or wholly, or to a name of the run's own files.

    Raises:
        SetupError: nothing to do.
    """
    reserved = [out / name for name in own]
    items = []
    found_all = collect_inputs(inputs, accepts, out=out)
    named = [(found, tuple(out / f"{found.name}{end}" for end in ends)) for found in found_all]
    times = Counter(path for _, outputs in named for path in outputs)
    for found, outputs in named:
        refused = found.refused or _taken(outputs, reserved, times)
        items.append(Item(found.path, (), refused=refused) if refused else Item(found.path, outputs))
    return something_to_do(items)


def something_to_do(items: list[Item]) -> list[Item]:
    """Return the items, unless all of them are refused: then the command is wrong, and SetupError says why."""
    if items and all(item.refused for item in items):
        others = f" (and {len(items) - 1} more)" if len(items) > 1 else ""
        raise SetupError(f"{items[0].path}: {'; '.join(items[0].refused or ())}{others}")
    return items


def run_cohort(
    items: Sequence[Item],
    work: Callable[[Item], Outcome],
    *,
    overwrite: bool = False,
    again: Callable[[Item], bool] = lambda item: False,
    at_once: int = 1,
    on_start: Callable[[Item], None] = lambda item: None,
    on_end: Callable[[Record], None] = lambda record: None,
) -> CohortResult:
    """Do ``work`` on every item that is not done yet, in order, and go on after a failure.

    ``work`` writes the item's outputs, each whole or not at all; being a plain function of a plain item, it can as
    well be sent elsewhere (see ``attempt``). What is done is done ``again`` where that is so of the item, and with
    ``overwrite`` anyway. Ctrl-C and SetupError (which would meet every item alike) stop the run; what was done by then
    stands in the result. More than one item ``at_once`` is worked on in threads: records come in the items' order all
    the same, and a stop waits for what is in work.

    Raises:
        SetupError: two items would write the same file, or one would write over an input; before any work.
    """
    check_outputs(items)
    records: list[Record] = []

    def begun(item: Item) -> Callable[[], Record]:
        if item.is_done and not overwrite and not again(item):
            return lambda: Record(item, "skipped")
        on_start(item)
        return lambda: attempt(item, work)

    waiting: deque[Future[Record]] = deque()
    try:
        with closing(_in_order(map(begun, items), at_once, waiting)) as ended:
            for record in ended:
                records.append(record)
                on_end(record)
    except (KeyboardInterrupt, SetupError) as stop:
        for future in waiting:  # what was in work has ended by now
            if not future.cancelled() and future.exception() is None:
                records.append(future.result())
                on_end(records[-1])
        done = {id(record.item) for record in records}
        return CohortResult(tuple(records), tuple(item for item in items if id(item) not in done), stop)
    return CohortResult(tuple(records))


def _in_order(
    jobs: Iterable[Callable[[], Record]], at_once: int, waiting: deque[Future[Record]]
) -> Generator[Record, None, None]:
    """Give each job's record in turn; one job alone stays in this thread, where Ctrl-C ends it at once.

    ``waiting`` holds those whose records were not given yet.
    """
    if at_once == 1:
        yield from (job() for job in jobs)
        return
    with ThreadPoolExecutor(at_once) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > at_once:
                    yield _first(waiting)
            while waiting:
                yield _first(waiting)
        finally:
            pool.shutdown(cancel_futures=True)


def _first(waiting: deque[Future[Record]]) -> Record:
    """Wait for the first, and take it out only then."""
    record = waiting[0].result()
    waiting.popleft()
    return record


def attempt(item: Item, work: Callable[[Item], Outcome]) -> Record:
    """Work on one item from a clean start and record how it ended. Raises only KeyboardInterrupt and SetupError.

    Left-overs are removed first: outputs of an earlier, incomplete or overwritten run could pass for this one's.
    """
    begin = time.perf_counter()
    try:
        if item.refused is not None:
            raise InputError(item.path, *item.refused)
        _check_there(item.path)
        _clear(item)
        outcome = work(item)
        missing = [str(path) for path in item.outputs if not path.exists()]
        if missing:
            raise RuntimeError(f"finished without writing {', '.join(missing)}")
    except SetupError:
        raise
    except Exception as error:
        foreseen = isinstance(error, SkiagramError)
        trace = None if foreseen else traceback.format_exc()
        if trace:
            log.debug("%s: %s", item.path, trace)
        reason = reason_of(error)
        if not reason.startswith(str(item.path)):
            reason = f"{item.path}: {reason}"
        return Record(item, "failed", time.perf_counter() - begin, reason=reason, traceback=trace)
    return Record(item, "done", time.perf_counter() - begin, outcome)


def collect_inputs(paths: Sequence[Path], is_input: Callable[[Path], bool], *, out: Path | None = None) -> list[Input]:
    """Return the inputs that ``paths`` (files or folders) stand for, in sorted order, each with its output's name.

    A folder for which ``is_input`` holds (a DICOM series) is one input; any other is searched, sub-folders kept in
    the names. A file that was named is an input whatever ``is_input`` says: its reader will say what is wrong with
    it. Hidden files, and the folder ``out``, are passed over. Refused are a folder without any input, and inputs of
    the same name.

    Raises:
        SetupError: ``out`` is one of the folders.
    """
    found: dict[Path, Input] = {}
    for path in paths:
        if out is not None and path.is_dir() and _real(path) == _real(out):
            raise SetupError(f"{path}: is both input and output folder; give another folder with --out")
        for entry in _inputs_of(path, is_input, out) or [Input(path, _stem(path), NO_INPUT)]:
            found.setdefault(_real(entry.path), entry)
    named: dict[str, list[Input]] = {}
    for entry in found.values():
        if entry.refused is None:
            named.setdefault(entry.name, []).append(entry)
    return [_alone(entry, named.get(entry.name, [])) for entry in found.values()]


def _alone(entry: Input, namesakes: Sequence[Input]) -> Input:
    """Refuse an input whose results would be those of another too: neither is to be written over in silence."""
    others = [str(other.path) for other in namesakes if other is not entry]
    if entry.refused or not others:
        return entry
    problem = f"would be written as {entry.name}, and {', '.join(others[:3])} too"
    return replace(entry, refused=(problem, "rename one or run them apart"))


def _taken(outputs: Sequence[Path], reserved: Sequence[Path], times: Mapping[Path, int]) -> tuple[str, str] | None:
    """Say why an input cannot have these outputs, or None; ``times`` is how many inputs would write each."""
    for path in outputs:
        if times[path] > 1:  # of a.png and a.mask.png the mask's picture and the picture's mask
            return f"its result {path.name} would be another input's too", "rename one or run them apart"
        if path in reserved:
            return f"its result would be the run's own {path.name}", "rename it"
        if path.is_dir():
            return f"its result belongs where there is the folder {path}", "give another --out"
    return None


def check_outputs(items: Sequence[Item]) -> None:
    """Raise SetupError if two items would write the same file or one would write over an input."""
    inputs = {_real(item.path) for item in items}
    writers: dict[Path, Item] = {}
    for item in items:
        for path in item.files:
            real = _real(path)
            if real in inputs:
                raise SetupError(f"{path}: is an input and would be written over; give another folder with --out")
            other = writers.setdefault(real, item)
            if other is not item:
                raise SetupError(f"{path}: both {other.path} and {item.path} would be written to it; rename one")


def _inputs_of(path: Path, is_input: Callable[[Path], bool], out: Path | None) -> list[Input]:
    if not path.is_dir() or _holds(is_input, path):
        return [Input(path, _stem(path))]
    return list(_walk(path, path, is_input, None if out is None else _real(out), frozenset()))


def _walk(
    top: Path, folder: Path, is_input: Callable[[Path], bool], out: Path | None, above: frozenset[Path]
) -> Iterator[Input]:
    real = _real(folder)
    if real == out or real in above:  # a link may lead back up
        return
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        yield Input(folder, _stem(folder) if folder == top else str(folder.relative_to(top)))  # its reader says why
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if _holds(is_input, entry):
            yield Input(entry, str(entry.relative_to(top).with_name(_stem(entry))))
        elif entry.is_dir():
            yield from _walk(top, entry, is_input, out, above | {real})


def _holds(is_input: Callable[[Path], bool], path: Path) -> bool:
    try:
        return is_input(path)
    except OSError:
        return True  # what cannot be looked at is an input, so that its reader says why


def _stem(path: Path) -> str:
    name = path.name or path.resolve().name  # "." has no name of its own
    if path.is_dir():
        return name
    suffix = next((known for known in SUFFIXES if name.lower().endswith(known)), "")
    return name[: len(name) - len(suffix)] or name


def _check_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError:
        raise InputError(path, "no such file or folder", "check the name") from None
    except OSError as error:
        raise InputError(path, f"cannot be reached ({error.strerror})", "check its permissions") from None


def _clear(item: Item) -> None:
    """Remove the item's outputs and what a killed run left beside them."""
    for path in item.files:
        try:
            path.unlink(missing_ok=True)
            for aside in leftovers(path):
                aside.unlink(missing_ok=True)
        except OSError as error:
            raise write_error(path, error) from error


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
