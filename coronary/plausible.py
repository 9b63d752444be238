"""Pieces that cannot be a coronary artery, by what and where they are: lung vessels, bone, calcium, other organs'."""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage

from shared.postprocess import label_components
from shared.types import MaskArray, VolumeArray

# Epicardial arteries run in fat (about -100 HU) and on muscle; lung lies near -850 HU.
LUNG_HU = -180.0
MAX_LUNG_SHARE = 0.3
# The shell that is looked at: beyond the vessel's own blur, within the epicardial fat.
SHELL_MM = (1.0, 3.0)
# A lumen is no brighter than the blood pool that fills it, and its edge is darker; bone and calcium are brighter.
MAX_SHARE_OF_BLOOD = 0.97
MAX_PIECES = 200


def implausible(
    mask: MaskArray, hu: VolumeArray, spacing_mm: tuple[float, float, float], blood_hu: float | None
) -> MaskArray:
    """Find the connected pieces of ``mask`` that lie in lung, or are brighter than the blood.

    A piece goes if more than 30 % of the shell 1 to 3 mm around it is lung or air, or if its median is not below 97 %
    of the blood pool's level. Pieces beyond the 200 largest go as well: arteries are few.

    Args:
        mask: ``x y z``.
        hu: the scan on the same grid; clipping below -200 HU does no harm.
        spacing_mm: of that grid.
        blood_hu: level of the blood pool; None leaves brightness out.
    """
    labels, _ = label_components(mask)
    margin = [int(np.ceil(SHELL_MM[1] / spacing)) + 1 for spacing in spacing_mm]
    out: MaskArray = labels > MAX_PIECES
    for number, found in enumerate(ndimage.find_objects(labels, max_label=MAX_PIECES), start=1):
        if found is None:
            break
        box = tuple(slice(max(s.start - m, 0), s.stop + m) for s, m in zip(found, margin, strict=True))
        piece, values = labels[box] == number, hu[box]
        away = edt.edt(~piece, anisotropy=spacing_mm, black_border=False)
        shell = values[(away > SHELL_MM[0]) & (away < SHELL_MM[1])]
        in_lung = shell.size > 0 and float((shell < LUNG_HU).mean()) > MAX_LUNG_SHARE
        limit = np.inf if blood_hu is None else MAX_SHARE_OF_BLOOD * blood_hu
        if in_lung or float(np.median(values[piece])) > limit:
            out[box] |= piece
    return out


def apart(mask: MaskArray, place: MaskArray) -> MaskArray:
    """Find the connected pieces of ``mask`` that have no voxel in ``place``; both ``x y z`` on one grid."""
    labels, sizes = label_components(mask)
    touching = np.zeros(len(sizes) + 1, bool)
    touching[labels[mask & place]] = True
    out: MaskArray = mask & ~touching[labels]
    return out
