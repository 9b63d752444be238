"""Preprocessed cases on disk: made once, in parallel, whole or not at all, and memory-mapped from there.

A case is a folder ``ID-KEY`` of .npy files. KEY hashes the preprocessing settings and both files' names, sizes and
times, so a changed file or setting makes another folder and never spoils one that a run is reading. Arrays are in C
order and not cut into blocks: a 96-cube of a 1 mm scan reads nearly all it touches, and at 0.35 mm half of it.
Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from coronary.cases import Case, shortened
from coronary.check import refusal, unequal_grids, unusable, wrong_label
from coronary.config import Preprocessing
from coronary.preprocess import preprocess
from shared.config import config_hash
from shared.errors import InputError, SetupError
from shared.geometry import apply_affine, bounding_box, crop, resample_to_grid
from shared.io.atomic import write_error
from shared.io.volume import read_volume
from shared.metrics.centreline import radius_on, skeleton
from shared.parallel import cpu_count, spread
from shared.problems import DataError, Problem
from shared.types import Affine, Grid, MaskArray, Volume

VERSION = 1  # of what is stored; another one makes every case anew
THIN_RADIUS_MM = 0.8
TUBE_VOXELS = 2
STALE_S = 3600.0  # no case takes an hour: what is unfinished for longer was left by a killed run
ARRAYS = ("image", "occupancy", "foreground", "thin", "skeleton")


@dataclass(frozen=True, slots=True)
class CachedCase:
    """A preprocessed case on disk: arrays are memory-mapped, so a patch is read without its volume."""

    name: str
    folder: Path

    @property
    def image(self) -> np.ndarray:
        """Normalised intensities, float16 ``x y z``."""
        return self._array("image")

    @property
    def occupancy(self) -> np.ndarray:
        """Share of lumen in each voxel times 255, uint8 ``x y z``."""
        return self._array("occupancy")

    @property
    def foreground(self) -> np.ndarray:
        """Indices of lumen voxels, int16 ``n 3``; never empty."""
        return self._array("foreground")

    @property
    def thin(self) -> np.ndarray:
        """Indices of voxels on the middle of vessels with a radius below 0.8 mm, int16 ``n 3``."""
        return self._array("thin")

    @property
    def skeleton(self) -> np.ndarray:
        """Indices of the tubed skeleton's voxels, int16 ``n 3`` (see ``_tube``)."""
        return self._array("skeleton")

    @property
    def notes(self) -> dict[str, Any]:
        """What else is known: ``pad_value`` outside the scan, ``affine``, ``scan`` (the hash of the voxels)."""
        notes: dict[str, Any] = json.loads((self.folder / "notes.json").read_text())
        return notes

    def is_whole(self) -> bool:
        """Whether every file is there in the length that was written."""
        try:
            return all((self.folder / name).stat().st_size == size for name, size in self.notes["bytes"].items())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    def _array(self, name: str) -> np.ndarray:
        array: np.ndarray = np.load(self.folder / f"{name}.npy", mmap_mode="r")
        return array


def prepare(
    cases: Sequence[Case],
    settings: Preprocessing,
    cache: Path,
    workers: int | None = None,
    on_case: Callable[[int, int], None] = lambda done, total: None,
) -> list[CachedCase]:
    """Preprocess what is not in the cache yet, each case in one of several processes; cases keep their order.

    Killed at any moment, it goes on where it was. What is damaged is made again.

    Args:
        cases: labelled scans.
        settings: preprocessing.
        cache: folder for them; runs may share it.
        workers: processes, each of which needs 0.6 GB for 512x512x206; None is one for each CPU, at most 16.
        on_case: hears how many of how many cases are there.

    Raises:
        DataError: some cases cannot be used; all are named, and the others are in the cache by then.
        SetupError: the folder cannot be written to, or the system ended a process.
    """
    _sweep(cache)
    work = partial(_case_or_problems, settings=settings, cache=cache)
    missing = sum(not _is_cached(case, settings, cache) for case in cases)  # processes take seconds to start
    made = spread(work, cases, min(workers or min(cpu_count(), 16), missing), lambda done: on_case(done, len(cases)))
    problems = [problem for result in made if isinstance(result, list) for problem in result]
    if problems:
        raise unusable(problems)
    return [result for result in made if isinstance(result, CachedCase)]


def refuse_copies(training: Sequence[CachedCase], held_out: Sequence[CachedCase]) -> None:
    """Make sure that no scan is on both sides, under whatever name and header.

    Raises:
        SetupError: names every case of ``held_out`` whose voxels equal those of a training case.
    """
    if {case.folder for case in training} == {case.folder for case in held_out}:
        return  # a single case serves as both
    seen = {case.notes["scan"]: case.name for case in training}
    both = [(case.name, seen[scan]) for case in held_out if (scan := case.notes["scan"]) in seen]
    if both:
        names = shortened([f"{one} (as {other})" for one, other in both])
        raise SetupError(f"held-out scans are trained on: {names}; leave one of each pair out")


def cache_case(case: Case, settings: Preprocessing, cache: Path) -> CachedCase:
    """Preprocess one case, or find it in the cache.

    Raises:
        DataError: image and label lie on different grids, or the label is empty or not binary.
        InputError: a file cannot be read.
        SetupError: the folder cannot be written to.
    """
    cached = _in(cache, case, settings)
    if cached.is_whole():
        return cached
    arrays, notes = _prepared(case, settings)
    aside = cache / f".{secrets.token_hex(4)}-{cached.folder.name}"
    try:
        aside.mkdir(parents=True)
        sizes = {}
        for name, array in arrays.items():
            with (aside / f"{name}.npy").open("wb") as file:
                np.save(file, np.ascontiguousarray(array))
                os.fsync(file.fileno())
                sizes[f"{name}.npy"] = file.tell()
        with (aside / "notes.json").open("w") as file:
            json.dump(notes | {"bytes": sizes}, file)
            file.flush()
            os.fsync(file.fileno())
        _put(aside, cached)
    except OSError as error:
        raise write_error(cached.folder, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return cached


def _in(cache: Path, case: Case, settings: Preprocessing) -> CachedCase:
    return CachedCase(case.name, cache / f"{case.name}-{_key(case, settings)}")


def _is_cached(case: Case, settings: Preprocessing, cache: Path) -> bool:
    with suppress(InputError):
        return _in(cache, case, settings).is_whole()
    return False


def _put(aside: Path, cached: CachedCase) -> None:
    """Rename a finished folder into place; a damaged one there goes, a whole one (another process's) stays."""
    if cached.folder.exists() and not cached.is_whole():
        damaged = aside.with_name(f"{aside.name}-damaged")
        cached.folder.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        aside.rename(cached.folder)
    except OSError:
        if not cached.is_whole():
            raise


def _sweep(cache: Path) -> None:
    """Remove what killed runs left unfinished."""
    for aside in cache.glob(".*"):
        with suppress(OSError):
            if aside.is_dir() and time.time() - aside.stat().st_mtime > STALE_S:
                shutil.rmtree(aside, ignore_errors=True)


def _case_or_problems(case: Case, settings: Preprocessing, cache: Path) -> CachedCase | list[Problem]:
    try:
        return cache_case(case, settings, cache)
    except DataError as error:
        return list(error.problems)
    except InputError as error:
        return [refusal(case, error)]


def _key(case: Case, settings: Preprocessing) -> str:
    stamps = []
    for path in (case.image, case.label):
        try:
            stat = path.stat()
        except OSError as error:
            remedy = "where a run's data moved, resume it with --data"
            raise InputError(path, f"is not in {path.parent}", remedy) from error
        stamps.append([path.name, stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps([VERSION, config_hash(settings), stamps]).encode()).hexdigest()[:12]


def _prepared(case: Case, settings: Preprocessing) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Compute what is stored of a case: its arrays, and its notes."""
    image = read_volume(case.image)
    own = Grid(image.array.shape, image.affine)
    prepared = preprocess(image, settings)
    del image  # a scan at a time: several processes do this at once
    stored = prepared.array.astype(np.float16)
    label = read_volume(case.label)
    problems = unequal_grids(case, own, Grid(label.array.shape, label.affine)) or wrong_label(case, label)
    if problems:
        raise unusable(problems)
    grid = Grid(stored.shape, prepared.affine)
    # The lumen's share of a voxel, not its majority: thin arteries would vanish from the coarser grid otherwise.
    share = resample_to_grid(label.array != 0, label.affine, grid)
    middle, radius_mm = _middle(label, grid)
    lumen = np.argwhere(share >= 0.5)
    arrays: dict[str, np.ndarray] = {
        "image": stored,
        "occupancy": np.round(share * 255).astype(np.uint8),
        "foreground": (lumen if len(lumen) else np.unique(middle, axis=0)).astype(np.int16),
        "thin": np.unique(middle[radius_mm < THIN_RADIUS_MM], axis=0).astype(np.int16),
        "skeleton": _tube(middle, share >= 0.5),
    }
    scan = hashlib.sha256(stored.tobytes()).hexdigest()
    return arrays, {"pad_value": prepared.pad_value, "affine": prepared.affine.tolist(), "scan": scan}


def _middle(label: Volume, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Skeletonise a label on its own grid, where thin vessels are whole; give voxels of ``grid`` and radii in mm."""
    x, y, z = (float(mm) for mm in np.linalg.norm(label.affine[:3, :3], axis=0))
    box = bounding_box(label.array != 0, max(x, y, z), (x, y, z))
    view, affine = crop(label.array, label.affine, box)
    mask = np.ascontiguousarray(view != 0)
    line = skeleton(mask)
    return _to_grid(np.argwhere(line), affine, grid), radius_on(line, mask, (x, y, z))


def _to_grid(index: np.ndarray, affine: Affine, grid: Grid) -> np.ndarray:
    """Carry voxel indices to the nearest voxels of another grid."""
    carried = apply_affine(np.linalg.solve(grid.affine, affine), index.astype(np.float64))
    voxels: np.ndarray = np.clip(np.rint(carried), 0, np.array(grid.shape) - 1).astype(np.intp)
    return voxels


def _tube(middle: np.ndarray, lumen: MaskArray) -> np.ndarray:
    """Tube a skeleton: dilate it twice by its face neighbours and cut it to the lumen (Kirchhoff et al., ECCV 2024).

    The skeleton itself stays where a vessel is too thin to fill half a voxel. Gives indices, int16 ``n 3``.
    """
    from scipy import ndimage

    low = np.maximum(middle.min(axis=0) - TUBE_VOXELS, 0)
    box = tuple(slice(a, b) for a, b in zip(low, middle.max(axis=0) + TUBE_VOXELS + 1, strict=True))
    thread = np.zeros(lumen[box].shape, bool)
    thread[tuple((middle - low).T)] = True
    tube = thread | (ndimage.binary_dilation(thread, iterations=TUBE_VOXELS) & lumen[box])
    voxels: np.ndarray = (np.argwhere(tube) + low).astype(np.int16)
    return voxels
