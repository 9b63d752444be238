"""PASCAL VOC: an XML file for each picture, beside it or in ``Annotations``.

``xmin ymin xmax ymax`` are taken as the edges of the box, as labelImg, CVAT, Roboflow and makesense.ai write them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from bones.formats.case import (
    Case,
    Found,
    Part,
    bone_in,
    fracture_in,
    is_size,
    listed_parts,
    part_of,
    pictures_below,
    sized,
    stacked,
    within,
)
from bones.formats.geometry import BadLabelError, checked_box
from shared.problems import Problem


def is_voc(folder: Path) -> bool:
    """Say whether a folder holds XML files of VOC's form."""
    found = next((path for path in sorted(folder.rglob("*.xml")) if not path.name.startswith(".")), None)
    return found is not None and _root(found) is not None


def read_voc(folder: Path) -> Found:
    """Read a VOC data set; the split is that of its folders, or of the lists in ``ImageSets/Main``."""
    problems: list[Problem] = []
    labels = [path for path in sorted(folder.rglob("*.xml")) if not path.name.startswith(".")]
    cases = read_files(labels, pictures_below(folder), folder, problems)
    named = {case.name for case in cases} | {problem.where for problem in problems}
    problems += [
        Problem(within(path, folder), "has no XML file, so it is left out", "label it, or take it away", note=True)
        for path in pictures_below(folder)
        if within(path, folder) not in named
    ]
    return Found("PASCAL VOC", tuple(cases), tuple(problems))


def read_files(labels: Sequence[Path], pictures: Sequence[Path], folder: Path, problems: list[Problem]) -> list[Case]:
    """Read XML files and the pictures of their names; what cannot be used goes to ``problems``."""
    by_stem: dict[str, list[Path]] = {}
    for picture in pictures:
        by_stem.setdefault(picture.stem, []).append(picture)
    pairs: list[tuple[Path, ElementTree.Element, Path]] = []
    for label in labels:
        root = _root(label)
        if root is None:
            problems.append(Problem(within(label, folder), "is no VOC XML, or is damaged", "export it again"))
            continue
        found = _picture_of(label, root, by_stem)
        if found is None:
            what = f"its picture {root.findtext('filename') or label.stem} is not there"
            problems.append(Problem(within(label, folder), what, "add the picture or take the file out"))
        else:
            pairs.append((label, root, found))
    sizes, unreadable = sized([picture for *_, picture in pairs], folder)
    problems += unreadable
    names = [one.findtext("name") or "" for _, root, _ in pairs for one in root.iter("object")]
    parts = listed_parts(folder / "ImageSets" / "Main")
    return [
        _case(within(label, folder), root, picture, sizes[picture], folder, names, parts, problems)
        for label, root, picture in pairs
        if picture in sizes and _fits(within(label, folder), root, sizes[picture], problems)
    ]


def _case(
    where: str, root: ElementTree.Element, picture: Path, size: tuple[int, int], folder: Path,
    classes: Sequence[str], parts: dict[str, Part], problems: list[Problem],
) -> Case:  # fmt: skip
    boxes: list[np.ndarray] = []
    labels: list[str] = []
    for number, one in enumerate(root.iter("object"), start=1):
        try:
            if not (name := one.findtext("name")):
                raise BadLabelError("no name", "say what it is")
            box = one.find("bndbox")
            corners = [float((box.findtext(edge) if box is not None else None) or "nan")
                       for edge in ("xmin", "ymin", "xmax", "ymax")]  # fmt: skip
            boxes.append(checked_box(corners, *size))
            labels.append(name)
        except BadLabelError as error:
            problems.append(Problem(f"{where} object {number}", error.what, error.remedy))
        except ValueError:
            problems.append(Problem(f"{where} object {number}", "its bndbox is not numbers", "export it again"))
    part = parts.get(picture.stem) or part_of(picture.relative_to(folder).parent.parts)
    return Case(within(picture, folder), picture, *size, stacked(boxes), tuple(labels), bone=bone_in(labels),
                fractured=fracture_in(labels, classes), part=part)  # fmt: skip


def _picture_of(label: Path, root: ElementTree.Element, by_stem: dict[str, list[Path]]) -> Path | None:
    """Return the picture an XML file names: beside it, else the only one that is called so."""
    name = Path(root.findtext("filename") or label.stem)
    beside = label.with_name(name.name)
    if name.suffix and beside.is_file():
        return beside
    same = by_stem.get(name.stem, []) or by_stem.get(label.stem, [])
    return same[0] if len(same) == 1 else next((path for path in same if path.parent == label.parent), None)


def _fits(where: str, root: ElementTree.Element, size: tuple[int, int], problems: list[Problem]) -> bool:
    """Say whether the labels were made for the picture as it is displayed."""
    told = (root.findtext("size/width"), root.findtext("size/height"))
    if is_size(told, size):
        return True
    what = f"its labels are for {told[0]} x {told[1]} px, the picture as displayed is {size[0]} x {size[1]}"
    problems.append(Problem(where, what, "export labels and pictures together again"))
    return False


def _root(path: Path) -> ElementTree.Element | None:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return None
    return root if root.tag == "annotation" else None
