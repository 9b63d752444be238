"""Who trains, who validates and who tests: no patient and no copy of a picture on two sides (law 6). Needs no torch.

A split comes from a file, from the data set, or from the seed; whichever it is, groups that cross it are put on one
side, and what moved is said. Whatever multiplies pictures (flips, crops) is applied to ``Split.training`` afterwards.
"""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import get_args

import numpy as np

from bones.config import Config
from bones.formats.case import PARTS, Case, Part
from shared.errors import InputError, SetupError
from shared.io.radiograph import read_radiograph
from shared.parallel import cpu_count
from shared.splits import Fingerprint, crossing, fingerprint, group_pictures, regrouped, split_groups

log = logging.getLogger(__name__)

PART_NAMES: tuple[str, ...] = get_args(Part)


@dataclass(frozen=True, slots=True)
class Split:
    """Cases by what they are for; no patient or near-duplicate is in two parts. ``notes`` say what moved, and why."""

    training: tuple[Case, ...] = ()
    validation: tuple[Case, ...] = ()
    test: tuple[Case, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    """Each case's group, by name."""
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> tuple[Case, ...]:
        """Return training, validation, test or all.

        Raises:
            SetupError: no such part, or it is empty.
        """
        if name == "all":
            return self.training + self.validation + self.test
        if name not in PARTS:
            raise SetupError(f"{name!r} is no part of a split; name training, validation, test or all")
        cases: tuple[Case, ...] = getattr(self, PARTS[name])
        if not cases:
            have = [part for part in PART_NAMES if getattr(self, part)]
            raise SetupError(f"the split has no pictures for {PARTS[name]}; it has some for {' and '.join(have)}")
        return cases


def split_cases(
    cases: Sequence[Case],
    config: Config | None = None,
    split_file: Path | None = None,
    *,
    fingerprints: Mapping[str, Fingerprint] | None = None,
    on_picture: Callable[[int, int], None] = lambda done, total: None,
) -> Split:
    """Split cases by a file, else by the data set's own parts, else by the seed; then hold the split to the groups.

    A group that crosses is whole in test if any of it was there, else in validation. Where no case is for validation,
    ``config.validation_fraction`` of the training groups is taken for it, pictures with and without a box alike.

    Args:
        cases: what there is.
        config: its ``validation_fraction`` and the seed of ``training``; the defaults where None.
        split_file: JSON with lists of names under training, validation and test; or a folder with such lists as
            ``train.csv``, ``valid.csv`` and ``test.csv`` under ``image_id`` (FracAtlas). Names are those of cases, or
            file names where these are unique. What a JSON file does not name is left out. CSV lists name pictures
            with fractures only, so those without one are spread over the parts by the seed.
        fingerprints: of the pictures by name, where they are known already; made here where None.
        on_picture: hears how many of how many pictures are fingerprinted.

    Raises:
        SetupError: the file cannot be used or names none of the cases.
    """
    config = config or Config()
    notes: list[str] = []
    if fingerprints is None:
        fingerprints = fingerprint_cases(cases, on_picture)
        if bad := [case.name for case in cases if case.name not in fingerprints]:
            notes.append(f"{len(bad)} pictures cannot be read and are left out, such as {bad[0]}")
            cases = [case for case in cases if case.name in fingerprints]
    groups = group_cases(cases, fingerprints)
    with_box = {case.name for case in cases if has_fracture(case)}
    if split_file is None:
        parts = {part: [case.name for case in cases if case.part == part] for part in PART_NAMES}
        source = "the data set's split"
    else:
        parts, source = read_parts(split_file, cases), split_file.name
    parts = _spread_rest(parts, groups, with_box, split_file, config, notes)
    parts = _mended(parts, groups, source, notes)
    parts = _with_validation(parts, groups, with_box, config, notes)
    for note in notes:
        log.info("%s", note)
    by_name = {case.name: case for case in cases}
    held = {part: tuple(by_name[name] for name in sorted(parts[part])) for part in PART_NAMES}
    return Split(**held, groups=groups, notes=tuple(notes))


def group_cases(cases: Sequence[Case], fingerprints: Mapping[str, Fingerprint] | None = None) -> dict[str, str]:
    """Return each case's group by name: pictures of one patient and near-duplicates; arguments as of `split_cases`."""
    known = fingerprint_cases(cases) if fingerprints is None else fingerprints
    patients = {case.name: case.patient for case in cases if case.patient is not None}
    return group_pictures([case.name for case in cases], patients=patients, fingerprints=known, families=False)


def has_fracture(case: Case) -> bool:
    """Say whether a case has a box, or is known to be fractured."""
    return bool(case.fractured) or (case.boxes is not None and len(case.boxes) > 0)


def fingerprint_cases(
    cases: Sequence[Case], on_picture: Callable[[int, int], None] = lambda done, total: None
) -> dict[str, Fingerprint]:
    """Return the fingerprints of pictures by the cases' names; a picture that cannot be read has none."""
    made: dict[str, Fingerprint] = {}
    with ThreadPoolExecutor(min(cpu_count(), 16)) as pool:  # decoding holds no interpreter lock
        for done, (case, one) in enumerate(zip(cases, pool.map(_fingerprint, cases), strict=True), start=1):
            if one is not None:
                made[case.name] = one
            on_picture(done, len(cases))
    return made


def _fingerprint(case: Case) -> Fingerprint | None:
    try:
        return fingerprint(read_radiograph(case.picture).array)
    except InputError as error:
        log.warning("%s", error)
        return None


def read_parts(source: Path, cases: Sequence[Case]) -> dict[str, list[str]]:
    """Read a split file, or a folder of FracAtlas' lists, as names of cases (see ``split_cases``).

    Raises:
        SetupError: it cannot be read, is of another form, names no case, or one in two parts.
    """
    listed = _from_lists(source) if source.is_dir() else _from_json(source)
    known = {case.name: case.name for case in cases}
    file_names: dict[str, list[str]] = {}
    for case in cases:
        file_names.setdefault(PurePosixPath(case.name).name, []).append(case.name)
    known |= {name: paths[0] for name, paths in file_names.items() if len(paths) == 1 and name not in known}
    parts: dict[str, list[str]] = {part: [] for part in PART_NAMES}
    side: dict[str, str] = {}
    for part, names in listed.items():
        for name in names:
            full = known.get(name)
            if full is None:
                continue
            if side.setdefault(full, part) != part:
                raise SetupError(f"{source}: {name} is in {side[full]} and in {part}; keep it in one")
            parts[part].append(full)
    total = sum(map(len, listed.values()))
    if total > len(side) > 0:
        log.warning("%s: %d of its %d names are not in the data", source.name, total - len(side), total)
    if not side:
        theirs = next((name for names in listed.values() for name in names), "none")
        ours = cases[0].name if cases else "none"
        raise SetupError(
            f"{source}: names none of the pictures; its names are such as {theirs}, those of the data such as {ours}; "
            "write a split file of your own"
        )
    return {part: list(dict.fromkeys(names)) for part, names in parts.items()}


def _from_lists(folder: Path) -> dict[str, list[str]]:
    """Read lists such as FracAtlas publishes: ``train.csv``, ``valid.csv``, ``test.csv`` with a column image_id."""
    parts: dict[str, list[str]] = {}
    for path in sorted(folder.glob("*.csv")):
        part = PARTS.get(path.stem.lower())
        if part is None:
            continue
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if "image_id" not in (rows.fieldnames or ()):
                raise SetupError(f"{path}: has no column image_id; give the lists as FracAtlas publishes them")
            parts.setdefault(part, []).extend(row["image_id"].strip() for row in rows if row["image_id"])
    if not parts:
        raise SetupError(f"{folder}: holds no train.csv, valid.csv and test.csv; give these lists, or a JSON file")
    return parts


def _from_json(path: Path) -> dict[str, list[str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SetupError(f"{path}: cannot be read ({error.strerror or error}); check the name") from error
    except ValueError as error:
        raise SetupError(f"{path}: is no JSON ({error}); mend it") from error
    fits = isinstance(content, dict) and all(
        name.lower() in PARTS and isinstance(held, list) and all(isinstance(one, str) for one in held)
        for name, held in content.items()
    )
    if not fits:
        raise SetupError(f"{path}: is no split; write {{'training': [names], 'validation': [names], 'test': [names]}}")
    parts: dict[str, list[str]] = {}
    for name, held in content.items():
        parts.setdefault(PARTS[name.lower()], []).extend(held)
    return parts


def _spread_rest(
    parts: Mapping[str, list[str]],
    groups: Mapping[str, str],
    with_box: set[str],
    split_file: Path | None,
    config: Config,
    notes: list[str],
) -> dict[str, list[str]]:
    """Place the cases that a split does not name: all where there is none, and normals of lists of fractures."""
    side = {name: part for part, names in parts.items() for name in names}
    rest = [name for name in groups if name not in side]
    if not rest:
        return dict(parts)
    if not side:
        return {"training": sorted(rest), "validation": [], "test": []}
    normals_only = not with_box.intersection(rest)
    if split_file is None and not parts["training"]:
        return {**parts, "training": sorted(rest)}
    if split_file is not None and not (split_file.is_dir() and normals_only):
        notes.append(f"{len(rest)} pictures that {split_file.name} does not name are left out, such as {rest[0]}")
        return dict(parts)
    # A picture of a group that has a side goes there; the others are spread as the named ones are.
    sides: dict[str, str] = {}
    for part in ("test", "validation", "training"):
        for name in parts.get(part, ()):
            sides.setdefault(groups[name], part)
    result = {part: list(parts.get(part, ())) for part in PART_NAMES}
    free = [name for name in rest if groups[name] not in sides]
    for name in rest:
        if groups[name] in sides:
            result[sides[groups[name]]].append(name)
    shares = {part: len(parts.get(part, ())) / len(side) for part in PART_NAMES}
    placed = split_groups({name: groups[name] for name in free}, shares, seed=config.training.seed)
    for part in PART_NAMES:
        result[part] += placed[part]
    told = ", ".join(f"{len(placed[part])} {part}" for part in PART_NAMES if placed[part])
    notes.append(f"{len(rest)} pictures that the split does not name are spread over its parts by the seed: {told}")
    return result


def _mended(
    parts: dict[str, list[str]], groups: Mapping[str, str], source: str, notes: list[str]
) -> dict[str, list[str]]:
    """Put every group that crosses onto one side, and say which pictures moved."""
    crossed = crossing(parts, groups)
    if not crossed:
        return parts
    mended = regrouped(parts, groups)
    before = {name: part for part, names in parts.items() for name in names}
    moved = [f"{name} from {before[name]} to {part}" for part, names in mended.items() for name in names
             if before[name] != part]  # fmt: skip
    notes.append(
        f"{source} leaks: {len(crossed)} groups of one patient or near-duplicates cross it; "
        f"{len(moved)} pictures moved, such as {moved[0]}"
    )
    return {part: mended[part] for part in PART_NAMES}


def _with_validation(
    parts: dict[str, list[str]], groups: Mapping[str, str], with_box: set[str], config: Config, notes: list[str]
) -> dict[str, list[str]]:
    """Cut a validation part from the training groups where a split has none.

    Roboflow's versions of one name stay together here: they may be turned or cropped beyond resemblance. A published
    split is not held to names, for merged exports use one for several pictures.
    """
    if parts["validation"] or not parts["training"]:
        return parts
    inside = group_pictures(parts["training"], patients={name: groups[name] for name in parts["training"]})
    if len(set(inside.values())) == 1:
        notes.append("all pictures to train on are one group, so they serve for training and validation both")
        return parts | {"validation": list(parts["training"])}
    share = config.validation_fraction
    cut = split_groups(inside, {"training": 1 - share, "validation": share}, with_box=with_box,
                       seed=config.training.seed)  # fmt: skip
    for part, other in (("training", "validation"), ("validation", "training")):
        if not cut[part]:
            taken = _smallest_group(cut[other], inside)
            cut[part] = taken
            cut[other] = [name for name in cut[other] if name not in taken]
    notes.append(f"{len(cut['validation'])} of {len(inside)} pictures are held out for validation by the seed")
    return parts | {"training": cut["training"], "validation": cut["validation"]}


def _smallest_group(names: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    sizes = np.unique([groups[name] for name in names], return_counts=True)
    smallest = str(sizes[0][np.argmin(sizes[1])])
    return [name for name in names if groups[name] == smallest]
