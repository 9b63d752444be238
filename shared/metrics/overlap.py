"""How well a predicted mask agrees with the truth: overlap, surfaces, topology.

Masks are 3D arrays on one grid, foreground where nonzero, spacing in mm along each axis. Every score is symmetric in
its two masks. Two empty masks agree perfectly (1, 0 mm, 0); one empty mask disagrees wholly (0, infinitely far): an
infinity is meant to be seen, where a NaN would drop out of a mean.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from shared.metrics.centreline import components, skeleton

Mask = Shaped[np.ndarray, "x y z"]
_Crop = Bool[np.ndarray, "x y z"]

_TIE_MM = 1e-6  # a distance that equals the tolerance is within it, whatever rounding did


def overlap_scores(
    pred: Mask, truth: Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float = 1.0
) -> dict[str, float]:
    """Return every score of this module by name: dice, cl_dice, hd95_mm, surface_dice, betti0_error."""
    pred, truth = _joint_crop(pred, truth)  # once for all
    distances = _surface_distances_mm(pred, truth, spacing_mm)
    return {
        "dice": dice(pred, truth),
        "cl_dice": cl_dice(pred, truth),
        "hd95_mm": _hd95(*distances),
        "surface_dice": _surface_dice(*distances, tolerance_mm),
        "betti0_error": float(betti0_error(pred, truth)),
    }


def dice(pred: Mask, truth: Mask) -> float:
    """Return Dice's coefficient 2|P and T| / (|P| + |T|), in [0, 1] (Dice, Ecology 1945)."""
    pred, truth = _as_masks(pred, truth)
    size = np.count_nonzero(pred) + np.count_nonzero(truth)
    return float(2.0 * np.count_nonzero(pred & truth) / size) if size else 1.0


def cl_dice(pred: Mask, truth: Mask) -> float:
    """Return the centreline Dice of binary masks, in [0, 1] (Shit et al., CVPR 2021, eq. 1 and 2).

    The harmonic mean of the share of the prediction's skeleton inside the truth and of the truth's skeleton inside
    the prediction; skeletons by Lee's thinning (CVGIP 1994) in voxels, so the two masks should be near isotropic.
    """
    pred, truth = _joint_crop(pred, truth)
    if not (pred.any() and truth.any()):
        return float(pred.any() == truth.any())
    precision, sensitivity = _share_inside(pred, truth), _share_inside(truth, pred)
    total = precision + sensitivity
    return 2.0 * precision * sensitivity / total if total else 0.0


def hd95_mm(pred: Mask, truth: Mask, spacing_mm: tuple[float, float, float]) -> float:
    """Return the 95th percentile Hausdorff distance in mm: of both directed percentiles the larger.

    Distances go from each boundary voxel's centre to the nearest boundary voxel's centre of the other mask; a
    boundary voxel is one of the mask with a face neighbour outside it (as in MONAI).
    """
    return _hd95(*_surface_distances_mm(*_joint_crop(pred, truth), spacing_mm))


def surface_dice(pred: Mask, truth: Mask, spacing_mm: tuple[float, float, float], tolerance_mm: float = 1.0) -> float:
    """Return the share of both surfaces within ``tolerance_mm`` of the other, in [0, 1].

    Normalised surface Dice of Nikolov et al. (J Med Internet Res 2021) with each boundary voxel counted once, as MONAI
    does by default. DeepMind's surface-distance weighs surface elements by area instead and is the milder: by 0.09 in
    the mean, 0.3 at most, on tubes a few voxels wide. Compare only figures of one kind.
    """
    return _surface_dice(*_surface_distances_mm(*_joint_crop(pred, truth), spacing_mm), tolerance_mm)


def betti0_error(pred: Mask, truth: Mask) -> int:
    """Return how far the numbers of connected components (26-neighbourhood) are apart."""
    ours, theirs = (components(mask)[1] for mask in _joint_crop(pred, truth))
    return abs(ours - theirs)


def _as_masks(pred: Mask, truth: Mask) -> tuple[_Crop, _Crop]:
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(f"two 3D masks on one grid are needed, not shapes {pred.shape} and {truth.shape}")
    return pred.astype(bool, copy=False), truth.astype(bool, copy=False)


def _joint_crop(pred: Mask, truth: Mask) -> tuple[_Crop, _Crop]:
    """Cut both masks to the box that holds both: a tree fills a small part of its scan."""
    pred, truth = _as_masks(pred, truth)
    either = pred | truth
    box = []
    for axis in range(3):
        filled = np.flatnonzero(either.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(filled[0], filled[-1] + 1) if filled.size else slice(0, 0))
        either = either[(slice(None),) * axis + (box[axis],)]
    return pred[tuple(box)], truth[tuple(box)]


def _share_inside(mask: _Crop, other: _Crop) -> float:
    """Return the share of ``mask``'s skeleton that lies in ``other``."""
    line = skeleton(mask)
    return float(np.count_nonzero(line & other) / np.count_nonzero(line))


def _surface_distances_mm(
    pred: _Crop, truth: _Crop, spacing_mm: tuple[float, float, float]
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]]:
    """Return, for each boundary voxel of either mask, the distance in mm to the boundary of the other.

    By KD-tree: exact, and a sparse tree's boundary is far smaller than the box a distance transform would fill.
    """
    from scipy.spatial import KDTree

    points = [np.argwhere(_boundary(mask)) * np.asarray(spacing_mm, dtype=np.float64) for mask in (pred, truth)]
    if not all(len(p) for p in points):
        far = [np.full(len(p), np.inf) for p in points]
        return far[0], far[1]
    return KDTree(points[1]).query(points[0])[0], KDTree(points[0]).query(points[1])[0]


def _boundary(mask: _Crop) -> _Crop:
    """Return the voxels of ``mask`` with a face neighbour outside it; beyond the array all is outside."""
    inside = mask.copy()
    for axis in range(3):
        along, kept = np.moveaxis(mask, axis, 0), np.moveaxis(inside, axis, 0)  # views
        kept[1:] &= along[:-1]
        kept[:-1] &= along[1:]
        kept[:1] = kept[-1:] = False
    return np.asarray(mask & ~inside)


def _hd95(pred_mm: Float64[np.ndarray, " n"], truth_mm: Float64[np.ndarray, " m"]) -> float:
    if not (pred_mm.size and truth_mm.size):
        return np.inf if pred_mm.size or truth_mm.size else 0.0
    return float(max(np.percentile(pred_mm, 95), np.percentile(truth_mm, 95)))


def _surface_dice(
    pred_mm: Float64[np.ndarray, " n"], truth_mm: Float64[np.ndarray, " m"], tolerance_mm: float
) -> float:
    size = pred_mm.size + truth_mm.size
    if not size:
        return 1.0
    return float(sum(np.count_nonzero(mm <= tolerance_mm + _TIE_MM) for mm in (pred_mm, truth_mm)) / size)
