"""A cache of preprocessed cases on disk, and patches drawn from it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from coronary.cases import Case
from coronary.config import Config, Preprocessing
from coronary.preprocess import preprocess
from shared.config import config_hash
from shared.errors import InputError
from shared.geometry import resample_to_spacing
from shared.io.volume import read_volume


@dataclass(frozen=True, slots=True)
class CachedCase:
    """A preprocessed case on disk: arrays are memory-mapped, so a patch is read without its volume."""

    name: str
    folder: Path

    @property
    def image(self) -> np.ndarray:
        """Normalised intensities, float16 ``x y z``."""
        return np.load(self.folder / "image.npy", mmap_mode="r")

    @property
    def occupancy(self) -> np.ndarray:
        """Share of lumen in each voxel times 255, uint8 ``x y z``."""
        return np.load(self.folder / "occupancy.npy", mmap_mode="r")

    @property
    def foreground(self) -> np.ndarray:
        """Indices of lumen voxels, int16 ``n 3``."""
        return np.load(self.folder / "foreground.npy", mmap_mode="r")


def cache_case(case: Case, settings: Preprocessing, cache: Path) -> CachedCase:
    """Preprocess a case once; the cache is keyed by the preprocessing settings and the files' sizes and times.

    Raises:
        InputError: image and label lie on different grids, or the label is empty.
    """
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in (case.image, case.label)]
    folder = cache / config_hash(settings)[:12] / case.name
    marker = folder / "done.json"
    if marker.exists() and json.loads(marker.read_text()) == stamps:
        return CachedCase(case.name, folder)
    folder.mkdir(parents=True, exist_ok=True)
    marker.unlink(missing_ok=True)
    image, label = read_volume(case.image), read_volume(case.label)
    if image.array.shape != label.array.shape or not np.allclose(image.affine, label.affine, atol=1e-3):
        raise InputError(case.label, f"its grid is not that of {case.image.name}", "resample one onto the other")
    if not label.array.any():
        raise InputError(case.label, "the label is empty", "leave this case out")
    prepared = preprocess(image, settings)
    # The lumen's share of a voxel, not its majority: thin arteries would vanish from the coarser grid otherwise.
    share, _ = resample_to_spacing((label.array > 0).astype(np.float32), label.affine, settings.spacing_mm)
    np.save(folder / "image.npy", prepared.array.astype(np.float16))
    np.save(folder / "occupancy.npy", np.round(share * 255).astype(np.uint8))
    np.save(folder / "foreground.npy", np.argwhere(share >= 0.5).astype(np.int16))
    marker.write_text(json.dumps(stamps))
    return CachedCase(case.name, folder)


class Patches(Dataset[dict[str, Any]]):
    """Endless patches; item ``i`` is a function of the seed and ``i`` alone, whatever worker makes it."""

    def __init__(self, cases: Sequence[CachedCase], config: Config) -> None:
        self.cases, self.config = list(cases), config
        self._augment = _augmentation() if config.sampling.augment != "none" else None

    def __len__(self) -> int:
        return 2**40  # endless: training decides when to stop

    def __getitem__(self, index: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.config.training.seed, index))
        case = self.cases[rng.integers(len(self.cases))]
        image, occupancy = case.image, case.occupancy
        # A margin lets the rotated patch be cut without empty corners.
        size = np.array(self.config.sampling.patch) + (16 if self._augment else 0)
        centre = rng.integers(0, image.shape)
        if rng.random() < self.config.sampling.positive_fraction:
            foreground = case.foreground
            centre = foreground[rng.integers(len(foreground))] + rng.integers(-8, 9, 3)
        item: dict[str, Any] = {
            "image": torch.from_numpy(_cut(image, centre, size, fill=float(image[0, 0, 0])).astype(np.float32))[None],
            "label": torch.from_numpy(_cut(occupancy, centre, size).astype(np.float32) / 255)[None],
        }
        if self._augment:
            self._augment.set_random_state(seed=int(rng.integers(2**31)))
            item = self._augment(item)
        inside = tuple(
            slice(int(m) // 2, int(m) // 2 + p)
            for m, p in zip(size - self.config.sampling.patch, self.config.sampling.patch, strict=True)
        )
        image_patch, share = item["image"][(slice(None), *inside)], item["label"][(slice(None), *inside)].clamp(0, 1)
        return {"image": _plain(image_patch), "label": _plain(torch.cat([1 - share, share])), "case": case.name}


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    return (tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor).contiguous()


def _cut(array: np.ndarray, centre: np.ndarray, size: np.ndarray, fill: float = 0) -> np.ndarray:
    """Cut a box around a centre out of an array; what lies outside the array is ``fill``."""
    start = np.asarray(centre) - size // 2
    room = np.maximum(np.array(array.shape) - size, 0)
    start = np.clip(start, 0, room)
    piece = array[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))]
    missing = [(0, int(n - have)) for n, have in zip(size, piece.shape, strict=True)]
    return np.pad(piece, missing, constant_values=fill) if any(m for _, m in missing) else piece


def _augmentation() -> Any:
    """Small rotations and scalings, and what differs between scanners: brightness, contrast, noise, sharpness."""
    from monai.transforms import (
        Compose,
        RandAdjustContrastd,
        RandAffined,
        RandGaussianNoised,
        RandGaussianSmoothd,
        RandScaleIntensityd,
        RandShiftIntensityd,
    )

    angle = np.deg2rad(20)
    return Compose(
        [
            RandAffined(["image", "label"], prob=0.4, rotate_range=(angle,) * 3, scale_range=(0.12,) * 3,
                        mode="bilinear", padding_mode="border"),
            RandGaussianSmoothd("image", prob=0.2, sigma_x=(0.3, 0.8), sigma_y=(0.3, 0.8), sigma_z=(0.3, 0.8)),
            RandScaleIntensityd("image", factors=0.15, prob=0.4),
            RandShiftIntensityd("image", offsets=0.1, prob=0.4),
            RandAdjustContrastd("image", gamma=(0.75, 1.35), prob=0.3),
            RandGaussianNoised("image", std=0.06, prob=0.3),
        ]
    )  # fmt: skip


def batches_from(patches: Patches, step: int) -> Iterator[dict[str, Any]]:
    """Batches from a given optimiser step on; a resumed run sees what an uninterrupted one would have seen."""
    batch = patches.config.training.batch
    return iter(
        DataLoader(
            patches,
            batch_size=batch,
            sampler=range(step * batch, len(patches)),
            num_workers=patches.config.training.workers,
            pin_memory=torch.cuda.is_available(),
        )
    )
