"""MURA: whole studies called normal or abnormal by a radiologist; weak labels, and whose the pictures are.

``train/XR_ELBOW/patient00011/study1_negative/image1.png``. Positive is any abnormality, not only fractures, so a
positive study tells nothing of fractures, and a negative one that there is none (Rajpurkar et al., MURA, 2017).
"""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np

from bones.formats.case import Case, Found, part_of, pictures_below, sized, within
from shared.problems import Problem

STUDY = re.compile(
    r"(?:.*/)?XR_(?P<region>\w+)/(?P<patient>patient\d+)/(?P<study>study\d+)_(?P<sign>positive|negative)/"
)


def is_mura(folder: Path) -> bool:
    """Say whether a folder is laid out as MURA is."""
    starts = (folder, *(path for path in sorted(folder.iterdir()) if path.is_dir()))
    return any(next(start.glob("XR_*/patient*/study*_*"), None) for start in starts)


def read_mura(folder: Path) -> Found:
    """Read MURA; its part ``valid`` is for validation."""
    problems: list[Problem] = []
    pictures = [path for path in pictures_below(folder) if STUDY.match(within(path.parent, folder) + "/")]
    sizes, unreadable = sized(pictures, folder)
    problems += unreadable
    cases = []
    for picture, size in sizes.items():
        study = STUDY.match(within(picture.parent, folder) + "/")
        if study is None:
            continue
        normal = study["sign"] == "negative"
        cases.append(
            Case(
                within(picture, folder), picture, *size, boxes=np.zeros((0, 4), np.float32) if normal else None,
                bone=True, fractured=False if normal else None, patient=study["patient"],
                part=part_of(picture.relative_to(folder).parent.parts[:1]),
            )
        )  # fmt: skip
    problems += _contradictions(folder)
    return Found("MURA", tuple(cases), tuple(problems))


def _contradictions(folder: Path) -> list[Problem]:
    """Name studies that the data set's tables call otherwise than their folders."""
    problems = []
    for table in sorted(folder.glob("*_labeled_studies.csv")):
        with table.open(newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), start=1):
                study = STUDY.match(row[0] if row[0].endswith("/") else row[0] + "/") if row else None
                if study and len(row) > 1 and row[1].strip() in "01" and (row[1].strip() == "1") != (
                    study["sign"] == "positive"
                ):  # fmt: skip
                    what = f"calls {row[0]} {row[1].strip()}, its folder {study['sign']}"
                    problems.append(Problem(f"{table.name} line {number}", what, "download MURA again"))
    return problems
