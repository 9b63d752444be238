"""Pictures without labels, to train oneself on or to tell from radiographs."""

from __future__ import annotations

from pathlib import Path

from bones.formats.case import Case, Found, part_of, pictures_below, sized, within


def is_plain(folder: Path) -> bool:
    """Say whether a folder holds pictures."""
    return bool(pictures_below(folder))


def read_plain(folder: Path) -> Found:
    """Read pictures of which nothing is known."""
    sizes, problems = sized(pictures_below(folder), folder)
    cases = [
        Case(within(path, folder), path, *size, part=part_of(path.relative_to(folder).parent.parts))
        for path, size in sizes.items()
    ]
    return Found("pictures without labels", tuple(cases), tuple(problems))
