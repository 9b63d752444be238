"""What the command lines share: words for people or one JSON object, progress bars, and the exit status.

A command's ``main`` is ``sys.exit(run_command(lambda: tyro_cli(...)))``: its verbs return an ``Answer``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.errors import SetupError, SkiagramError
from shared.report import exit_status_of, plain, product_version, reason_of

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

BAR_AFTER_S = 1.0  # whatever is over sooner needs no bar


@dataclass(frozen=True, slots=True)
class Answer:
    """How a verb ended: the JSON object that ``--json`` prints, and the exit status."""

    result: Mapping[str, Any] = field(default_factory=dict)
    exit_status: int = 0


@dataclass(frozen=True)
class Voice:
    """How a verb speaks. tyro turns the fields into the flags that every verb has."""

    quiet: bool = False
    """Say nothing on stdout."""

    json: bool = False
    """Print one JSON object on stdout and nothing else."""

    debug: bool = False
    """Show tracebacks and everything that is logged, on stderr."""

    def say(self, *words: RenderableType) -> None:
        """Print text or rich tables for people; nothing with ``--quiet`` or ``--json``. Text is never markup."""
        if self._speaks:
            self._console().print(*words)

    @contextmanager
    def progress(self, what: str, total: float | None = None) -> Iterator[Callable[..., None]]:
        """Show a bar with the time left, on a terminal and only once a second has passed.

        Gives ``update(done, what, total)``: how much is done by now, what is being done if that changed, and of how
        much if that was not known before.
        """
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        console = self._console()
        bar = Progress(*columns, console=console, transient=True, disable=not (self._speaks and console.is_terminal))
        task = bar.add_task(what, total=total)
        due = time.monotonic() + BAR_AFTER_S

        def update(done: float, now: str | None = None, total: float | None = None) -> None:
            bar.update(task, completed=done, description=now, total=total)
            if not bar.live.is_started and time.monotonic() >= due:
                bar.start()

        try:
            yield update
        finally:
            if bar.live.is_started:  # stop() of a bar that never showed prints an empty line
                bar.stop()

    @property
    def _speaks(self) -> bool:
        return not (self.quiet or self.json)

    def _console(self) -> Console:
        from rich.console import Console

        class Piped(Console):
            def on_broken_pipe(self) -> None:  # rich would end the process with status 1
                raise

        # soft_wrap: a path broken over two lines cannot be copied.
        return Piped(file=sys.stdout, markup=False, highlight=False, emoji=False, soft_wrap=True)


def run_command(main: Callable[[], Answer | None], argv: Sequence[str] | None = None) -> int:
    """Run ``main``, print its answer if ``--json`` stands in ``argv``, and return the exit status.

    ``--version`` alone is answered here, for every task alike.

    Failures end in one line ``error: ...`` on stderr: 1 for inputs and for what nobody foresaw, 2 for usage and
    environment, 130 for Ctrl-C. With ``--json`` stdout gets exactly one object in every case (an ``error`` where
    there is no answer); what libraries print goes to stderr.
    """
    argv = sys.argv[1:] if argv is None else argv
    if list(argv) == ["--version"]:
        print(product_version())
        return 0
    as_json, debug = "--json" in argv, "--debug" in argv
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "false")  # a wrong option needs no page of pydantic's
    set_up_logging(debug)
    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        answer = _answer_of(main, debug)
    try:
        if as_json and answer is not None:
            print(json.dumps(plain(answer.result), ensure_ascii=False, allow_nan=False))
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_stdout()
    return answer.exit_status if answer else 0


def set_up_logging(debug: bool = False) -> None:
    """Send warnings, or everything with ``debug``, to stderr."""
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="%(levelname)s: %(message)s", force=True)


def _answer_of(main: Callable[[], Answer | None], debug: bool) -> Answer | None:
    """Call ``main`` and turn whatever it ends in into an answer; None if it only printed help."""
    from shared.cli_flags import RULES

    try:
        with RULES:
            return main() or Answer()
    except SystemExit as stop:  # tyro: 0 after --help, 2 after telling on stderr what it did not understand
        status = exit_status_of(stop)
        return Answer({"error": "usage: see stderr", "exit_status": status}, status) if status else None
    except BrokenPipeError:  # whoever read our words has gone, as `head` does: nothing failed
        _drop_stdout()
        return None
    except (KeyboardInterrupt, Exception) as raised:
        if debug:
            traceback.print_exc()
        error = _explained(raised)
        foreseen = isinstance(error, SkiagramError | KeyboardInterrupt)
        reason = reason_of(error)
        hint = "" if foreseen or debug else "; run again with --debug for the traceback"
        print(f"error: {reason}{hint}", file=sys.stderr)
        status = exit_status_of(error)
        return Answer({"error": reason, "exit_status": status}, status)


def _drop_stdout() -> None:
    """Send what is still to be said nowhere, or Python complains of the broken pipe when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explained(error: BaseException) -> BaseException:
    """Turn what a library says of a missing package or a value out of range into words for people."""
    if isinstance(error, ModuleNotFoundError):
        return SetupError(f"{error.name} is not installed; run `uv sync`, which installs what training needs too")
    if type(error).__name__ == "ValidationError" and hasattr(error, "errors"):
        return SetupError("; ".join(_problem(item) for item in error.errors()))
    return error


def _problem(item: Mapping[str, Any]) -> str:
    """Say one pydantic error; one that concerns several fields together names none."""
    where = f"{'.'.join(map(str, item['loc']))} = {item['input']!r}: " if item["loc"] else ""
    return where + str(item["msg"]).removeprefix("Value error, ")
