"""ImageCAS-style folders of labelled scans, and how they are split. Needs no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.errors import SetupError
from shared.io.writers import write_json

IMAGE, LABEL = ".img.nii.gz", ".label.nii.gz"


@dataclass(frozen=True, slots=True)
class Case:
    """One scan and its binary lumen label, as ImageCAS lays them out."""

    name: str
    image: Path
    label: Path


def find_cases(directory: Path) -> list[Case]:
    """Find ``ID.img.nii.gz`` with ``ID.label.nii.gz`` in a folder and below, in the order of their ids.

    Raises:
        SetupError: the folder holds no such pair.
    """
    images = sorted(directory.rglob("*" + IMAGE), key=lambda path: (len(path.name), path.name))
    cases = [
        Case(image.name.removesuffix(IMAGE), image, image.with_name(image.name.removesuffix(IMAGE) + LABEL))
        for image in images
    ]
    cases = [case for case in cases if case.label.exists()]
    if not cases:
        raise SetupError(f"{directory}: no pair ID{IMAGE} and ID{LABEL} in it; give the folder of ImageCAS")
    return cases


def split_cases(cases: Sequence[Case], fraction: float, seed: int) -> tuple[list[Case], list[Case]]:
    """Cut cases into training and validation, seeded; at least one case each (a single case serves as both)."""
    if len(cases) == 1:
        return list(cases), list(cases)
    order = np.random.default_rng(seed).permutation(len(cases))
    count = min(max(round(len(cases) * fraction), 1), len(cases) - 1)
    return [cases[i] for i in sorted(order[count:])], [cases[i] for i in sorted(order[:count])]


def save_split(path: Path, training: Sequence[Case], validation: Sequence[Case]) -> None:
    """Write which cases a run trains on and which it holds out; resuming and exporting read it."""
    parts = {"training": training, "validation": validation}
    content = {
        part: [[c.name, str(c.image.resolve()), str(c.label.resolve())] for c in cases] for part, cases in parts.items()
    }
    write_json(content, path)


def load_split(path: Path) -> tuple[list[Case], list[Case]]:
    """Read what ``save_split`` wrote.

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
