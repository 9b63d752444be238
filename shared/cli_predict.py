"""What the verb ``predict`` does in every task: load once, work through the inputs, tell what became of each."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from shared.cli import Answer, Voice
from shared.cohort import CohortResult, Item, Outcome, Record, run_cohort
from shared.errors import SetupError
from shared.report import Report, plain, recorded


class Loaded(Protocol):
    """What a task's predictor tells of itself."""

    @property
    def path(self) -> Path:
        """The model file."""

    @property
    def sha256(self) -> str:
        """Of the model file, hex."""

    @property
    def device(self) -> str:
        """Device really used."""

    @property
    def engine(self) -> str:
        """Engine and version really used."""

    @property
    def precision(self) -> str:
        """Precision of the model in use."""


P = TypeVar("P", bound=Loaded)
Part = Callable[[float], None]
"""Hears which share of one input is done."""


def predict_all(
    report: Report,
    items: Sequence[Item],
    out: Path,
    load: Callable[[], P],
    work: Callable[[Item, P, Part], Outcome],
    line: Callable[[Record], str],
    voice: Voice,
    *,
    made_with: Callable[[P], Mapping[str, Any]] = lambda predictor: {},
    overwrite: bool = False,
    at_once: int = 1,
    after: Callable[[P], Sequence[Path]] = lambda predictor: (),
) -> Answer:
    """Load a predictor once, do ``work`` on every item, and write ``out/report.json``, however it ends.

    Args:
        report: of the run, with its task and arguments.
        items: inputs and what each of them leaves.
        out: folder of the run.
        load: makes the predictor.
        work: reads one input and writes its results.
        line: says in one line what became of an input that is done.
        voice: how to speak.
        made_with: settings that decide what a result holds, as they stand in its JSON file; what was made with other
            ones is done again.
        overwrite: do again what is done.
        at_once: how many inputs are in work at a time, in threads; more than one only if ``work`` uses no ``part``.
        after: writes what concerns all inputs together, and returns these files.

    Returns:
        The report, and 0 if all was done now or earlier, 1 if some failed, what stopped the run else.
    """
    with recorded(report, out / "report.json"):
        with report.stage("load model"):
            predictor = load()
        _note(report, predictor)
        settings = made_with(predictor)
        changed = {item: said for item in items if item.is_done and (said := differences(item, settings))}
        with voice.progress(report.task, total=len(items)) as update:
            done = 0

            def part(share: float) -> None:
                update(done + share, items[done].path.name)

            def started(item: Item) -> None:
                if item in changed and not overwrite:
                    said = f"{item.path}: done again, was made with other settings: {', '.join(changed[item])}"
                    report.findings.append(said)
                    voice.say(said)

            def ended(record: Record) -> None:
                nonlocal done
                done += 1
                update(done, None)
                report.add_record(record)
                if record.reason is not None:
                    print(f"error: {record.reason}", file=sys.stderr)
                else:
                    voice.say(line(record) if record.status == "done" else f"{record.item.path}: {record.status}")

            result = run_cohort(
                items, lambda item: work(item, predictor, part),
                overwrite=overwrite, again=changed.__contains__, at_once=at_once, on_start=started, on_end=ended,
            )  # fmt: skip
        _note(report, predictor)  # what is loaded on first use is known now
        if not isinstance(result.stopped, SetupError):  # which might meet these files as well, and hide the first
            report.outputs.extend(after(predictor))
        report.exit_status = result.exit_status
        if result.stopped is not None:
            report.failures.append(str(result.stopped) or "interrupted")
            print(f"error: {report.failures[-1]}", file=sys.stderr)
    _tell(result, out, predictor, voice)
    return Answer(report.as_dict(), result.exit_status)


def differences(item: Item, settings: Mapping[str, Any]) -> list[str]:
    """Say which settings in the JSON file of a result are other ones now; empty where all are the same."""
    result = next((path for path in item.outputs if path.suffix == ".json"), None)
    if result is None:
        return []
    try:
        content = dict(json.loads(result.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return [f"{result.name} cannot be read"]
    wanted = plain(settings)
    return [
        f"{name} {_short(content.get(name))}, now {_short(value)}"
        for name, value in wanted.items()
        if content.get(name) != value
    ]


def _short(value: Any) -> str:
    """Say a setting's value; of a hash its beginning."""
    text = "none" if value is None else str(value)
    return f"{text[:8]}..." if len(text) == 64 else text


def _note(report: Report, predictor: Loaded) -> None:
    report.use_model(predictor.path, predictor.sha256)
    report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision


def _tell(result: CohortResult, out: Path, predictor: Loaded, voice: Voice) -> None:
    counts = {status: len(result.having(status)) for status in ("done", "skipped", "failed")}
    voice.say(
        f"{counts['done']} done, {counts['skipped']} skipped, {counts['failed']} failed; results in {out} "
        f"({predictor.engine} on {predictor.device}, {predictor.precision})"
    )
    if counts["skipped"]:
        voice.say("skipped were there already, made with these settings; --overwrite makes them again")
