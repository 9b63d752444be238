"""What evaluating a detector and a gate have in common: going through the pictures, and writing the files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bones.cases import Case
from shared.errors import InputError
from shared.io.tables import write_csv, write_json
from shared.report import Report, sha256_of

T = TypeVar("T")
WORST = "worst-*.png"  # pictures of an earlier evaluation into the same folder, which would stay beside the new ones


class Told(Protocol):
    """Scores as they are written: a summary and a row a picture."""

    @property
    def failures(self) -> Sequence[str]:
        """A line for each picture that could not be scored."""

    def rows(self) -> list[dict[str, Any]]:
        """Return a line for each picture."""

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers."""


def score_each(
    cases: Iterable[Case], score: Callable[[Case], T], report: Report, on_case: Callable[[int, str], None]
) -> tuple[T, ...]:
    """Score every picture, going on after one that cannot be used; ``report`` notes each."""
    scored = []
    for number, case in enumerate(cases, start=1):
        entry: dict[str, Any] = {"path": case.picture, "status": "done"}
        report.inputs.append(entry)
        started = time.perf_counter()
        try:
            entry["sha256"] = sha256_of(case.picture) if case.picture.exists() else None
            with report.stage("pictures"):
                scored.append(score(case))
        except InputError as error:
            entry |= {"status": "failed", "reason": str(error)}
            report.failures.append(str(error))
        entry["seconds"] = time.perf_counter() - started
        on_case(number, case.name)
    report.exit_status = int(bool(report.failures))
    return tuple(scored)


def write_scores(scores: Told, network: str, draw: Callable[[Path], list[Path]], out: Path, report: Report) -> None:
    """Write table and summary, and let ``draw`` add its pictures; nothing where no picture could be scored."""
    out.mkdir(parents=True, exist_ok=True)
    rows = scores.rows()
    if not rows:
        return
    with report.stage("write"):
        write_csv(rows, out / "cases.csv")
        report.results["scores"] = scores.summary()
        content = {
            "schema_version": 1, "network": network, "model": report.model, "engine": report.engine,
            "precision": report.precision, "split": report.arguments.get("split"), "failed": len(scores.failures),
            "scores": report.results["scores"],
        }  # fmt: skip
        write_json(content, out / "scores.json")
        for old in out.glob(WORST):
            old.unlink()
        report.outputs += [out / "cases.csv", out / "scores.json", *draw(out)]
