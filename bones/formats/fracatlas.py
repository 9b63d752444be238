"""FracAtlas as published: 4,083 radiographs, 717 with fractures, labelled in several formats at once.

``images/Fractured`` and ``images/Non_fractured``; ``Annotations`` with ``COCO JSON``, ``PASCAL VOC`` and ``YOLO``;
``dataset.csv``; the split of its fractured pictures in ``Utilities/Fracture Split``. COCO is read first, for it has
boxes and outlines; VOC is next; YOLO has outlines with corners missing. (Abedeen et al., Scientific Data 10, 2023.)
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

from bones.formats.case import Case, Found, Part, pictures_below, sized, stacked, within
from bones.formats.coco import annotation_files, read_annotations
from bones.formats.voc import read_files
from bones.formats.yolo_txt import read_labels
from shared.errors import InputError
from shared.problems import Problem

FRACTURED, NORMAL = Path("images/Fractured"), Path("images/Non_fractured")
FRACTURE = "fractured"  # what every format of it calls a fracture


def is_fracatlas(folder: Path) -> bool:
    """Say whether a folder is FracAtlas."""
    return (folder / FRACTURED).is_dir() and (folder / NORMAL).is_dir() and (folder / "Annotations").is_dir()


def read_fracatlas(folder: Path) -> Found:
    """Read FracAtlas from the first of its formats that is there; fractured pictures without a label are problems."""
    problems: list[Problem] = []
    fractured = pictures_below(folder / FRACTURED)
    labelled = {case.name: case for case in _labelled(folder, fractured, problems)}
    normal = pictures_below(folder / NORMAL)
    sizes, unreadable = sized(normal, folder)
    problems += unreadable
    named = {problem.where for problem in problems}
    problems += [
        Problem(
            within(path, folder),
            "is among the fractured without a box, so it is left out",
            "box it",
            note=True,
        )
        for path in fractured
        if within(path, folder) not in named
        and (within(path, folder) not in labelled or not labelled[within(path, folder)].labels)
    ]
    cases = [replace(case, bone=True, fractured=True) for case in labelled.values() if case.labels]
    cases += [
        Case(within(path, folder), path, *size, stacked([]), bone=True, fractured=False) for path, size in sizes.items()
    ]
    parts = _parts(folder)
    cases = [replace(case, part=parts.get(case.picture.name)) for case in cases]
    return Found("FracAtlas", tuple(cases), (*problems, *_contradictions(folder, cases)))


def _labelled(folder: Path, pictures: list[Path], problems: list[Problem]) -> list[Case]:
    """Read the boxes of the fractured pictures."""
    base = folder / "Annotations"
    if files := annotation_files(base / "COCO JSON"):
        return [case for path in files[:1] for case in read_annotations(path, folder, pictures, problems)]
    if labels := sorted((base / "PASCAL VOC").glob("*.xml")):
        names = {picture.stem for picture in pictures}
        return read_files([label for label in labels if label.stem in names], pictures, folder, problems)
    if not (base / "YOLO").is_dir():
        raise InputError(base, "holds neither COCO JSON nor PASCAL VOC nor YOLO", "unpack the whole of FracAtlas")
    sizes, unreadable = sized(pictures, folder)
    problems += unreadable
    cases = []
    for picture, size in sizes.items():
        label = base / "YOLO" / f"{picture.stem}.txt"
        if label.is_file():
            marks = read_labels(label, folder, *size, [FRACTURE], problems)
            cases.append(Case(within(picture, folder), picture, *size, stacked(marks.boxes), tuple(marks.labels),
                              marks.drawn()))  # fmt: skip
    return cases


def _parts(folder: Path) -> dict[str, Part]:
    """Return the official part of each fractured picture by its file name, where the lists are in the folder."""
    from bones.formats.case import PARTS

    parts: dict[str, Part] = {}
    for path in sorted((folder / "Utilities").rglob("*.csv")):
        if path.stem.lower() in PARTS:
            with path.open(newline="", encoding="utf-8-sig") as file:
                parts |= {row["image_id"].strip(): PARTS[path.stem.lower()]
                          for row in csv.DictReader(file) if row.get("image_id")}  # fmt: skip
    return parts


def _contradictions(folder: Path, cases: list[Case]) -> list[Problem]:
    """Name pictures that ``dataset.csv`` calls otherwise than their folder, or counts other fractures on."""
    table = folder / "dataset.csv"
    if not table.is_file():
        return []
    by_name = {case.picture.name: case for case in cases}
    problems = []
    with table.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            case = by_name.get((row.get("image_id") or "").strip())
            told, count = (row.get("fractured") or "").strip(), (row.get("fracture_count") or "").strip()
            where = f"dataset.csv line {number}"
            if case is None or told not in ("0", "1"):
                continue
            if (told == "1") != bool(case.fractured):
                what = (
                    f"calls {case.picture.name} {'fractured' if told == '1' else 'not fractured'}, its folder otherwise"
                )
                problems.append(Problem(where, what, "download FracAtlas again"))
            elif count.isdigit() and case.fractured and int(count) != len(case.labels):
                what = f"counts {count} fractures on {case.picture.name}, {len(case.labels)} are drawn"
                problems.append(Problem(where, what, "look at the picture", note=True))
    return problems
