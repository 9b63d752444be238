"""Patches drawn from the cache; ``shared.training_data`` makes batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from coronary.augment import Warp, change_intensities, draw_warp, resample
from coronary.cache import CachedCase
from coronary.config import Config

# Each part of the random numbers has a stream of its own.
ORDER, PATCH = 0, 1


class Patches(Dataset[dict[str, Any]]):
    """Endless patches; item ``i`` is a function of the seed and ``i`` alone, whatever process makes it.

    A pass goes through all cases in an order of its own, ``patches_per_case`` items from one before the next. An item
    has ``image`` (1 x y z), ``label`` (background and lumen, 2 x y z, shares of the voxel), ``case`` (its name) and,
    where the loss asks for it, ``skeleton`` (1 x y z, 1 on the label's tubed skeleton), all float32.
    """

    def __init__(self, cases: Sequence[CachedCase], config: Config) -> None:
        self.config, self.seed = config, config.training.seed
        # Arrays, not a list of objects: counting references would copy it page by page in every worker.
        self._names = np.array([case.name for case in cases])
        self._folders = np.array([str(case.folder) for case in cases])

    def __len__(self) -> int:
        return 2**40  # endless: training decides when to stop

    def __getitem__(self, index: int) -> dict[str, Any]:
        sampling = self.config.sampling
        case = self.case_of(index)
        rng = np.random.default_rng((self.seed, PATCH, index))
        image, occupancy = case.image, case.occupancy
        start = corner(self._centre(case, occupancy, rng), image.shape, sampling.patch)
        warp = draw_warp(sampling.augment, rng)
        fill = float(case.notes["pad_value"])
        if warp.is_flip:
            patch = cut(image, start, sampling.patch, fill).astype(np.float32)
            share = cut(occupancy, start, sampling.patch, 0).astype(np.float32) / 255
            mirrored = tuple(slice(None, None, int(sign)) for sign in np.diag(warp.matrix))
            patch, share = patch[mirrored], share[mirrored]
        else:
            patch, share = _warped(image, occupancy, start, warp, sampling.patch, fill)
        patch = change_intensities(sampling.augment, patch, rng)
        item = {"image": _tensor(patch[None]), "label": _tensor(np.stack([1 - share, share])), "case": case.name}
        if self.config.loss.skeleton_recall > 0:
            item["skeleton"] = _tensor(_painted(case.skeleton, start, warp, sampling.patch)[None])
        return item

    def case_of(self, index: int) -> CachedCase:
        """Tell which case item ``index`` is cut from."""
        count = len(self._names)
        turn = index // self.config.sampling.patches_per_case
        chosen = _order(self.seed, turn // count, count)[turn % count]
        return CachedCase(str(self._names[chosen]), Path(str(self._folders[chosen])))

    def _centre(self, case: CachedCase, occupancy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw a patch's centre: on lumen, on the middle of a thin vessel, or on background."""
        sampling = self.config.sampling
        if rng.random() >= sampling.positive_fraction:
            return _background(occupancy, rng)
        indices = case.thin if rng.random() < sampling.distal_fraction else case.foreground
        if not len(indices):
            indices = case.foreground
        jitter = rng.uniform(-1, 1, 3) * sampling.jitter_mm / self.config.preprocessing.spacing_mm
        centre: np.ndarray = np.rint(indices[rng.integers(len(indices))] + jitter).astype(np.intp)
        return centre


@lru_cache(maxsize=2)
def _order(seed: int, number: int, count: int) -> np.ndarray:
    """Order of the cases in one pass."""
    return np.random.default_rng((seed, ORDER, number)).permutation(count)


def _background(occupancy: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a voxel that is not lumen, each as likely as another; lumen is rare, so trying again is quick."""
    for _ in range(1000):
        voxel = rng.integers(0, occupancy.shape)
        if occupancy[tuple(voxel)] < 128:
            break
    return voxel


def corner(centre: np.ndarray, shape: tuple[int, ...], size: tuple[int, int, int]) -> np.ndarray:
    """First voxel of a patch about ``centre``, moved as little as keeps it inside, as MONAI's crops are.

    Where the scan is smaller than the patch it lies in the patch's middle, as prediction pads it.
    """
    room = np.array(shape) - size
    inside = np.clip(centre - np.array(size) // 2, 0, np.maximum(room, 0))
    return np.where(room < 0, -(-room // 2), inside)


def cut(array: np.ndarray, start: np.ndarray, size: Sequence[int] | np.ndarray, fill: float) -> np.ndarray:
    """Cut a box out of an array; what lies outside the array is ``fill``."""
    before = np.maximum(-start, 0)
    stop = start + np.array(size)
    piece = array[tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(start, stop, strict=True))]
    after = np.array(size) - before - piece.shape
    if not (before.any() or after.any()):
        return piece
    return np.pad(piece, list(zip(before, after, strict=True)), constant_values=fill)


def _warped(
    image: np.ndarray, occupancy: np.ndarray, start: np.ndarray, warp: Warp, size: tuple[int, int, int], fill: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cut no more than a warped patch looks at, and resample image and lumen share together."""
    centre = start + (np.array(size) - 1) / 2
    reach = warp.reach(size)
    # A scan smaller than the patch counts as padded to it, here too.
    first = np.minimum(start, 0)
    last = np.maximum(start + size, image.shape)
    low = np.clip(np.floor(centre + warp.shift - reach), first, last - 1).astype(np.intp)
    high = np.clip(np.ceil(centre + warp.shift + reach) + 1, low + 1, last).astype(np.intp)
    box = np.stack([cut(image, low, high - low, fill), cut(occupancy, low, high - low, 0)], dtype=np.float32)
    patch, share = resample(box, centre - low, warp, size)
    return patch, np.clip(share / 255, 0, 1)  # float32 may round past 1


def _painted(points: np.ndarray, start: np.ndarray, warp: Warp, size: tuple[int, int, int]) -> np.ndarray:
    """Paint voxels of the scan where the patch shows them."""
    middle = (np.array(size) - 1) / 2
    seen = np.rint(warp.to_patch(points - (start + middle)) + middle).astype(np.intp)
    seen = seen[((seen >= 0) & (seen < size)).all(axis=1)]
    painted = np.zeros(size, np.float32)
    painted[tuple(seen.T)] = 1
    return painted


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
