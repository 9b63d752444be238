"""From film files to result files: what ``spine predict`` does to each of its inputs.

Every film ``NAME.png`` leaves ``NAME.png`` (the film with its vertebrae), ``NAME.mask.png`` (each pixel's level, 1 for
C1 to 24 for L5, as a palette picture) and ``NAME.json``; the run leaves ``vertebrae.coco.json`` and ``vertebrae.csv``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from shared.cohort import Item, Outcome, plan_results
from shared.errors import InputError
from shared.io.atomic import whole
from shared.io.detection_writers import DECIMALS_PX, DECIMALS_SCORE, write_coco, write_detections_csv
from shared.io.radiograph import is_radiograph, read_radiograph
from shared.report import Stopwatch
from shared.types import Detections, Radiograph
from spine.config import LEVELS
from spine.predict import Predictor, SpineResult

SCHEMA_VERSION = 1
DISCLAIMER = "Research software, not a medical device."
COCO, TABLE, REPORT = "vertebrae.coco.json", "vertebrae.csv", "report.json"
AT_ONCE = 4  # some films are read, decoded and drawn while the network sees others
PNG_EFFORT = 1  # of 9: an overlay is written in a tenth of the time and is a fifth larger


def plan(inputs: Sequence[Path], out: Path) -> list[Item]:
    """Find the films and name their results: the same names out.

    Raises:
        SetupError: nothing to do.
    """
    return plan_results(inputs, is_radiograph, out, (".mask.png", ".png", ".json"), (COCO, REPORT))


def predict_case(item: Item, predictor: Predictor) -> Outcome:
    """Read one film, find and name its vertebrae, and write mask, overlay and JSON.

    Raises:
        InputError: the film cannot be used.
    """
    watch = Stopwatch()
    with watch.stage("read"):
        film = read_radiograph(item.path)
    found = predictor(film, stage=watch.stage)
    mask, overlay, result = item.outputs
    with watch.stage("write mask"):
        write_mask(found, mask)
    with watch.stage("write overlay"):
        write_overlay(film, found, item.path.name, overlay)
    with watch.stage("write JSON"):
        write_result(item.path.name, found, predictor, result)
    return Outcome(
        findings=(*film.source.notes, *found.findings),
        stages_s=dict(watch.seconds),
        result={
            "vertebrae": len(found),
            "from": found.level_names[0] if len(found) else None,
            "to": found.level_names[-1] if len(found) else None,
            "missing": [gone.label for gone in found.missing],
            "changed": len(found.changed),
        },
    )


def write_result(file: str, found: SpineResult, predictor: Predictor, path: Path) -> None:
    """Write a film's JSON: a line for each vertebra, not for each number, which is ten times as fast as well."""
    fields = []
    for name, value in result_json(file, found, predictor).items():
        if isinstance(value, list) and value:
            text = "[\n    " + ",\n    ".join(json.dumps(entry) for entry in value) + "\n  ]"
        else:
            text = json.dumps(value)
        fields.append(f'  "{name}": {text}')
    with whole(path) as aside:
        aside.write_text("{\n" + ",\n".join(fields) + "\n}\n", encoding="utf-8")


def result_json(file: str, found: SpineResult, predictor: Predictor) -> dict[str, Any]:
    """Return a film's result as its JSON file holds it; from the head down, coordinates in pixels of the film."""
    polygons = found.polygons_px or ()
    scores = () if found.detector_scores is None else found.detector_scores
    return {
        "schema_version": SCHEMA_VERSION,
        "file": file,
        "width_px": found.width_px,
        "height_px": found.height_px,
        "engine": predictor.engine,
        **made_with(predictor),
        "vertebrae": [
            {
                "label": label,
                "confidence": round(float(confidence), DECIMALS_SCORE),
                "box_xyxy_px": _rounded(box),
                "polygon_px": _rounded(polygon),
                "raw_label": raw,
                "detector_score": round(float(score), DECIMALS_SCORE),
            }
            for label, confidence, box, polygon, raw, score in zip(
                found.level_names, found.scores, found.boxes_px, polygons, found.raw_labels, scores, strict=True
            )
        ],
        "missing": [{"label": gone.label, "centre_px": _rounded(np.array(gone.centre))} for gone in found.missing],
        "changed": [
            {"raw_label": change.raw_label, "label": change.label, "box_xyxy_px": _rounded(np.array(change.box_px))}
            for change in found.changed
        ],
        "findings": list(found.findings),
        "views": found.views,
        "candidates_above": found.candidates_above,
        "possible": {name: round(chance, DECIMALS_SCORE) for name, chance in (found.possible or {}).items()},
    }


def made_with(predictor: Predictor) -> dict[str, Any]:
    """Return what decides on a result, as it stands in its JSON."""
    second = predictor.second_point
    return {
        "model_sha256": predictor.sha256,
        "operating_point": predictor.operating_point.model_dump(),
        "second_look": predictor.second_look,
        "second_look_above": None if second is None else second.confidence,
    }


def label_picture(found: SpineResult) -> UInt8[np.ndarray, "y x"]:
    """Return each pixel's level, 1 for C1 to 24 for L5 and 0 elsewhere; where two overlap, the surer one's."""
    picture = np.zeros((found.height_px, found.width_px), np.uint8)
    for k in np.argsort(found.scores, kind="stable"):
        found.masks[k].paint(picture, int(found.labels[k]) + 1)
    return picture


def write_mask(found: SpineResult, path: Path) -> None:
    """Write the levels as a palette PNG in the colours of the overlay; its values are the levels."""
    from PIL import Image

    from spine.overlay import COLOURS

    image = Image.fromarray(label_picture(found))
    image.putpalette([0, 0, 0, *(value for level in LEVELS for value in COLOURS[level])])
    with whole(path) as aside:
        image.save(aside)


def write_overlay(film: Radiograph, found: SpineResult, title: str, path: Path) -> None:
    """Write the film with its vertebrae as PNG."""
    from spine.overlay import draw_vertebrae

    image = draw_vertebrae(film.array, found, title=title)
    with whole(path) as aside:
        image.save(aside, compress_level=PNG_EFFORT)


def write_tables(items: Sequence[Item], out: Path) -> list[Path]:
    """Write COCO JSON and CSV of every film that has a result, this run's or an earlier one's; return the files.

    Raises:
        InputError: a result that was there already is no such JSON.
        SetupError: a file cannot be written.
    """
    found = {
        str(item.outputs[-1].parent.relative_to(out) / item.path.name): read_result(item.outputs[-1])
        for item in items
        if item.is_done
    }
    write_coco(found, out / COCO)
    write_detections_csv(found, out / TABLE, best_first=False)  # from the head down
    return [out / COCO, out / TABLE]


def read_result(path: Path) -> Detections:
    """Read a film's JSON back.

    Raises:
        InputError: it is no such JSON.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["vertebrae"]
        return Detections(
            np.array([entry["box_xyxy_px"] for entry in entries], np.float32).reshape(-1, 4),
            np.array([entry["confidence"] for entry in entries], np.float32),
            np.array([LEVELS.index(entry["label"]) for entry in entries], np.int64),
            dict(enumerate(LEVELS)),
            content["width_px"],
            content["height_px"],
            tuple(np.array(entry["polygon_px"], np.float32).reshape(-1, 2) for entry in entries),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"is no result of spine predict ({type(error).__name__}: {error})"
        raise InputError(path, problem, "give another --out, or --overwrite") from error


def _rounded(values: np.ndarray) -> Any:
    """Round to hundredths of a pixel, as plain lists."""
    return np.round(np.asarray(values, np.float64), DECIMALS_PX).tolist()
