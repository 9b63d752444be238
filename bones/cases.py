"""Folders of labelled radiographs, whatever tool wrote them. Needs no torch.

``find_cases`` recognises the layout by itself (see ``LAYOUTS``); ``relabel`` merges or maps classes;
``bones.splitting`` splits. Each reader is a file of ``bones/formats``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from bones.formats.case import ANATOMY, stacked
from bones.formats.case import Case as Case
from bones.formats.case import Found as Found
from bones.formats.coco import is_coco, read_coco
from bones.formats.fracatlas import is_fracatlas, read_fracatlas
from bones.formats.mask_png import is_cvat, is_masked, is_ph2, read_cvat, read_masked, read_ph2
from bones.formats.mura import is_mura, read_mura
from bones.formats.plain import is_plain, read_plain
from bones.formats.voc import is_voc, read_voc
from bones.formats.yolo_txt import is_yolo, read_yolo
from shared.errors import SetupError
from shared.problems import DataError

log = logging.getLogger(__name__)


class Layout(NamedTuple):
    """A way to lay a data set out: how it is known, and how it is read."""

    name: str
    fits: Callable[[Path], bool]
    read: Callable[[Path], Found]


# The first that fits is taken, so the particular ones come first.
LAYOUTS = (
    Layout("FracAtlas", is_fracatlas, read_fracatlas),
    Layout("MURA", is_mura, read_mura),
    Layout("PH2", is_ph2, read_ph2),
    Layout("CVAT masks", is_cvat, read_cvat),
    Layout("COCO", is_coco, read_coco),
    Layout("YOLO", is_yolo, read_yolo),
    Layout("PASCAL VOC", is_voc, read_voc),
    Layout("images and masks", is_masked, read_masked),
    Layout("pictures without labels", is_plain, read_plain),
)


def scan_folder(folder: Path) -> Found:
    """Read a data set of any known layout: its cases, and all that is wrong with it.

    Raises:
        SetupError: there is no such folder, or it is of no known layout.
    """
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder; give the folder of a data set")
    for layout in LAYOUTS:
        if layout.fits(folder):
            found = layout.read(folder)
            return replace(found, cases=tuple(sorted(found.cases, key=lambda case: case.name)))
    known = ", ".join(layout.name for layout in LAYOUTS)
    raise SetupError(f"{folder}: holds no data set of a known layout ({known}); see docs/how-to/bones-data.md")


def find_cases(
    folder: Path, labels: Sequence[str] | None = None, classes: Mapping[str, str] | None = None
) -> list[Case]:
    """Return the cases of a data set in the order of their names, with their classes merged or mapped.

    Args:
        folder: of the data set.
        labels: the classes that are wanted (see ``relabel``); None keeps those of the data set.
        classes: which class of the data set is which of ``labels``.

    Raises:
        SetupError: no such folder, no known layout, no case, or a class that cannot be placed.
        DataError: labels or pictures cannot be used.
    """
    found = scan_folder(folder)
    if grave := [problem for problem in found.problems if not problem.note]:
        head = f"{folder}: {len(grave)} problem{'s' if len(grave) > 1 else ''} in its labels or pictures"
        raise DataError(head, grave, "bones check")
    if notes := [problem for problem in found.problems if problem.note]:
        log.warning("%s: %d notes, such as %s", folder.name, len(notes), notes[0])
    if not found.cases:
        raise SetupError(f"{folder}: a {found.layout} data set without a picture; check the folder")
    return list(found.cases) if labels is None else relabel(found.cases, labels, classes)


def relabel(cases: Iterable[Case], labels: Sequence[str], classes: Mapping[str, str] | None = None) -> list[Case]:
    """Return cases whose boxes have only the classes of ``labels``, whatever the data set calls them.

    A class of the data set becomes what ``classes`` says ("" leaves its boxes out), else the one of ``labels`` that
    is called so. With a single label that is no anatomy (``fracture``), every other class becomes that label, but
    for those of ``ANATOMY``, whose boxes are left out; else boxes of other classes are left out too.

    Raises:
        SetupError: ``classes`` names a label that is not wanted, or a class of which there is no box.
    """
    cases = list(cases)
    if unknown := set((classes or {}).values()) - {*labels, ""}:
        raise SetupError(f"class {sorted(unknown)[0]!r} is none of the labels {', '.join(labels)}; name one of them")
    have = {name.casefold(): name for case in cases for name in case.labels}
    if missing := [name for name in classes or {} if name.casefold() not in have]:
        told = ", ".join(sorted(have.values())) or "none"
        raise SetupError(f"there is no box of class {missing[0]!r}; the classes are {told}")
    given = {name.casefold(): label for name, label in (classes or {}).items()}
    given |= {label.casefold(): label for label in labels if label.casefold() not in given}
    merged = labels[0] if len(labels) == 1 and labels[0] not in ANATOMY else None

    def wanted(name: str) -> str:
        other = merged if merged and name.casefold() not in ANATOMY else ""
        return given.get(name.casefold(), other)

    return [_with_labels(case, [wanted(name) for name in case.labels]) for case in cases]


def _with_labels(case: Case, labels: Sequence[str]) -> Case:
    """Return a case with other labels, without the boxes whose label is empty."""
    if case.boxes is None:
        return case
    kept = [k for k, label in enumerate(labels) if label]
    outlines = None if case.outlines is None else tuple(case.outlines[k] for k in kept)
    boxes = stacked([case.boxes[k] for k in kept])
    return replace(case, boxes=boxes, labels=tuple(labels[k] for k in kept), outlines=outlines)
