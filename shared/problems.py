"""What is wrong with a data set, told all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shared.errors import SkiagramError


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong ``where`` (a case, a file or a line of it), and what to do. A ``note`` hinders nothing."""

    where: str
    what: str
    remedy: str
    note: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.remedy}"


class DataError(SkiagramError):
    """A data set cannot be used as it is; the text has a line for each problem, up to ``MOST``. Exit status 1."""

    exit_status = 1
    MOST = 20

    def __init__(self, head: str, problems: Sequence[Problem], verb: str) -> None:
        """Say ``head``, then the problems; ``verb`` is the command that names all of them."""
        self.problems = tuple(problems)
        more = [f"and {len(problems) - self.MOST} more: `{verb}` names all"] if len(problems) > self.MOST else []
        super().__init__("\n  ".join([f"{head}:", *map(str, problems[: self.MOST]), *more]))
