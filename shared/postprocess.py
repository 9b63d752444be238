"""Connected pieces of a mask, kept or dropped by their volume in mm3."""

from __future__ import annotations

from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Int64, UInt32

from shared.types import MaskArray

Connectivity = Literal[6, 18, 26]


def label_components(
    mask: Bool[np.ndarray, "x y z"], connectivity: Connectivity = 26
) -> tuple[UInt32[np.ndarray, "x y z"], Int64[np.ndarray, " n"]]:
    """Number the connected pieces of a mask, the largest first.

    Returns:
        The labels (0 is background, 1 the largest piece) and each piece's size in voxels: ``sizes[0]`` is piece 1's.
    """
    if not mask.any():
        return np.zeros(mask.shape, np.uint32), np.zeros(0, np.int64)
    if _is_thin(mask):
        labels, sizes = label_components(np.pad(mask, 2), connectivity)
        return labels[2:-2, 2:-2, 2:-2], sizes
    labels, count = cc3d.connected_components(mask, connectivity=connectivity, return_N=True)
    sizes = np.bincount(labels[labels > 0], minlength=count + 1)[1:]
    order = np.argsort(-sizes, kind="stable")
    rank = np.zeros(count + 1, np.uint32)
    rank[order + 1] = np.arange(1, count + 1)
    return rank[labels], sizes[order].astype(np.int64)


def keep_components(
    mask: Bool[np.ndarray, "x y z"], voxel_mm3: float, min_volume_mm3: float, connectivity: Connectivity = 26
) -> MaskArray:
    """Drop the pieces of a mask that are smaller than ``min_volume_mm3``.

    Args:
        mask: ``x y z``; it is not changed.
        voxel_mm3: volume of one voxel, as ``Grid.voxel_mm3`` gives it.
        min_volume_mm3: a piece of exactly this volume stays.
        connectivity: 6 (faces), 18 (edges) or 26 (corners) make neighbours.
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    # A millionth of tolerance: a spacing that went through float32 must not decide about a piece.
    smallest_voxels = max(1, int(np.ceil(min_volume_mm3 / voxel_mm3 * (1 - 1e-6))))
    if _is_thin(mask):
        return keep_components(np.pad(mask, 2), voxel_mm3, min_volume_mm3, connectivity)[2:-2, 2:-2, 2:-2]
    kept: MaskArray = cc3d.dust(mask, threshold=smallest_voxels, connectivity=connectivity) > 0
    return kept


def _is_thin(mask: MaskArray) -> bool:
    """Say whether cc3d 4.1 may fail on this grid: its table is too short where a side is a few voxels."""
    return bool(min(mask.shape) < 4)
