"""Two kinds of failure, and the exit status each one ends in."""

from __future__ import annotations

from pathlib import Path


class SkiagramError(Exception):
    """A failure that a person can mend; its text is one line that says how."""

    exit_status = 2


class InputError(SkiagramError):
    """One input cannot be used: names the file, what is wrong with it, and what to do. Exit status 1."""

    exit_status = 1

    def __init__(self, path: Path | str, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = Path(path), problem, remedy
        super().__init__(f"{path}: {problem}; {remedy}")


class SetupError(SkiagramError):
    """Usage or environment: no such model, a device that is not there, an unknown option. Exit status 2."""
