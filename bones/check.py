"""Look a data set over before it is trained on: everything that is wrong is named in one go. Needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bones.cases import scan_folder
from bones.formats.case import Case
from bones.masks import bone_mask, has_bone_mask
from shared.errors import InputError
from shared.io.radiograph import read_radiograph
from shared.parallel import cpu_count
from shared.problems import Problem
from shared.splits import Fingerprint, crossing, fingerprint, group_pictures


@dataclass(frozen=True, slots=True)
class Report:
    """What a data set holds, and what is wrong with it.

    ``parts`` counts the pictures of each part of its own split; ``labels`` the boxes of each class. A problem that is
    a ``note`` keeps nothing from being used.
    """

    layout: str
    pictures: int
    with_boxes: int
    without_boxes: int
    unlabelled: int
    with_masks: int
    patients: int
    parts: Mapping[str, int]
    labels: Mapping[str, int]
    problems: tuple[Problem, ...]
    fingerprints: Mapping[str, Fingerprint]

    @property
    def sound(self) -> bool:
        """Whether nothing but notes was found."""
        return all(problem.note for problem in self.problems)


def check_folder(folder: Path, on_picture: Callable[[int, int], None] = lambda done, total: None) -> Report:
    """Read every picture and label of a data set, and return what it holds and all problems.

    Named are unreadable pictures and masks, bad boxes, labels without a picture and pictures without a label; as
    notes, near-duplicates, and patients and pictures that cross the data set's own split.

    Args:
        folder: of any layout that ``bones.cases`` knows.
        on_picture: hears how many of how many pictures are read.

    Raises:
        SetupError: there is no such folder, or it is of no known layout.
    """
    found = scan_folder(folder)
    cases = found.cases
    problems = list(found.problems)
    fingerprints: dict[str, Fingerprint] = {}
    with ThreadPoolExecutor(min(cpu_count(), 16)) as pool:  # decoding holds no interpreter lock
        looked = zip(cases, pool.map(_look, cases), strict=True)
        for done, (case, (one, wrong)) in enumerate(looked, start=1):
            problems += wrong
            if one is not None:
                fingerprints[case.name] = one
            on_picture(done, len(cases))
    problems += duplicates(cases, fingerprints)
    return Report(
        layout=found.layout, pictures=len(cases),
        with_boxes=sum(case.boxes is not None and len(case.boxes) > 0 for case in cases),
        without_boxes=sum(case.boxes is not None and not len(case.boxes) for case in cases),
        unlabelled=sum(case.boxes is None and case.mask is None for case in cases),
        with_masks=sum(map(has_bone_mask, cases)),
        patients=len({case.patient for case in cases if case.patient is not None}),
        parts=_counted(case.part for case in cases if case.part is not None),
        labels=_counted(label for case in cases for label in case.labels),
        problems=tuple(sorted(problems, key=lambda problem: (problem.note, problem.where))), fingerprints=fingerprints,
    )  # fmt: skip


def duplicates(cases: Sequence[Case], fingerprints: Mapping[str, Fingerprint]) -> list[Problem]:
    """Name pictures that look the same, and patients and pictures that cross the data set's split."""
    patients = {case.name: case.patient for case in cases if case.patient is not None}
    groups = group_pictures([case.name for case in cases], patients=patients, fingerprints=fingerprints, families=False)
    parts: dict[str, list[str]] = {}
    for case in cases:
        if case.part is not None:
            parts.setdefault(case.part, []).append(case.name)
    side = {name: part for part, names in parts.items() for name in names}
    problems = []
    crossed = crossing(parts, groups)
    for names in crossed:
        where = ", ".join(f"{name} ({side[name]})" for name in names[1:4]) + (" and more" if len(names) > 4 else "")
        what = f"({side[names[0]]}) is of one patient or picture with {where}"
        problems.append(Problem(names[0], what, "training puts them on one side and says so", note=True))
    alike = group_pictures([case.name for case in cases], fingerprints=fingerprints, families=False)
    told = {name for names in crossed for name in names}
    members: dict[str, list[str]] = {}
    for name, group in alike.items():
        members.setdefault(group, []).append(name)
    problems += [
        Problem(names[0], f"looks the same as {', '.join(names[1:4])}", "keep one of them, or let them be", note=True)
        for names in members.values()
        if len(names) > 1 and names[0] not in told
    ]
    return problems


def _look(case: Case) -> tuple[Fingerprint | None, list[Problem]]:
    """Read a picture and its mask; return the picture's fingerprint and what is wrong."""
    try:
        shown = read_radiograph(case.picture)
    except InputError as error:
        return None, [Problem(case.name, error.problem, error.remedy)]
    problems = []
    if shown.array.max() <= shown.array.min():
        problems.append(Problem(case.name, "is one even grey", "take it out"))
    if case.mask is not None:
        try:
            mask = bone_mask(case)
            if mask is not None and not mask.any():
                what = f"its mask {case.mask.name} is empty, so it shows no bone"
                problems.append(Problem(case.name, what, "draw it, or take it out", note=True))
        except InputError as error:
            problems.append(Problem(case.name, f"{error.path.name} {error.problem}", error.remedy))
    return fingerprint(shown.array), problems


def _counted(names: Iterable[str]) -> dict[str, int]:
    return dict(Counter(names).most_common())
