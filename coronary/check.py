"""Look a data set over before it is trained on: everything that is wrong is named in one go. Needs no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from coronary.cases import IMAGE, LABEL, OTHER_LABELS, Case, scan_folder, shortened
from shared.errors import InputError, SetupError
from shared.geometry import ras_grid
from shared.io.checks import farthest_corner_mm, format_shape
from shared.io.volume import read_volume
from shared.parallel import cpu_count, spread
from shared.problems import DataError, Problem
from shared.types import Grid, Volume

# Headers hold float32: far corners of equal grids may stray by some hundredths of a millimetre.
SAME_GRID_MM = 0.1


def unusable(problems: Sequence[Problem]) -> DataError:
    """Return the error that tells which cases cannot be used, and why."""
    count = len({problem.where for problem in problems})
    return DataError(f"{count} case{'s' if count > 1 else ''} cannot be used", problems, "coronary check")


def refusal(case: Case, error: InputError) -> Problem:
    """Turn the reader's refusal of one of a case's files into a problem of the case."""
    return Problem(case.name, f"{error.path.name} {error.problem}", error.remedy)


def check_folder(
    directory: Path,
    labels: Path | None = None,
    workers: int | None = None,
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Case], list[Problem]]:
    """Read every file of a data set and return its whole cases and all problems, in the order of the ids.

    Named are missing halves, ids found twice, unreadable files and non-finite voxels, unequal grids, labels that are
    empty or not binary, and copies of one scan by the hash of their voxels.

    Args:
        directory: folder of scans (see ``coronary.cases.scan_folder``).
        labels: second folder, of labels.
        workers: processes, each of which holds one scan at a time (0.4 GB for 512x512x206); None is one for each CPU.
        on_case: hears how many of how many cases are done.

    Raises:
        SetupError: there is no such folder, or nothing in it to look at.
    """
    found = scan_folder(directory, labels)
    cases = found.cases
    if not cases and not found.alone:
        raise SetupError(f"{directory}: no ID{IMAGE} and no ID{LABEL} in it; give the folder of ImageCAS")
    problems = [_half(path) for path in found.alone]
    problems += [Problem(name, "its id is there more than once", "keep one file of each id") for name in found.twice]
    again = "its label is there more than once, in sub-folders"
    problems += [Problem(name, again, "keep one label of each id") for name in found.labels_twice]
    looked = spread(look, cases, workers or min(cpu_count(), 16), lambda done: on_case(done, len(cases)))
    problems += [problem for _, wrong in looked for problem in wrong]
    problems += copies((case.name, digest) for case, (digest, _) in zip(cases, looked, strict=True) if digest)
    return list(cases), sorted(problems, key=lambda problem: (len(problem.where), problem.where))


def check_headers(cases: Sequence[Case]) -> list[Problem]:
    """Name files that are missing, have no header, or lie on another grid than their other half; no voxel is read."""
    problems = []
    for case in cases:
        try:
            image, label = (_header_grid(path) for path in (case.image, case.label))
        except InputError as error:
            problems.append(refusal(case, error))
            continue
        problems += unequal_grids(case, image, label)
    return problems


def look(case: Case) -> tuple[str, list[Problem]]:
    """Read a case and return the hash of its scan's voxels (empty where it cannot be read) and its problems."""
    problems = []
    try:
        image = read_volume(case.image)
        digest, grid = voxel_hash(image), Grid(image.array.shape, image.affine)
        del image
    except InputError as error:
        problems.append(refusal(case, error))
        digest, grid = "", None
    try:
        label = read_volume(case.label)
    except InputError as error:
        return digest, [*problems, refusal(case, error)]
    if grid is not None:
        problems += unequal_grids(case, grid, Grid(label.array.shape, label.affine))
    return digest, problems + wrong_label(case, label)


def unequal_grids(case: Case, image: Grid, label: Grid) -> list[Problem]:
    """Compare two RAS+ grids: equal shapes, and no corner farther apart than ``SAME_GRID_MM``."""
    if image.shape != label.shape:
        apart = f"{format_shape(label.shape)}, the scan's {format_shape(image.shape)}"
    elif (mm := farthest_corner_mm(image.shape, image.affine, label.affine)) > SAME_GRID_MM:
        apart = f"up to {mm:.1f} mm off the scan's"
    else:
        return []
    return [Problem(case.name, f"its grid is not that of {case.image.name}: {case.label.name} is {apart}",
                    "resample the label onto the scan")]  # fmt: skip


def wrong_label(case: Case, label: Volume) -> list[Problem]:
    """Name a label that is empty, or holds more than background and one value."""
    values = _values(label.array)
    above = values[values != 0]
    if not len(above):
        return [Problem(case.name, f"{case.label.name} is empty", "leave this case out")]
    if len(above) > 1 or above[0] < 0:
        told = ", ".join(f"{value:g}" for value in values[:6]) + (" and more" if len(values) > 6 else "")
        what = f"{case.label.name} is not binary: it holds {told}"
        return [Problem(case.name, what, "make lumen 1 and all else 0")]
    return []


def copies(digests: Iterable[tuple[str, str]]) -> list[Problem]:
    """Name cases whose scans are the same, by (name, hash): one problem for each group, under its first name."""
    groups: dict[str, list[str]] = {}
    for name, digest in digests:
        groups.setdefault(digest, []).append(name)
    return [
        Problem(names[0], f"its scan is that of {shortened(names[1:])} too", "keep one of them")
        for names in groups.values()
        if len(names) > 1
    ]


def voxel_hash(volume: Volume) -> str:
    """Return the sha256 of a scan's voxels in RAS+ and of its shape, whatever its file looks like."""
    digest = hashlib.sha256(str(volume.array.shape).encode())
    digest.update(np.ascontiguousarray(volume.array.T).data)
    return digest.hexdigest()


def _values(array: np.ndarray) -> np.ndarray:
    """Return the distinct values of a label, plane by plane, for sorting a whole volume takes seconds."""
    found = np.zeros(0, np.float32)
    for plane in array.T:
        if plane.any():
            found = np.union1d(found, plane)
    return np.union1d(found, np.zeros(1, np.float32)) if (array == 0).any() else found


def _header_grid(path: Path) -> Grid:
    try:
        image: Any = nib.load(path)
        return ras_grid(Grid(image.shape[:3], np.asarray(image.affine, np.float64)))
    except FileNotFoundError as error:
        raise InputError(path, f"is not in {path.parent}", "check the path") from error
    except Exception as error:  # nibabel raises what gzip, zlib and numpy raise
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(path, f"has no header that can be read ({what})", "copy or download it again") from error


def _half(path: Path) -> Problem:
    if path.name.endswith(IMAGE):
        return Problem(path.name.removesuffix(IMAGE), "has no label", f"add ID{LABEL}, or leave the scan out")
    ending = max((end for end in OTHER_LABELS if path.name.endswith(end)), key=len)
    return Problem(path.name.removesuffix(ending), "has no scan", f"add ID{IMAGE}, or leave the label out")
