import csv
import json
from pathlib import Path

import numpy as np
import pytest

from shared.errors import SetupError
from shared.io.detection_writers import detection_entries, write_coco, write_detections_csv
from shared.types import Detections

NAMES = {1: "fracture", 2: "implant"}
BOXES = np.array([[1, 2, 11, 22], [0.123456, 5, 30.5, 40]], np.float32)
POLYGONS = (np.array([[1, 2], [11, 2], [11, 22]], np.float32), np.array([[0, 5], [30, 5]], np.float32))


def detections(polygons: tuple[np.ndarray, ...] | None = None) -> Detections:
    scores = np.array([0.25, 0.875], np.float32)
    return Detections(BOXES, scores, np.array([1, 2]), NAMES, 64, 48, polygons)


def nothing() -> Detections:
    none = np.zeros(0, np.float32)
    return Detections(none.reshape(0, 4), none, np.zeros(0, np.int64), NAMES, 20, 10, findings=("no bone",))


def test_entries_come_best_first() -> None:
    best, other = detection_entries(detections(POLYGONS))
    assert best == {"box_xyxy_px": [0.12, 5, 30.5, 40], "score": 0.875, "label": "implant",
                    "polygon_px": [[0, 5], [30, 5]]}  # fmt: skip
    assert (other["label"], other["box_xyxy_px"]) == ("fracture", [1, 2, 11, 22])
    assert "polygon_px" not in detection_entries(detections())[0]
    assert detection_entries(nothing()) == []


def test_coco_holds_every_picture_label_and_score(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    write_coco({"a.png": detections(POLYGONS), "none.png": nothing(), "b.png": detections()}, path)
    content = json.loads(path.read_text())
    assert content["images"] == [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "none.png", "width": 20, "height": 10},
        {"id": 3, "file_name": "b.png", "width": 64, "height": 48},
    ]
    assert content["categories"] == [{"id": 1, "name": "fracture"}, {"id": 2, "name": "implant"}]
    assert [entry["id"] for entry in content["annotations"]] == [1, 2, 3, 4]
    assert [entry["image_id"] for entry in content["annotations"]] == [1, 1, 3, 3]
    flat, triangle, _, box = content["annotations"]
    assert triangle["bbox"] == [1, 2, 10, 20]
    assert (triangle["area"], triangle["segmentation"]) == (100, [[1, 2, 11, 2, 11, 22]])
    assert (box["area"], box["segmentation"], box["score"]) == (200, [], 0.25)
    assert flat["segmentation"] == []  # two corners outline nothing


def test_coco_refuses_one_number_for_two_labels(tmp_path: Path) -> None:
    other = nothing()
    object.__setattr__(other, "names", {1: "line"})
    with pytest.raises(SetupError, match=r"label 1 is fracture and, on b.png, line; write them apart"):
        write_coco({"a.png": detections(), "b.png": other}, tmp_path / "found.json")


def test_csv_has_a_row_for_each_box_and_one_for_none(tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    write_detections_csv({"a.png": detections(), "none.png": nothing()}, path)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["label"], row["score"]) for row in rows] == [
        ("a.png", "implant", "0.875"),
        ("a.png", "fracture", "0.25"),
        ("none.png", "", ""),
    ]
    assert [float(rows[1][f"{corner}_px"]) for corner in ("x1", "y1", "x2", "y2")] == [1, 2, 11, 22]


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"scores": np.zeros(3, np.float32)}, "do not belong"),
        ({"boxes_px": np.array([[5, 5, 1, 9], [0, 0, 1, 1]], np.float32)}, "x1 <= x2"),
        ({"boxes_px": np.array([[np.nan, 5, 6, 9], [0, 0, 1, 1]], np.float32)}, "finite"),
        ({"labels": np.array([1, 7])}, r"labels \[7\] have no name"),
        ({"polygons_px": (POLYGONS[0],)}, "do not belong"),
    ],
)
def test_detections_that_make_no_sense_cannot_be_made(spoilt: dict[str, object], words: str) -> None:
    parts = {"boxes_px": BOXES, "scores": np.ones(2, np.float32), "labels": np.array([1, 2]), "polygons_px": None}
    with pytest.raises(ValueError, match=words):
        Detections(**(parts | spoilt), names=NAMES, width_px=9, height_px=9)
