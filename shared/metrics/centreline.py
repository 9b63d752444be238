"""How much of a vessel's centreline is found, for thin and for wide vessels.

Masks are 3D arrays on one grid, foreground where nonzero, spacing in mm along each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Shaped

from shared.geometry import bounding_box

Mask = Shaped[np.ndarray, "x y z"]


def centreline_recall(
    pred: Mask, truth: Mask, spacing_mm: tuple[float, float, float], edges_mm: Sequence[float]
) -> list[float]:
    """Return which share of the truth's centreline the prediction holds, for each class of vessel radius.

    The centreline is the truth's skeleton, as in clDice: over all classes together the recall is clDice's topology
    sensitivity (Shit et al., CVPR 2021). Classes lie between neighbouring ``edges_mm``, the first below the first
    edge, the last from the last edge on. NaN where the truth has no vessel of a class: there is nothing to find.
    """
    if pred.ndim != 3 or pred.shape != truth.shape:
        raise ValueError(f"two 3D masks on one grid are needed, not shapes {pred.shape} and {truth.shape}")
    if not truth.any():
        return [np.nan] * (len(edges_mm) + 1)
    box = bounding_box(truth != 0, 2 * max(spacing_mm), spacing_mm)
    inside, wanted = pred[box] != 0, truth[box] != 0
    line = skeleton(wanted)
    radius_mm, found = radius_on(line, wanted, spacing_mm), inside[line]
    recall = []
    for low, high in pairwise([-np.inf, *edges_mm, np.inf]):
        part = found[(radius_mm >= low) & (radius_mm < high)]
        recall.append(float(part.mean()) if part.size else np.nan)
    return recall


def radius_on(
    line: Bool[np.ndarray, "x y z"], mask: Bool[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]
) -> Float64[np.ndarray, " n"]:
    """Return the vessel's radius in mm at each voxel of its skeleton, in the order of ``np.argwhere(line)``.

    The largest distance to the background's voxel centres within one voxel of the skeleton, which may run beside the
    middle. That distance reaches half a voxel past the wall, and the middle lies up to half a voxel off every voxel's
    centre: the two cancel. On phantoms of known radius at 0.4 to 0.75 mm the mean absolute error is below 0.1 mm
    (tests/coronary/test_evaluate.py). The array's edge is no wall.
    """
    import edt
    from scipy import ndimage

    distance = edt.edt(np.ascontiguousarray(mask), anisotropy=spacing_mm, black_border=False)
    widest = ndimage.maximum_filter(distance, size=3, mode="nearest")
    return np.asarray(widest[line], dtype=np.float64)


def skeleton(mask: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
    """Return Lee's skeleton (CVGIP 1994) with at least one voxel for every component.

    scikit-image's thinning eats some solid parts of an even width whole (a block of 4x4x4; its issue 3757). Such a
    component is thinned again without its first layer along one axis, then along two, then three.
    """
    from scipy import ndimage
    from skimage.morphology import skeletonize  # half a second to import

    def thin(part: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "x y z"]:
        return np.asarray(skeletonize(part, method="lee")) > 0  # type: ignore[no-untyped-call]

    line = thin(mask)
    labels, count = components(mask)
    lost = np.setdiff1d(np.arange(1, count + 1), labels[line])
    boxes = ndimage.find_objects(labels) if lost.size else []
    for label in lost:
        box = boxes[label - 1]
        part = whole = labels[box] == label
        for axis in range(3):
            part = _without_first_layer(part, axis)
            if (rest := thin(part)).any():
                break
        else:  # the voxel nearest the middle
            voxels = np.argwhere(whole)
            middle = voxels[np.argmin(((voxels - voxels.mean(axis=0)) ** 2).sum(axis=1))]
            rest = np.zeros_like(whole)
            rest[tuple(middle)] = True
        line[box] |= rest
    return line


def components(mask: Bool[np.ndarray, "x y z"]) -> tuple[Shaped[np.ndarray, "x y z"], int]:
    """Return the labels 1 to n of ``mask``'s components in the 26-neighbourhood, and n."""
    import cc3d

    # The rim is for cc3d: it gives up on an array of three voxels with a gap in the middle.
    labels, count = cc3d.connected_components(np.pad(mask, 1), connectivity=26, return_N=True)
    return labels[1:-1, 1:-1, 1:-1], int(count)


def _without_first_layer(part: Bool[np.ndarray, "x y z"], axis: int) -> Bool[np.ndarray, "x y z"]:
    """Drop the voxels with no neighbour before them along ``axis``, unless that drops all."""
    along = np.moveaxis(part, axis, 0)
    thinner = np.zeros_like(part)
    np.moveaxis(thinner, axis, 0)[1:] = along[1:] & along[:-1]
    return thinner if thinner.any() else part
