"""From a scan in HU to the network's input: the one function that training and prediction both call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coronary.config import HuWindow, Preprocessing, ZScore
from shared.geometry import resample_to_spacing
from shared.types import Affine, MaskArray, Volume, VolumeArray


@dataclass(frozen=True, slots=True)
class Prepared:
    """The network's input: ``array`` normalised ``x y z`` RAS+ at the model's spacing, its ``affine``.

    ``scale`` and ``offset`` say what HU became before clipping: ``array = HU * scale + offset``. ``pad_value`` stands
    for what lies outside the scan: air under a HU window, zero after a z-score (as MONAI pads).
    """

    array: VolumeArray
    affine: Affine
    scale: float
    offset: float
    pad_value: float

    @property
    def hu(self) -> VolumeArray:
        """The scan in HU again, as far as clipping left it."""
        hu: VolumeArray = (self.array - np.float32(self.offset)) * np.float32(1 / self.scale)
        return hu

    def brighter_than(self, threshold_hu: float) -> MaskArray:
        """Voxels above a threshold in HU, ``x y z``."""
        mask: MaskArray = self.array > threshold_hu * self.scale + self.offset
        return mask


def preprocess(volume: Volume, settings: Preprocessing) -> Prepared:
    """Normalise a scan and resample it to the model's spacing, trilinear.

    Under a HU window the scan may be cropped before; the z-score needs the whole volume. The z-score chain is
    MONAI's SpatialPad, NormalizeIntensity(nonzero=True), Spacing(mode="bilinear").
    """
    match settings.normalisation:
        case HuWindow(low_hu=low, high_hu=high):
            array, affine = resample_to_spacing(volume.array, volume.affine, settings.spacing_mm)
            scale = 2 / (high - low)
            offset = -1 - low * scale
            array = np.clip(array * np.float32(scale) + np.float32(offset), -1, 1)
            return Prepared(array, affine, scale, offset, pad_value=-1.0)
        case ZScore(pad_to=pad_to):
            padded, affine = _spatial_pad(volume.array, volume.affine, pad_to)
            array, scale, offset = _zscore_nonzero(padded)
            array, affine = resample_to_spacing(array, affine, settings.spacing_mm)
            return Prepared(array, affine, scale, offset, pad_value=0.0)


def _spatial_pad(array: VolumeArray, affine: Affine, least: tuple[int, int, int]) -> tuple[VolumeArray, Affine]:
    """Zero-pad both sides up to ``least`` voxels, as MONAI's SpatialPad(method="symmetric")."""
    missing = [max(want - have, 0) for want, have in zip(least, array.shape, strict=True)]
    if not any(missing):
        return array, affine
    before = np.array([m // 2 for m in missing])
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, :3] @ before
    return np.pad(array, [(m // 2, m - m // 2) for m in missing]), moved


def _zscore_nonzero(array: VolumeArray) -> tuple[VolumeArray, float, float]:
    """Z-score the non-zero voxels and leave zeros at zero; returns also scale and offset."""
    flat = array.ravel(order="K")  # in the order of memory: no copy
    count = max(int(np.count_nonzero(flat)), 1)
    # Zeros add nothing to the sums; block by block in float64, so that no second volume is needed.
    mean = squares = 0.0
    for start in range(0, flat.size, 2**18):
        block = flat[start : start + 2**18].astype(np.float64)
        mean += float(block.sum()) / count
        squares += float(block @ block) / count
    deviation = max(squares - mean * mean, 0.0) ** 0.5 or 1.0
    out = array - np.float32(mean)
    out *= np.float32(1 / deviation)
    out[array == 0] = 0
    return out, 1 / deviation, -mean / deviation
