"""Score a detector or a gate on labelled radiographs; or boxes that lie in a folder.

A detector is scored by itself, on every picture, those without a fracture included; then once more behind the gate, as
people will use it. What the reference project published of its detector is computed too, under ``reference``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from pydantic import ValidationError

from bones.batch import read_result
from bones.cases import Case, find_cases
from bones.config import Config
from bones.evaluate_common import score_each, write_scores
from bones.evaluate_gate import GateScores, evaluate_gate
from bones.gate import GateDecision
from bones.predict import NO_GATE, OPERATING_POINTS, Predictor
from bones.scores import Scored, Scores, mask_pairs
from bones.scoring import beside_truth
from bones.splitting import group_cases, split_cases
from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.registry import choose_model
from shared.report import Report, recorded
from shared.runtime import read_metadata
from shared.types import Detections

AS_GIVEN = "as given"
"""The operating point of boxes that came without one."""


class Seen(NamedTuple):
    """What was found on a picture, what the gate decided (None: not asked), and the detector's seconds."""

    found: Detections
    gate: GateDecision | None = None
    seconds: float | None = None


Find: TypeAlias = Callable[[Case], Seen]
"""Gives what is found on a case's picture."""


def evaluate(
    model: Path | Predictor,
    cases: Iterable[Case],
    *,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, case: None,
) -> Scores:
    """Look for fractures on every case's picture, without the gate, and compare them with its true boxes.

    Raises:
        InputError: a picture cannot be used.
    """
    predictor = model if isinstance(model, Predictor) else Predictor(model, device, gate=NO_GATE)
    find, scored = from_model(predictor), []
    for number, case in enumerate(cases, start=1):
        scored.append(score_case(case, case.name, find))
        on_case(number, case.name)
    return Scores(tuple(scored), points_of(predictor))


def evaluate_folder(
    model: Path | None,
    data: Path,
    part: str,
    out: Path,
    device: str = "auto",
    on_case: Callable[[int, str], None] = lambda done, case: None,
    *,
    predictions: Path | None = None,
    gate: Path | str | None = None,
    others: Path | None = None,
    split_file: Path | None = None,
    classes: Mapping[str, str] | None = None,
) -> Scores | GateScores:
    """Evaluate a detector, a gate, or boxes that lie in a folder, on the cases of ``data``.

    ``out`` receives ``scores.json``, ``cases.csv``, ``curves.png``, ``scores.png``, ``worst-NAME.png`` of three
    pictures, and ``report.json``; a gate has no ``curves.png``.

    Args:
        model: an ONNX file, of a detector or of a gate; the shipped detector where None.
        data: folder of labelled radiographs.
        part: training, validation or test of the split, or all.
        out: folder for the results.
        device: where the networks run.
        on_case: called after each picture with how many are done and its name.
        predictions: folder of JSON files as ``bones predict`` writes them, in place of a model.
        gate: that the detector is also scored behind: a file, ``"none"``, or None for the shipped one.
        others: folder of pictures that are no radiographs, which a gate is to turn away.
        split_file: what ``part`` refers to; else the data set's own split, else that of the model's training.
        classes: which class of the data set is which label.

    Raises:
        SetupError: no such part or model, no labelled picture, or arguments that do not go together.
    """
    import matplotlib  # noqa: F401  # said before minutes of scoring, where it is missing

    if predictions is not None and model is not None:
        raise SetupError("two things to score: give either --model FILE or --predictions DIR")
    arguments = {
        "model": model, "data": data, "split": part, "out": out, "device": device, "predictions": predictions,
        "gate": gate, "others": others, "split_file": split_file, "classes": classes,
    }  # fmt: skip
    report = Report("bones", "evaluate", arguments)
    if predictions is not None:
        results = read_folder(predictions)
        with recorded(report, out / "report.json"):
            cases, groups = _labelled(data, part, results.labels, classes, split_file, Config(), report)
            return evaluate_cases(from_folder(results), {AS_GIVEN: 0.0}, cases, groups, out, report, on_case)
    path = choose_model("bones", "auto", device) if model is None else model
    metadata = read_metadata(path)
    config = training_config(metadata)
    if metadata.get("network") == "gate":
        with recorded(report, out / "report.json"):
            cases, _ = choose(data, part, None, None, split_file, config, report)
            return evaluate_gate(path, cases, out, report, device, others, on_case)
    if others is not None:
        raise SetupError("--others: pictures that are no radiographs say nothing of a detector; give a gate's file")
    with recorded(report, out / "report.json"):
        with report.stage("load model"):
            predictor = Predictor(path, device, gate=gate)
            predictor.preload()
        cases, groups = _labelled(data, part, list(predictor.names.values()), classes, split_file, config, report)
        note_model(report, predictor)
        return evaluate_cases(from_model(predictor), points_of(predictor), cases, groups, out, report, on_case)


def training_config(metadata: Mapping[str, Any]) -> Config:
    """Return the config that a model was trained by, so that data without a split are split as they were then."""
    try:
        return Config.model_validate(metadata["training"]["config"])
    except (KeyError, TypeError, ValidationError):
        return Config()


def choose(
    data: Path,
    part: str,
    labels: Sequence[str] | None,
    classes: Mapping[str, str] | None,
    split_file: Path | None,
    config: Config,
    report: Report,
) -> tuple[Sequence[Case], Mapping[str, str]]:
    """Return the cases of a part, and the group of each by its name.

    Raises:
        SetupError: no such data, or no such part.
    """
    with report.stage("split"):
        cases = find_cases(data, labels, classes)
        if part == "all" and split_file is None:
            return cases, group_cases(cases)
        split = split_cases(cases, config, split_file)
        report.findings += split.notes
        return split.part(part), split.groups


def _labelled(data: Path, part: str, *told: Any) -> tuple[Sequence[Case], Mapping[str, str]]:
    """Return those cases of a part that are labelled, as `choose`."""
    report: Report = told[-1]
    cases, groups = choose(data, part, *told)
    usable = [case for case in cases if is_labelled(case)]
    if not usable:
        raise SetupError(f"{data}: has no boxes for {part}; a detector is scored on pictures with boxes")
    if left := len(cases) - len(usable):
        report.findings.append(f"{left} of {len(cases)} pictures have no labels and are left out")
    return usable, groups


def is_labelled(case: Case) -> bool:
    """Say whether it is known where its fractures are; that there is none is known too."""
    return case.boxes is not None or case.fractured is False


def evaluate_cases(
    find: Find,
    points: Mapping[str, float],
    cases: Sequence[Case],
    groups: Mapping[str, str],
    out: Path,
    report: Report,
    on_case: Callable[[int, str], None] = lambda done, case: None,
) -> Scores:
    """Score every picture, go on after one that cannot be used, and write everything but ``report.json`` to ``out``."""
    scored = score_each(cases, lambda case: score_case(case, groups[case.name], find), report, on_case)
    scores = Scores(scored, points, tuple(report.failures))
    from bones.evaluate_pictures import draw_all

    write_scores(scores, "detector", lambda folder: draw_all(scores, folder), out, report)
    return scores


def score_case(case: Case, group: str, find: Find) -> Scored:
    """Look at one picture and lay what is found beside its labels.

    Raises:
        InputError: it cannot be used.
    """
    seen = find(case)
    return Scored(case, group, beside_truth(seen.found, case), seen.gate, seen.seconds, mask_pairs(seen.found, case))


def note_model(report: Report, predictor: Predictor) -> None:
    """Note which models and what device and engine are really used."""
    report.use_model(predictor.path, predictor.sha256)
    report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
    gate = predictor.gate
    report.results["gate"] = gate and {"name": gate.path.name, "sha256": gate.sha256}


def points_of(predictor: Predictor) -> dict[str, float]:
    """Return the score that a box must reach at each operating point of the model."""
    return {name: predictor.file.operating_points[name] for name in OPERATING_POINTS}


def from_model(predictor: Predictor) -> Find:
    """Find what a model finds, whatever its score; the gate says what it would have done."""

    def find(case: Case) -> Seen:
        radiograph = read_radiograph(case.picture)
        decision = None if predictor.gate is None else predictor.gate(radiograph)
        started = time.perf_counter()
        found = predictor(radiograph, threshold=0.0, gated=False)
        return Seen(found, decision, time.perf_counter() - started)

    return find


class Results(NamedTuple):
    """The JSON files of a folder, by their path in it without the ending, and the labels that occur in them."""

    folder: Path
    files: Mapping[str, Path]
    labels: Sequence[str]


def read_folder(folder: Path) -> Results:
    """Look for results in a folder, such as ``bones predict`` wrote.

    Raises:
        SetupError: no such folder, or no result in it.
    """
    files, labels = {}, set()
    for path in sorted(folder.rglob("*.json")):
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["detections"]
            labels |= {str(entry["label"]) for entry in entries}
        except (OSError, ValueError, KeyError, TypeError):  # report.json, COCO
            continue
        files[path.relative_to(folder).with_suffix("").as_posix()] = path
    if not files:
        raise SetupError(f"{folder}: holds no results; give the folder that `bones predict` wrote")
    return Results(folder, files, sorted(labels) or ["fracture"])


def from_folder(results: Results) -> Find:
    """Find what stands in JSON files.

    A file has the picture's path within the data set or within one of its folders: for ``train/images/a.png`` it is
    ``train/images/a.json``, ``images/a.json`` or ``a.json``.
    """
    names = dict(enumerate(results.labels, 1))

    def find(case: Case) -> Seen:
        parts = Path(case.name).with_suffix("").parts
        ends = ("/".join(parts[k:]) for k in range(len(parts)))
        path = next((results.files[end] for end in ends if end in results.files), None)
        if path is None:
            raise InputError(results.folder / case.name, "no result of this picture", f"name it {parts[-1]}.json")
        return Seen(read_result(path, names))

    return find
