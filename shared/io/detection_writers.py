"""Detections out: COCO JSON and CSV for a whole folder, and the plain entries of a picture's own JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from shared.boxes import box_areas
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.tables import write_csv
from shared.report import product_version
from shared.types import Detections, Polygon

DECIMALS_PX = 2
DECIMALS_SCORE = 4
COLUMNS = ("file", "label", "score", "x1_px", "y1_px", "x2_px", "y2_px")


def detection_entries(detections: Detections, *, best_first: bool = True) -> list[dict[str, Any]]:
    """Give each detection, best first or as they stand: ``box_xyxy_px``, ``score``, ``label``, any ``polygon_px``."""
    entries = []
    for k in _best_first(detections) if best_first else range(len(detections)):
        entry: dict[str, Any] = {
            "box_xyxy_px": _rounded(detections.boxes_px[k]),
            "score": round(float(detections.scores[k]), DECIMALS_SCORE),
            "label": detections.names[int(detections.labels[k])],
        }
        if detections.polygons_px is not None:
            entry["polygon_px"] = [_rounded(corner) for corner in detections.polygons_px[k]]
        entries.append(entry)
    return entries


def write_coco(found: Mapping[str, Detections], path: Path | str) -> None:
    """Write the detections of many pictures, by file name, as one COCO data set whose annotations have a ``score``.

    Boxes are x, y, width, height; polygons are segmentations; pictures without a detection are listed too. Image ids
    count from 1 in the order given.

    Raises:
        SetupError: the pictures' label names disagree, or the file cannot be written.
    """
    names: dict[int, str] = {}
    for file, detections in found.items():
        for label, name in detections.names.items():
            if names.setdefault(label, name) != name:
                raise SetupError(f"{path}: label {label} is {names[label]} and, on {file}, {name}; write them apart")
    info = {
        "description": "Skiagram detections: research software, not a medical device",
        "version": product_version(),
    }
    lists: dict[str, Iterable[dict[str, Any]]] = {
        "images": (
            {"id": number, "file_name": file, "width": detections.width_px, "height": detections.height_px}
            for number, (file, detections) in enumerate(found.items(), start=1)
        ),
        "categories": ({"id": label, "name": name} for label, name in sorted(names.items())),
        "annotations": ({"id": number, **entry} for number, entry in enumerate(_coco_annotations(found), start=1)),
    }
    # Entry by entry: the outlines of thousands of pictures as Python's numbers are gigabytes.
    with whole(path) as aside, aside.open("w", encoding="utf-8") as out:
        out.write(f'{{\n"info": {json.dumps(info)}')
        for name, entries in lists.items():
            out.write(f',\n"{name}": [')
            for place, entry in enumerate(entries):
                out.write(",\n" * bool(place) + json.dumps(entry, allow_nan=False))
            out.write("]")
        out.write("\n}\n")


def write_detections_csv(found: Mapping[str, Detections], path: Path | str, *, best_first: bool = True) -> None:
    """Write one row for each detection: file, label, score and box in pixels; a picture without one has an empty row.

    A picture's rows go from the highest score down, or as the detections stand.

    Raises:
        SetupError: the file cannot be written.
    """
    write_csv((row for file, detections in found.items() for row in _rows(file, detections, best_first)), path, COLUMNS)


def _rows(file: str, detections: Detections, best_first: bool) -> Iterable[dict[str, Any]]:
    if not len(detections):
        yield {"file": file}
    for entry in detection_entries(replace(detections, polygons_px=None), best_first=best_first):
        yield dict(zip(COLUMNS, (file, entry["label"], entry["score"], *entry["box_xyxy_px"]), strict=True))


def _coco_annotations(found: Mapping[str, Detections]) -> Iterable[dict[str, Any]]:
    for number, detections in enumerate(found.values(), start=1):
        areas = box_areas(detections.boxes_px)
        for k in _best_first(detections):
            x1, y1, x2, y2 = detections.boxes_px[k].astype(np.float64)
            polygon = None if detections.polygons_px is None else detections.polygons_px[k]
            drawn = polygon is not None and len(polygon) >= 3
            area = _polygon_area(polygon) if polygon is not None and drawn else float(areas[k])
            yield {
                "image_id": number,
                "category_id": int(detections.labels[k]),
                "bbox": _rounded([x1, y1, x2 - x1, y2 - y1]),
                "area": round(area, DECIMALS_PX),
                "iscrowd": 0,
                "segmentation": [_rounded(polygon.ravel())] if polygon is not None and drawn else [],
                "score": round(float(detections.scores[k]), DECIMALS_SCORE),
            }


def _best_first(detections: Detections) -> list[int]:
    order: list[int] = np.argsort(-detections.scores, kind="stable").tolist()
    return order


def _polygon_area(polygon: Polygon) -> float:
    """Return the area within a closed outline, square pixels (the shoelace formula)."""
    x, y = polygon.astype(np.float64).T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def _rounded(values: Any) -> list[float]:
    rounded: list[float] = np.round(np.asarray(values, np.float64), DECIMALS_PX).tolist()
    return rounded
