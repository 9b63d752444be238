from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
import tyro
from rich.console import Console
from rich.table import Table

from shared.cli import Answer, Voice, run_command
from shared.errors import InputError, SetupError
from shared.report import product_version

FAILURES = [
    (InputError("a.nii", "is empty", "export it again"), 1, "a.nii: is empty; export it again"),
    (SetupError("no CUDA here; use --device cpu"), 2, "no CUDA here; use --device cpu"),
    (KeyboardInterrupt(), 130, "interrupted"),
    (ZeroDivisionError("by\n0"), 1, "unexpected ZeroDivisionError: by 0"),
]


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


class Fails:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self) -> Answer:
        print("from a library")
        raise self.error


@pytest.mark.parametrize(("error", "status", "reason"), FAILURES)
def test_failure_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, reason: str
) -> None:
    assert run_command(Fails(error), []) == status
    told = capsys.readouterr()
    hint = "; run again with --debug for the traceback" if isinstance(error, ZeroDivisionError) else ""
    assert told.err == f"error: {reason}{hint}\n"
    assert told.out == "from a library\n"


@pytest.mark.parametrize(("error", "status", "reason"), FAILURES)
def test_failure_with_json_is_one_object(
    capsys: pytest.CaptureFixture[str], error: BaseException, status: int, reason: str
) -> None:
    assert run_command(Fails(error), ["--json"]) == status
    assert json.loads(capsys.readouterr().out) == {"error": reason, "exit_status": status}


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(Fails(ZeroDivisionError("by 0")), ["--debug"]) == 1
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "raise self.error" in told
    assert told.endswith("error: unexpected ZeroDivisionError: by 0\n")


def test_json_is_the_only_thing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> Answer:
        voice = Voice(json=True)
        print("from a library")
        logging.warning("from a logger")
        voice.say("for people")
        with voice.progress("working", total=2) as update:
            update(1)
        return Answer({"path": Path("ä"), "hd95_mm": float("inf")}, exit_status=1)

    assert run_command(main, ["predict", "--json"]) == 1
    told = capsys.readouterr()
    assert json.loads(told.out) == {"path": "ä", "hd95_mm": None}
    assert told.out.count("\n") == 1
    assert "from a library" in told.err
    assert "WARNING: from a logger" in told.err
    assert "for people" not in told.err


def test_without_json_people_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/scans/[bold]patient/" + "long/" * 40

    def main() -> Answer:
        table = Table("case", "Dice")
        table.add_row("1", "0.9")
        Voice().say(path)
        Voice().say(table)
        Voice(quiet=True).say("nothing")
        return Answer({"unused": 1})

    assert run_command(main, []) == 0
    told = capsys.readouterr()
    assert told.out.splitlines()[0] == path
    assert "Dice" in told.out
    assert "nothing" not in told.out
    assert "unused" not in told.out
    assert told.err == ""


def test_main_without_answer_has_done_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: None, []) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("argv", "status"), [(["--help"], 0), (["--colour"], 2), (["--colour", "--json"], 2)])
def test_usage_of_a_real_command_line(argv: list[str], status: int) -> None:
    code = """
import sys, tyro
from typing import Annotated
from shared.cli import Answer, Voice, run_command
def info(voice: Annotated[Voice, tyro.conf.arg(name=""), tyro.conf.FlagCreatePairsOff] = Voice()) -> Answer:
    return Answer({"json": voice.json})
sys.exit(run_command(lambda: tyro.cli(info)))
"""
    run = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)
    assert run.returncode == status
    if status == 0:
        assert all(flag in run.stdout for flag in ("--quiet", "--json", "--debug"))
        assert "--no-quiet" not in run.stdout
    else:
        assert "--colour" in run.stderr
        assert bool(run.stdout) == ("--json" in argv)
    if run.stdout and status:
        assert json.loads(run.stdout)["exit_status"] == 2


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, force_interactive=True, width=100)
    monkeypatch.setattr(Voice, "_console", lambda self: console)
    return screen


def test_bar_shows_after_a_second_with_time_left(terminal: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with Voice().progress("[1/2] a.nii", total=8) as update:
        update(1)
        assert terminal.getvalue() == ""
        now[0] += 1.5
        update(4, "[2/2] b.nii")
    shown = terminal.getvalue()
    assert "[2/2] b.nii" in shown
    assert "50%" in shown
    assert ":" in shown.split("50%")[1]


def test_no_bar_when_quiet_or_soon_over(terminal: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    with Voice().progress("short", total=2) as update:
        update(2)
    assert terminal.getvalue() == ""
    ticks = iter(range(0, 10**6, 10))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    with Voice(quiet=True).progress("long", total=2) as update:
        update(1)
    assert terminal.getvalue() == ""


def test_a_missing_package_and_a_value_out_of_range_are_setup_errors(capsys):
    from coronary.phantom import PhantomConfig

    def no_torch():
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert run_command(no_torch, []) == 2
    assert capsys.readouterr().err.startswith("error: torch is not installed; run `uv sync`")
    assert run_command(lambda: PhantomConfig(spacing_mm=(-1, 1, 1)), []) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: spacing_mm = (-1")
    assert line.count("\n") == 1


def test_a_reader_that_goes_away_is_no_failure():
    code = "import sys; from shared.cli import Voice, run_command; from shared.cli import Answer\n" + (
        "def main():\n    for _ in range(99999): Voice().say('words')\n    return Answer()\n"
        "sys.exit(run_command(main, []))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    child.stdout.readline()
    child.stdout.close()
    with child.stderr:
        assert (child.wait(60), child.stderr.read()) == (0, b"")


def test_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: pytest.fail("parsed"), ["--version"]) == 0
    assert capsys.readouterr().out == product_version() + "\n"


def test_what_may_be_left_out_is_called_by_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    def verb(model: Path | None = None, share: float | None = 0.9) -> Answer:
        return Answer({"model": model, "share": share})

    assert run_command(lambda: tyro.cli(verb, args=["--help"]), ["--help"]) == 0
    told = capsys.readouterr().out
    assert "--model PATH" in told
    assert "--share FLOAT" in told
    said = ["--model", "a.onnx", "--share", "None"]  # a preset's value can be undone
    assert run_command(lambda: tyro.cli(verb, args=said), [*said, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"model": "a.onnx", "share": None}
    assert run_command(lambda: tyro.cli(verb, args=["--share", "half"]), ["--share", "half"]) == 2
