"""A look over a data set names everything that is wrong with it at once, and counts what it holds."""

from pathlib import Path

import bone_sets
import numpy as np
from PIL import Image

from bones.check import check_folder


def test_everything_is_named_at_once(tmp_path: Path) -> None:
    line = bone_sets.yolo_line((5, 5, 20, 20), 90, 60)
    texts = {"train/a": line, "train/b": f"{line}\n{line}", "valid/c": "", "train/d": "0 2 2 1 1", "train/e": None}
    bone_sets.yolo(tmp_path, texts, width=90, height=60)
    first = tmp_path / "train" / "images" / "a.png"
    Image.fromarray(np.asarray(Image.open(first))[:, ::-1]).save(tmp_path / "valid" / "images" / "flip.png")
    (tmp_path / "valid" / "labels" / "flip.txt").write_text("")
    Image.new("L", (90, 60), 70).save(tmp_path / "train" / "images" / "grey.png")
    (tmp_path / "train" / "labels" / "grey.txt").write_text("")
    (tmp_path / "train" / "labels" / "gone.txt").write_text("")
    broken = bone_sets.picture(tmp_path / "train" / "images" / "broken.jpg", 200, 200, seed=9)
    broken.write_bytes(broken.read_bytes()[:-1500])
    (tmp_path / "train" / "labels" / "broken.txt").write_text("")
    heard = []
    report = check_folder(tmp_path, lambda done, total: heard.append((done, total)))
    assert heard == [(k, 8) for k in range(1, 9)]
    assert (report.layout, report.pictures, report.with_boxes, report.without_boxes) == ("YOLO", 8, 2, 6)
    assert report.parts == {"training": 6, "validation": 2}
    assert report.labels == {"fracture": 3}
    assert (report.patients, report.unlabelled, report.with_masks) == (0, 0, 0)
    assert not report.sound
    told = {problem.where: (problem.what, problem.note) for problem in report.problems}
    for where, words, note in (
        ("train/labels/d.txt line 1", "reaches out of its picture of 90 x 60 px", False),
        ("train/labels/gone.txt", "labels a picture that is not there", False),
        ("train/images/broken.jpg", "damaged or truncated", False),
        ("train/images/grey.png", "is one even grey", False),
        ("train/images/e.png", "has no label file", True),
        ("train/images/a.png", "(training) is of one patient or picture with valid/images/flip.png (validation)", True),
    ):
        assert words in told[where][0]
        assert told[where][1] is note
    assert len(report.problems) == 6
    assert [problem.note for problem in report.problems] == [False] * 4 + [True] * 2


def test_masks_are_read_and_copies_within_a_part_are_notes(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        bone_sets.picture(tmp_path / "images" / f"{name}.png", seed=seed)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.full((40, 60), 255 * (name != "c"), np.uint8)).save(tmp_path / "masks" / f"{name}.png")
    report = check_folder(tmp_path)
    assert report.sound
    assert (report.with_masks, report.without_boxes, report.unlabelled) == (3, 0, 0)
    assert [(problem.where, problem.what) for problem in report.problems] == [
        ("images/a.png", "looks the same as images/b.png"),
        ("images/c.png", "its mask c.png is empty, so it shows no bone"),
    ]
