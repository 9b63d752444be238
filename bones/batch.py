"""From pictures to result files: what ``bones predict`` does to each of its inputs.

Every picture ``NAME.png`` leaves ``NAME.json`` and ``NAME.png`` (the picture with its boxes); the run leaves
``detections.coco.json`` and ``detections.csv``. A picture that the gate turns away has a result like any other.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bones.gate import GateDecision
from bones.predict import GatedDetections, Predictor
from shared.cohort import Item, Outcome, plan_results
from shared.errors import InputError
from shared.io.atomic import whole
from shared.io.detection_writers import detection_entries, write_coco, write_detections_csv
from shared.io.radiograph import is_radiograph, read_radiograph
from shared.io.tables import write_json
from shared.report import Stopwatch
from shared.types import Detections, Radiograph

SCHEMA_VERSION = 1
DISCLAIMER = "Research software, not a medical device."
COCO, TABLE, REPORT = "detections.coco.json", "detections.csv", "report.json"
PNG_EFFORT = 1  # of 9: an overlay is written in a tenth of the time and is a fifth larger


def plan(inputs: Sequence[Path], out: Path) -> list[Item]:
    """Find the pictures and name their results: the same names out.

    Raises:
        SetupError: nothing to do.
    """
    return plan_results(inputs, is_radiograph, out, (".png", ".json"), (COCO, REPORT))


def predict_case(item: Item, predictor: Predictor) -> Outcome:
    """Read one picture, look at it, and write its JSON and its overlay.

    Raises:
        InputError: the picture cannot be used.
    """
    watch = Stopwatch()
    with watch.stage("read"):
        radiograph = read_radiograph(item.path)
    found = predictor(radiograph, stage=watch.stage)
    overlay, result = item.outputs
    with watch.stage("write overlay"):
        write_overlay(radiograph, found, predictor, item.path.name, overlay)
    with watch.stage("write JSON"):
        write_json(result_json(item.path.name, found, predictor), result)
    gate = found.gate
    return Outcome(
        findings=(*radiograph.source.notes, *found.findings),
        stages_s=dict(watch.seconds),
        result={
            "gate_passed": gate.passed if gate else None,
            "detections": len(found),
            "best_score": float(found.scores.max()) if len(found) else None,
        },
    )


def result_json(file: str, found: GatedDetections, predictor: Predictor) -> dict[str, Any]:
    """Return a picture's result as the JSON file and the service give it; ``gate`` is null where it was not asked."""
    return {
        "schema_version": SCHEMA_VERSION,
        "file": file,
        "width_px": found.width_px,
        "height_px": found.height_px,
        "engine": predictor.engine,
        **made_with(predictor),
        "gate": found.gate and gate_entry(found.gate),
        "detections": detection_entries(found),
    }


def made_with(predictor: Predictor) -> dict[str, Any]:
    """Return what decides on a result, as it stands in its JSON; ``gate_sha256`` is null where there is no gate."""
    return {
        "model_sha256": predictor.sha256,
        "gate_sha256": predictor.gate and predictor.gate.sha256,
        "operating_point": predictor.operating_point,
        "threshold": predictor.threshold,
    }


def gate_entry(gate: GateDecision) -> dict[str, Any]:
    """Return the gate's decision as it stands in a picture's JSON."""
    return {
        "passed": gate.passed,
        "area_fraction": round(gate.area_fraction, 4),
        "confidence": round(gate.confidence, 4),
        "reason": gate.reason,
    }


def write_overlay(radiograph: Radiograph, found: GatedDetections, predictor: Predictor, title: str, path: Path) -> None:
    """Write the picture with its boxes as PNG."""
    from shared.draw_detections import draw_detections

    count = f"{len(found) or 'no'} {'box' if len(found) == 1 else 'boxes'}"
    caption = f"{count} with a score of {predictor.threshold:.2f} or more ({predictor.operating_point})"
    turned_away = found.gate is not None and not found.gate.passed
    image = draw_detections(radiograph.array, found, title=title, caption="" if turned_away else caption)
    with whole(path) as aside:
        image.save(aside, compress_level=PNG_EFFORT)


def write_tables(items: Sequence[Item], out: Path, names: Mapping[int, str]) -> list[Path]:
    """Write COCO JSON and CSV of every picture that has a result, this run's or an earlier one's; return the files.

    Raises:
        InputError: a result that was there already is no such JSON.
        SetupError: a file cannot be written.
    """
    found = {}
    for item in items:
        if item.is_done:
            found[_name_within(item, out)] = read_result(item.outputs[1], names)
    write_coco(found, out / COCO)
    write_detections_csv(found, out / TABLE)
    return [out / COCO, out / TABLE]


def read_result(path: Path, names: Mapping[int, str]) -> Detections:
    """Read a picture's JSON back; ``names`` are the labels that it may have.

    Raises:
        InputError: it is no such JSON, or has other labels.
    """
    numbers = {name: label for label, name in names.items()}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["detections"]
        polygons = tuple(np.array(entry["polygon_px"], np.float32) for entry in entries if "polygon_px" in entry)
        return Detections(
            np.array([entry["box_xyxy_px"] for entry in entries], np.float32).reshape(-1, 4),
            np.array([entry["score"] for entry in entries], np.float32),
            np.array([numbers[entry["label"]] for entry in entries], np.int64),
            dict(names),
            content["width_px"],
            content["height_px"],
            polygons or None,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"is no result of this model ({type(error).__name__}: {error})"
        raise InputError(path, problem, "give another --out, or --overwrite") from error


def _name_within(item: Item, out: Path) -> str:
    """Name a picture as its result lies below ``out``, with its own suffix: unique, where file names need not be."""
    return str(item.outputs[1].parent.relative_to(out) / item.path.name)
