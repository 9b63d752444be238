"""ImageCAS-style folders of labelled scans, and how they are split. Needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import SetupError
from shared.io.writers import write_json

log = logging.getLogger(__name__)

IMAGE, LABEL = ".img.nii.gz", ".label.nii.gz"
# What may follow the id in a second folder of labels; the first that is there is taken.
OTHER_LABELS = (LABEL, ".nii.gz", "_label.nii.gz", ".seg.nii.gz", "_seg.nii.gz")
# How split files call the three parts: ImageCAS's workbook, nnU-Net's and one's own JSON.
PARTS = {
    "training": "training", "train": "training",
    "validation": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """One scan and its binary lumen label, as ImageCAS lays them out."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True, slots=True)
class Folder:
    """What a folder holds: whole ``cases``, files ``alone`` without their other half, and ids found ``twice``.

    ``labels_twice`` are ids of which a second folder has several labels.
    """

    cases: tuple[Case, ...]
    alone: tuple[Path, ...]
    twice: tuple[str, ...]
    labels_twice: tuple[str, ...] = ()


def scan_folder(directory: Path, labels: Path | None = None) -> Folder:
    """Look for ``ID.img.nii.gz`` and its label in a folder and below: flat, or in ``1-200``, ``201-400`` and so on.

    The label is ``ID.label.nii.gz`` beside it or, where ``labels`` is given, anywhere below that folder under one of
    the names of ``OTHER_LABELS``. Hidden files are passed over. Cases come in the order of their ids.

    Raises:
        SetupError: there is no such folder.
    """
    for folder in filter(None, (directory, labels)):
        if not folder.is_dir():
            raise SetupError(f"{folder}: no such folder; give the folder that holds ID{IMAGE}")
    images: dict[str, list[Path]] = {}
    for path in _files(directory, IMAGE):
        images.setdefault(path.name.removesuffix(IMAGE), []).append(path)
    cases, alone = [], []
    elsewhere = None if labels is None else _by_name(labels)
    for name, paths in sorted(images.items(), key=lambda item: (len(item[0]), item[0])):
        label = _label_of(paths[0], name, elsewhere)
        if label is None:
            alone.append(paths[0])
        else:
            cases.append(Case(name, paths[0], label))
    if elsewhere is None:
        alone += [path for path in _files(directory, LABEL) if path.name.removesuffix(LABEL) not in images]
    else:
        of_cases = tuple(name + end for name in images for end in "._")  # whatever else there is of a case
        unknown = (name for name in elsewhere if not name.startswith(of_cases) and not name.endswith(IMAGE))
        alone += [elsewhere[name][0] for name in unknown]
    twice = tuple(name for name, paths in images.items() if len(paths) > 1)
    labels_twice = tuple(case.name for case in cases if elsewhere and len(elsewhere[case.label.name]) > 1)
    return Folder(tuple(cases), tuple(alone), twice, labels_twice)


def find_cases(directory: Path, labels: Path | None = None) -> list[Case]:
    """Find the cases of a folder (see ``scan_folder``), in the order of their ids; halves are passed over and logged.

    Raises:
        SetupError: the folder holds no whole case, or an id twice.
    """
    found = scan_folder(directory, labels)
    if found.twice:
        raise SetupError(f"{directory}: {shortened(found.twice)} more than once in it; keep one file of each id")
    if found.labels_twice:
        names = shortened(found.labels_twice)
        raise SetupError(f"{labels}: labels of {names} more than once in it; keep one file of each id")
    if not found.cases and labels is not None:
        names = ", ".join("ID" + ending for ending in OTHER_LABELS)
        raise SetupError(f"{labels}: no label there for a scan of {directory}; name labels {names}")
    if not found.cases:
        raise SetupError(f"{directory}: no pair ID{IMAGE} and ID{LABEL} in it; give the folder of ImageCAS")
    if found.alone:
        log.warning("left out, without their other half: %s", shortened([path.name for path in found.alone]))
    return list(found.cases)


def _files(directory: Path, ending: str) -> list[Path]:
    return sorted(path for path in directory.rglob("*" + ending) if not path.name.startswith("."))


def _by_name(labels: Path) -> dict[str, list[Path]]:
    """Files of a second folder by name, which several may share in its sub-folders."""
    found: dict[str, list[Path]] = {}
    for path in _files(labels, ".nii.gz"):
        found.setdefault(path.name, []).append(path)
    return found


def _label_of(image: Path, name: str, elsewhere: dict[str, list[Path]] | None) -> Path | None:
    if elsewhere is None:
        label = image.with_name(name + LABEL)
        return label if label.exists() else None
    return next((elsewhere[name + ending][0] for ending in OTHER_LABELS if name + ending in elsewhere), None)


@dataclass(frozen=True, slots=True)
class Split:
    """Cases by what they are for; no scan is in two parts."""

    training: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()

    def part(self, name: str) -> tuple[Case, ...]:
        """Return training, validation, test or all.

        Raises:
            SetupError: no such part, or it is empty.
        """
        if name == "all":
            return tuple(dict.fromkeys(self.training + self.validation + self.test))
        if name not in PARTS:
            raise SetupError(f"{name!r} is no part of a split; name training, validation, test or all")
        cases: tuple[Case, ...] = getattr(self, PARTS[name])
        if not cases:
            have = [part for part in ("training", "validation", "test") if getattr(self, part)]
            raise SetupError(f"the split has no cases for {PARTS[name]}; it has some for {' and '.join(have)}")
        return cases


def split(
    cases: Sequence[Case], source: Path | None = None, fold: int | None = None, fraction: float = 0.2, seed: int = 0
) -> Split:
    """Split cases by a file, or without one by the seed: ``fraction`` of them for validation, none for testing.

    Files whose images are copies of each other stay together; a single scan serves for training and validation both.

    Args:
        cases: what there is; what a file does not name is left out and logged.
        source: ImageCAS's workbook (.xlsx, columns Split-1 to Split-4), or JSON: an object with lists of ids under
            training, validation and test, a run's ``cases.json``, or nnU-Net's ``splits_final.json``. A file
            that names no case for validation has ``fraction`` of its training cases taken for it.
        fold: which of several splits, counted as the file counts: Split-1, or nnU-Net's fold 0; None is the first.
        fraction: share of cases for validation.
        seed: random seed of that choice.

    Raises:
        SetupError: the file cannot be used, names none of the cases, or has a scan in two parts.
    """
    if source is None:
        training, validation = split_cases(cases, fraction, seed)
        return Split(tuple(training), tuple(validation))
    named = read_split(source, fold)
    by_name = {case.name: case for case in cases}
    parts = {part: tuple(by_name[name] for name in names if name in by_name) for part, names in named.items()}
    listed = {name for names in named.values() for name in names}
    if not any(parts.values()):
        raise SetupError(
            f"{source}: names none of the cases; its ids are such as {shortened(listed, 2)}, those of the data such as "
            f"{shortened(by_name, 2)}; rename the files or write a split file of your own"
        )
    if unknown := listed - set(by_name):
        log.warning("%s: %d of its %d ids are not in the data", source.name, len(unknown), len(listed))
    if left_out := set(by_name) - listed:
        log.warning("%s: not named there, so left out: %s", source.name, shortened(left_out))
    _refuse_copies(source, parts)
    if parts["training"] and not parts["validation"]:
        parts["training"], parts["validation"] = map(tuple, split_cases(parts["training"], fraction, seed))
    return Split(**parts)


def split_cases(cases: Sequence[Case], fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Cut cases into training and validation, seeded; at least one scan each (a single one serves as both)."""
    scans = same_scans(cases)
    if len(scans) == 1:
        log.warning("one scan alone is trained on and looked at both, so its Dice says nothing of other scans")
        return list(cases), list(cases)
    order = np.random.default_rng(seed).permutation(len(scans))
    wanted = round(len(cases) * fraction)
    held_out = set(scans[order[0]])
    for index in order[1:-1]:
        if len(held_out) + len(scans[index]) > wanted:
            break
        held_out.update(scans[index])
    return [case for case in cases if case not in held_out], [case for case in cases if case in held_out]


def same_scans(cases: Sequence[Case]) -> list[list[Case]]:
    """Group cases whose images are copies of each other: as large unpacked, and of one CRC-32 (RFC 1952, 2.3.1).

    Both stand in the last eight bytes of a gzip file, so no image is read. Copies that were written anew, with another
    header, are found by ``coronary.check`` and in the cache. Cases whose files are not there are taken as they are.
    """
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        try:
            with case.image.open("rb") as file:
                file.seek(-8, 2)
                trailer = file.read()
        except OSError:
            trailer = b""
        empty_last_member = trailer[4:] in (b"", bytes(4))  # as bgzip's: says nothing of the whole
        groups.setdefault(case.name if empty_last_member else trailer, []).append(case)
    return list(groups.values())


def _refuse_copies(source: Path, parts: dict[str, tuple[Case, ...]]) -> None:
    side = {case: part for part, cases in parts.items() for case in cases}
    for group in same_scans(list(side)):
        if len({side[case] for case in group}) > 1:
            where = ", ".join(f"{case.name} ({side[case]})" for case in group)
            raise SetupError(f"{source}: copies of one scan are in two parts: {where}; leave all but one out")


def read_split(path: Path, fold: int | None = None) -> dict[str, list[str]]:
    """Read the ids of training, validation and test from a split file (see ``split`` for its forms).

    Raises:
        SetupError: it cannot be read, is of another form, has no such fold, or an id is in two parts.
    """
    try:
        raw = _from_workbook(path, fold) if path.suffix.lower() == ".xlsx" else _from_json(path, fold)
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror or error}); check the name") from error
    parts: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    for name, ids in raw.items():
        part = PARTS.get(name.strip().lower())
        if part is None:
            raise SetupError(f"{path}: {name!r} is no part of a split; name training, validation and test")
        parts[part] += [str(one).strip() for one in ids]
    seen: dict[str, str] = {}
    crossing = [one for part, ids in parts.items() for one in dict.fromkeys(ids) if seen.setdefault(one, part) != part]
    if crossing:
        raise SetupError(f"{path}: {shortened(crossing)} in two parts; keep each id in one")
    return {part: list(dict.fromkeys(ids)) for part, ids in parts.items()}


def _from_workbook(path: Path, fold: int | None) -> dict[str, list[Any]]:
    """Read ImageCAS's workbook: a row with FileName and Split-1 to Split-4, then one row for each id."""
    try:
        import openpyxl
    except ImportError as error:
        raise SetupError(f"{path}: openpyxl is missing, which reads it; install skiagram[train]") from error
    try:
        workbook = openpyxl.load_workbook(path, read_only=True)
        rows = list(workbook.worksheets[0].iter_rows(values_only=True))
        workbook.close()
    except OSError:
        raise
    except Exception as error:  # openpyxl raises what its XML and zip readers raise
        raise SetupError(f"{path}: is no Excel workbook ({error}); download it again") from error
    start = next((i for i, row in enumerate(rows) if row and str(row[0]).strip().lower() == "filename"), None)
    columns = {} if start is None else {str(title).strip().lower(): i for i, title in enumerate(rows[start])}
    column = columns.get(f"split-{1 if fold is None else fold}")
    if start is None or column is None:
        have = ", ".join(title.capitalize() for title in columns if title.startswith("split-")) or "no such column"
        raise SetupError(f"{path}: no column FileName with Split-{1 if fold is None else fold}; it has {have}")
    parts: dict[str, list[Any]] = {}
    for row in rows[start + 1 :]:
        if row[0] is not None and row[column] is not None:
            number = isinstance(row[0], float) and row[0].is_integer()
            parts.setdefault(str(row[column]), []).append(int(row[0]) if number else row[0])
    return parts


def _from_json(path: Path, fold: int | None) -> dict[str, list[Any]]:
    """Read lists of ids by part, or nnU-Net's list of such; an entry of a run's ``cases.json`` begins with its id."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{path}: is no JSON ({error}); mend it, or give ImageCAS's .xlsx") from error
    if isinstance(content, list):
        if not 0 <= (fold or 0) < len(content):
            raise SetupError(f"{path}: has no fold {fold}; it has 0 to {len(content) - 1}")
        content = content[fold or 0]
    elif fold is not None:
        raise SetupError(f"{path}: holds one split, so leave the fold out")
    if not isinstance(content, dict) or not all(isinstance(ids, list) for ids in content.values()):
        raise SetupError(f"{path}: is no split; write {{'training': [ids], 'validation': [ids], 'test': [ids]}}")
    return {part: [one[0] if isinstance(one, list) and one else one for one in ids] for part, ids in content.items()}


def save_split(path: Path, training: Sequence[Case], validation: Sequence[Case], test: Sequence[Case] = ()) -> None:
    """Write which cases a run trains on and which it holds out; resuming and exporting read it."""
    parts = {"training": training, "validation": validation, "test": test}
    content = {
        part: [[c.name, str(c.image.resolve()), str(c.label.resolve())] for c in cases] for part, cases in parts.items()
    }
    write_json(content, path)


def relocate(path: Path, cases: Sequence[Case]) -> None:
    """Let a run's list of cases name the files of the same ids in ``cases``: data may move between runs.

    Raises:
        SetupError: some of the run's cases are not among them.
    """
    by_name = {case.name: case for case in cases}
    content = json.loads(path.read_text())
    names = {part: [entry[0] for entry in content.get(part, [])] for part in ("training", "validation", "test")}
    if lost := {name for part in names.values() for name in part} - set(by_name):
        raise SetupError(f"{path}: the run's cases {shortened(lost)} are not in the data; give the run's own data")
    save_split(path, *([by_name[name] for name in part] for part in names.values()))


def load_split(path: Path) -> tuple[list[Case], list[Case]]:
    """Read the training and validation cases that ``save_split`` wrote.

    Raises:
        SetupError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
        training, validation = (
            [Case(name, Path(image), Path(label)) for name, image, label in content[part]]
            for part in ("training", "validation")
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError(f"{path}: the run's list of cases cannot be read ({error}); train again") from error
    return training, validation


def shortened(names: Iterable[str], most: int = 8) -> str:
    """Name the first few in the order of ids, and say how many more there are."""
    ordered = sorted(names, key=lambda name: (len(name), name))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
