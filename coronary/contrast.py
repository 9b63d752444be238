"""Where contrast can be: the opacified blood pool, the region around it, and the finding that there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from shared.geometry import Box, bounding_box, box_within, crop, resample_to_grid, resample_to_spacing
from shared.postprocess import label_components
from shared.types import Affine, Grid, MaskArray, Volume

SPACING_MM = 2.0
# Unenhanced blood is 30-50 HU; enhanced coronaries are read from some 200 HU up (SCCT guideline, Abbara et al. 2016:
# at least 250 HU wanted). Between them: bright enough for poor contrast, too bright for spongy bone in most adults.
BLOOD_HU = (160.0, 900.0)
# A ball of this radius fits into a ventricle, an atrium and the aorta, and into no rib or coronary.
CORE_RADIUS_MM = 7.0
MIN_BLOOD_ML = 25.0
# Muscle and unenhanced blood lie at 30-70 HU: a median far above says that the scale is another.
NO_TISSUE_HU = 110.0
# Epicardial arteries run on the heart's surface: a wall of up to 15 mm, fat, and the right heart where it is dark.
REACH_MM = 35.0
# Somewhere each artery comes this close to the heart's blood: a wall of up to 15 mm and some fat. On a real chest CT it
# drops most of what was painted in spine, ribs and liver; on phantoms nothing (benchmarks/coronary_region.py).
CLOSE_MM = 20.0
# Blood is even, spongy bone is not: standard deviation within 10 mm, median over a core.
MAX_BLOOD_SD_HU = 60.0
# Share of the 14 mm around a core that is brighter than it: 0.21 around the spine of a real chest CT, 0.04 around
# the heart of one with a stent in the aorta, below 0.01 in phantoms.
CORTEX_ABOVE_HU = 60.0
MAX_CORTEX_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ContrastRegion:
    """The part of a scan where contrast-filled coronaries can lie.

    ``blood_hu`` is the level of the brightest pool (the upper quartile of its core: left heart or right, by timing).

    ``near`` is true within reach of any blood pool, on the coarse ``affine`` grid; ``box`` holds it, in voxels of the
    scan. ``close`` is true within 20 mm of the largest pool, which is the heart's. ``finding`` says why there is none:
    then all are empty.
    """

    near: MaskArray
    close: MaskArray
    affine: Affine
    box: Box
    blood_ml: float
    blood_hu: float
    finding: str | None = None


def contrast_region(volume: Volume) -> ContrastRegion:
    """Find the opacified blood pool of a CT in HU and everything within 35 mm of it."""
    coarse, affine = resample_to_spacing(volume.array, volume.affine, SPACING_MM)
    smooth = ndimage.uniform_filter(coarse, 3, mode="nearest")
    grid = Grid(coarse.shape, affine)
    core, blood_hu = _blood_core(smooth, grid)
    blood_ml = core.sum() * grid.voxel_mm3 / 1000
    wanted_ml = min(MIN_BLOOD_ML, 0.03 * coarse.size * grid.voxel_mm3 / 1000)
    if blood_ml < max(wanted_ml, 1.0):
        nothing: Box = (slice(0, 0), slice(0, 0), slice(0, 0))
        finding = (
            "no contrast-filled artery found: only "
            f"{blood_ml:.0f} ml of even density between {BLOOD_HU[0]:.0f} and {BLOOD_HU[1]:.0f} HU "
            f"({MIN_BLOOD_ML:.0f} ml are needed to be blood with contrast); "
            f"soft tissue and blood lie at {_soft_tissue_hu(smooth):.0f} HU, so this looks like "
            + ("a scan without contrast" if _soft_tissue_hu(smooth) < NO_TISSUE_HU else "values that are not in HU")
        )
        empty = np.zeros_like(core)
        return ContrastRegion(empty, empty, affine, nothing, blood_ml, blood_hu, finding)
    near = ndimage.distance_transform_edt(~core, sampling=grid.spacing_mm) <= REACH_MM
    heart = label_components(core, 6)[0] == 1
    close = ndimage.distance_transform_edt(~heart, sampling=grid.spacing_mm) <= CLOSE_MM
    part, part_affine = crop(near, affine, bounding_box(near, 0, grid.spacing_mm))
    box = box_within(volume.grid, part.shape, part_affine)
    return ContrastRegion(near, close, affine, box, blood_ml, blood_hu)


def near_on(region: ContrastRegion, grid: Grid) -> MaskArray:
    """Bring ``near`` onto another grid with the same directions, nearest neighbour."""
    return _on(region.near, region, grid)


def close_on(region: ContrastRegion, grid: Grid) -> MaskArray:
    """Bring ``close`` onto another grid with the same directions, nearest neighbour."""
    return _on(region.close, region, grid)


def _on(mask: MaskArray, region: ContrastRegion, grid: Grid) -> MaskArray:
    found: MaskArray = resample_to_grid(mask.astype(np.uint8), region.affine, grid, order=0) > 0
    return found


def _blood_core(smooth: np.ndarray, grid: Grid) -> tuple[MaskArray, float]:
    """Opened, even, blood-bright regions: what a ball of 7 mm fits into, grown back, piece by piece."""
    bright = (smooth > BLOOD_HU[0]) & (smooth < BLOOD_HU[1])
    depth = ndimage.distance_transform_edt(np.pad(bright, 1), sampling=grid.spacing_mm)[1:-1, 1:-1, 1:-1]
    seeds = depth >= CORE_RADIUS_MM
    core = np.zeros(bright.shape, bool)
    labels, sizes = label_components(seeds, 6)
    values = [float("nan")]
    unevenness = _local_sd(smooth)
    margin = [round(2 * CORE_RADIUS_MM / spacing) for spacing in grid.spacing_mm]
    for number, found in enumerate(ndimage.find_objects(labels, max_label=min(len(sizes), 20)), start=1):
        box = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(found, margin, strict=True))
        piece, around = labels[box] == number, smooth[box]
        level = float(np.percentile(around[piece], 75))
        if np.median(unevenness[box][piece]) <= MAX_BLOOD_SD_HU and not _is_marrow(piece, around, level, grid):
            core[box] |= piece
            values.append(level)
    if core.any():
        away = ndimage.distance_transform_edt(~core, sampling=grid.spacing_mm)
        core = bright & (away <= CORE_RADIUS_MM)
    return core, float(np.fmax.reduce(values))


def _is_marrow(piece: MaskArray, smooth: np.ndarray, level_hu: float, grid: Grid) -> bool:
    """Say whether a piece lies in a brighter shell, as spongy bone does in its cortex and blood does not."""
    away = ndimage.distance_transform_edt(~piece, sampling=grid.spacing_mm)
    shell = smooth[(away > 0) & (away <= 2 * CORE_RADIUS_MM)]
    return bool((shell > level_hu + CORTEX_ABOVE_HU).mean() > MAX_CORTEX_SHARE) if shell.size else False


def _local_sd(smooth: np.ndarray) -> np.ndarray:
    """Standard deviation within 5 coarse voxels along each axis."""
    mean = ndimage.uniform_filter(smooth, 5, mode="nearest")
    squares = ndimage.uniform_filter(np.square(smooth), 5, mode="nearest")
    return np.sqrt(np.maximum(squares - np.square(mean), 0))


def _soft_tissue_hu(smooth: np.ndarray) -> float:
    soft = smooth[(smooth > -20) & (smooth < 160)]
    return float(np.median(soft)) if soft.size else float("nan")
