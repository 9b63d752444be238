"""Pictures without labels, to train oneself on or to tell from radiographs."""

from __future__ import annotations

from pathlib import Path

from bones.formats.case import Case, Found, part_of, pictures_below, sized, within
from shared.problems import Problem

LABELS = (".txt", ".xml", ".json")


def is_plain(folder: Path) -> bool:
    """Say whether a folder holds pictures."""
    return bool(pictures_below(folder))


def read_plain(folder: Path) -> Found:
    """Read pictures of which nothing is known."""
    pictures = pictures_below(folder)
    sizes, problems = sized(pictures, folder)
    stems = {path.stem for path in pictures}
    labels = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in LABELS and path.stem in stems]
    if labels:
        what = "may be labels, but of no known layout: its picture counts as one without"
        problems.append(Problem(within(labels[0], folder), what, "see docs/how-to/bones-data.md", note=True))
    cases = [
        Case(within(path, folder), path, *size, part=part_of(path.relative_to(folder).parent.parts))
        for path, size in sizes.items()
    ]
    return Found("pictures without labels", tuple(cases), tuple(problems))
