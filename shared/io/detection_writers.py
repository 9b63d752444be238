"""Detections out: COCO JSON and CSV for a whole folder, and the plain entries of a picture's own JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shared.boxes import box_areas
from shared.errors import SetupError
from shared.io.tables import write_csv, write_json
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
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (file, detections) in enumerate(found.items(), start=1):
        size = {"width": detections.width_px, "height": detections.height_px}
        images.append({"id": number, "file_name": file, **size})
        annotations += [
            {"id": len(annotations) + k, "image_id": number, **entry}
            for k, entry in enumerate(_coco_annotations(detections), start=1)
        ]
    content = {
        "info": {"description": "Skiagram detections: research software, not a medical device",
                 "version": product_version()},
        "images": images,
        "categories": [{"id": label, "name": name} for label, name in sorted(names.items())],
        "annotations": annotations,
    }  # fmt: skip
    write_json(content, path)


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
    for entry in detection_entries(detections, best_first=best_first):
        yield dict(zip(COLUMNS, (file, entry["label"], entry["score"], *entry["box_xyxy_px"]), strict=True))


def _coco_annotations(detections: Detections) -> Iterable[dict[str, Any]]:
    areas = box_areas(detections.boxes_px)
    for k in _best_first(detections):
        x1, y1, x2, y2 = detections.boxes_px[k].astype(np.float64)
        polygon = None if detections.polygons_px is None else detections.polygons_px[k]
        drawn = polygon is not None and len(polygon) >= 3
        yield {
            "category_id": int(detections.labels[k]),
            "bbox": _rounded([x1, y1, x2 - x1, y2 - y1]),
            "area": round(_polygon_area(polygon) if polygon is not None and drawn else float(areas[k]), DECIMALS_PX),
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
    return [round(float(value), DECIMALS_PX) for value in values]
