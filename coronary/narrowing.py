"""Narrowings along a vessel, as a percentage of the diameter it would have there were it healthy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from coronary.centreline import STEP_MM, Points, Values, arc_length

# Below 1.5 mm the Society of Cardiovascular Computed Tomography does not grade a segment (Leipsic et al. 2014, SCCT
# guidelines for interpretation and reporting). Below 4 voxels, or for a loss of less than 1.5 (half a voxel of doubt
# at each wall, there and in the reference), the roughness of a mask alone makes narrowings: tried on phantoms.
MIN_REFERENCE_MM, MIN_REFERENCE_VOXELS, MIN_LOSS_VOXELS = 1.5, 4.0, 1.5
HEALTHY_MM = 1.0  # of vessel on either side, or the dip is an end or a taper
RECOVERY_MM = 15.0  # within which the vessel is wider again on either side
BANDWIDTH_MM = 10.0  # of the reference's kernel: longer than most plaques, shorter than most segments
STARTING_QUANTILE, STARTING_MM = 0.75, 30.0
BELOW, ABOVE = 0.3, 0.6  # a point this far (relative) under or over the reference has no say in it


@dataclass(frozen=True)
class Narrowing:
    """A stretch of a branch that is thinner than the vessel about it.

    ``percent`` is the diameter stenosis, 100 (1 - diameter / reference). ``uncertainty_percent`` is what one voxel
    is worth at that reference diameter: a mask cannot say it more exactly.
    """

    position_mm: float  # of the thinnest point, along the branch from its start
    point_mm: tuple[float, float, float]  # the same in RAS
    length_mm: float  # where at least half of the narrowing is reached
    diameter_mm: float
    reference_diameter_mm: float
    percent: float
    uncertainty_percent: float


def reference_diameter(diameter_mm: Values) -> Values:
    """Diameter that a healthy vessel would have along its whole course.

    A local linear fit, so that tapering is followed, which points far below it (plaque) or far above (a fork, an
    aneurysm) do not pull: the robust kernel regression of Shahzad et al. 2013, "Automatic segmentation, detection and
    quantification of coronary artery stenoses on CTA", with Cleveland's bisquare weights.

    Args:
        diameter_mm: ``STEP_MM`` apart.
    """
    n = len(diameter_mm)
    if n < 3:
        return diameter_mm.copy()
    width = min(2 * n - 1, int(STARTING_MM / STEP_MM) | 1)
    fit: Values = ndimage.percentile_filter(diameter_mm, 100 * STARTING_QUANTILE, size=width, mode="nearest")
    reach = int(3 * BANDWIDTH_MM / STEP_MM)
    offset_mm = np.arange(-reach, reach + 1) * STEP_MM
    kernel = np.exp(-0.5 * (offset_mm / BANDWIDTH_MM) ** 2)

    def moment(values: Values, power: int) -> Values:
        summed: Values = ndimage.correlate1d(values, kernel * offset_mm**power, mode="constant")
        return summed

    for _ in range(5):
        relative = (diameter_mm - fit) / fit
        weight = np.clip(1 - (relative / np.where(relative < 0, BELOW, ABOVE)) ** 2, 0.01, 1) ** 2
        s0, s1, s2 = (moment(weight, power) for power in range(3))
        t0, t1 = (moment(weight * diameter_mm, power) for power in range(2))
        fit = np.maximum((s2 * t0 - s1 * t1) / np.maximum(s0 * s2 - s1**2, 1e-12), 0.1)
    return fit


def find_narrowings(
    points_mm: Points, diameter_mm: Values, voxel_mm: float, min_percent: float, min_length_mm: float
) -> tuple[Narrowing, ...]:
    """Find where a vessel is at least ``min_percent`` thinner than its reference diameter, over ``min_length_mm``.

    Nothing is reported that the grid does not resolve (a loss of less than 1.5 voxels, a reference of less than four)
    nor without ``HEALTHY_MM`` of vessel both before and behind: an ostium's or a tip's own taper is no narrowing.

    Args:
        points_mm: RAS, ``STEP_MM`` apart; positions are counted from the first.
        diameter_mm: at these points.
        voxel_mm: the coarsest spacing of the mask.
        min_percent: diameter stenosis from which on one is reported.
        min_length_mm: over which at least half of it is reached.
    """
    if len(diameter_mm) < 3:
        return ()
    calm = ndimage.gaussian_filter1d(diameter_mm, 0.5 / STEP_MM, mode="nearest")  # the grid's own ripple
    reference = reference_diameter(calm)
    percent = 100 * (1 - calm / reference)
    margin, reach = round(HEALTHY_MM / STEP_MM), round(RECOVERY_MM / STEP_MM)
    resolved = (reference >= max(MIN_REFERENCE_MM, MIN_REFERENCE_VOXELS * voxel_mm)) & (
        reference - calm >= MIN_LOSS_VOXELS * voxel_mm
    )
    found = []
    for start, stop in _runs(percent >= min_percent / 2):
        worst = start + int(np.argmax(percent[start:stop]))
        halves = _runs(percent >= percent[worst] / 2)
        length_mm = next(b - a for a, b in halves if a <= worst < b) * STEP_MM
        between_healthy = start >= margin and stop <= len(calm) - margin
        # A vessel that gives off a large branch steps down and stays so: a narrowing is wider on both sides again.
        beside = min(calm[max(0, worst - reach) : worst + 1].max(), calm[worst : worst + reach].max())
        recovers = 100 * (1 - calm[worst] / beside) >= percent[worst] / 2
        if percent[worst] < min_percent or length_mm < min_length_mm:
            continue
        if not (resolved[worst] and between_healthy and recovers):
            continue
        x, y, z = (float(v) for v in points_mm[worst])
        found.append(
            Narrowing(
                position_mm=float(arc_length(points_mm)[worst]),
                point_mm=(x, y, z),
                length_mm=float(length_mm),
                diameter_mm=float(calm[worst]),
                reference_diameter_mm=float(reference[worst]),
                percent=float(percent[worst]),
                uncertainty_percent=float(100 * voxel_mm / reference[worst]),
            )
        )
    return tuple(found)


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Start and stop of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.r_[0, flags.astype(np.int8), 0]))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]
