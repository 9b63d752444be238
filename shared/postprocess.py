"""Connected pieces of a mask, kept or dropped by their volume in mm3."""

from __future__ import annotations

from itertools import product
from typing import Literal

import cc3d
import numpy as np
from jaxtyping import Bool, Int64, UInt32
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from shared.types import MaskArray

# An artery tree fills a hundredth of its box: there a graph over its voxels needs a tenth of cc3d's memory.
SPARSE_SHARE = 0.03
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
    if np.count_nonzero(mask) < SPARSE_SHARE * mask.size:
        return _keep_sparse(mask, smallest_voxels, connectivity)
    if _is_thin(mask):
        return keep_components(np.pad(mask, 2), voxel_mm3, min_volume_mm3, connectivity)[2:-2, 2:-2, 2:-2]
    kept: MaskArray = cc3d.dust(mask, threshold=smallest_voxels, connectivity=connectivity) > 0
    return kept


def _keep_sparse(mask: MaskArray, smallest_voxels: int, connectivity: Connectivity) -> MaskArray:
    """Keep pieces as a graph over the true voxels alone: no second volume, where few voxels are true."""
    turned = mask.strides[0] < mask.strides[2]  # go through memory in its own order
    view = mask.T if turned else mask
    index = np.stack(np.nonzero(view))
    # A border of one voxel keeps neighbours across an edge apart; the keys ascend.
    _, y, z = (n + 2 for n in view.shape)
    step = np.array([y * z, z, 1])
    keys = step @ (index + 1)
    edges = []
    for offset in product((-1, 0, 1), repeat=3):
        if offset > (0, 0, 0) and np.abs(offset).sum() <= {6: 1, 18: 2, 26: 3}[connectivity]:
            wanted = keys + step @ np.array(offset)
            found = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            here = np.flatnonzero(keys[found] == wanted)
            edges.append(np.stack([here, found[here]]))
    start, end = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(start), bool), (start, end)), shape=(len(keys),) * 2)
    _, piece = connected_components(graph, directed=False)
    large = index[:, np.bincount(piece)[piece] >= smallest_voxels]
    kept = np.zeros(view.shape, bool)
    kept[tuple(large)] = True
    return kept.T if turned else kept


def _is_thin(mask: MaskArray) -> bool:
    """Say whether cc3d 4.1 may fail on this grid: its table is too short where a side is a few voxels."""
    return bool(min(mask.shape) < 4)
