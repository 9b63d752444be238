"""Grey values as a picture shows them: look-up tables, windows, and the spread to 0..1.

A window or table only shapes the values; the last step spreads whatever came out to 0..1. So the picture does not
depend on how many bits a file had, on what scale, or whether its window was wider than its values.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Shaped

from shared.types import PictureArray

Grey = Shaped[np.ndarray, "y x"]
WindowShape = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

# Of the pixels this share is clipped at each end: a dead pixel or a lead marker must not darken the bone.
CLIPPED_PERCENT = 0.1


def apply_table(values: Grey, first: float, table: Shaped[np.ndarray, " n"]) -> Grey:
    """Map values through a look-up table whose first entry stands for the value ``first``.

    Values below the first entry take that entry, values above the last one the last (DICOM PS3.3, C.11.1.1.1 and
    C.11.2.1.1). Written anew because pydicom 3.0.2's wraps around where a table of 8 bits has more than 256 entries,
    and where a signed value less ``first`` passes 16 bits.
    """
    index = np.clip(np.rint(values.astype(np.float64) - first), 0, len(table) - 1)
    found: Grey = table[index.astype(np.intp)]
    return found


def apply_window(values: Grey, center: float, width: float, shape: WindowShape = "LINEAR") -> PictureArray:
    """Map values to 0..1 through a window (DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Raises:
        ValueError: a width that the shape does not allow, or an unknown shape.
    """
    if not (np.isfinite([center, width]).all() and (width >= 1 if shape == "LINEAR" else width > 0)):
        raise ValueError(f"a {shape} window cannot be {width:g} wide at {center:g}")
    values = values.astype(np.float64)
    if shape == "SIGMOID":
        shown = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    elif shape == "LINEAR_EXACT":
        shown = np.clip((values - center) / width + 0.5, 0, 1)
    elif shape == "LINEAR":
        threshold = center - 0.5
        ramp = (values - threshold) / (width - 1) + 0.5 if width > 1 else values > threshold
        shown = np.clip(ramp, 0, 1)
    else:
        raise ValueError(f"{shape} is no window that DICOM knows")
    windowed: PictureArray = shown.astype(np.float32)
    return windowed


def percentiles(values: np.ndarray, percents: Sequence[float]) -> list[float]:
    """Return what ``np.percentile`` does; of 8 and 16 bits without a sign in a fraction of the time, by counting."""
    if values.dtype not in (np.uint8, np.uint16) or not values.size:
        return [float(one) for one in np.percentile(values, percents)]
    up_to = np.cumsum(np.bincount(values.ravel()))
    found = []
    for percent in percents:
        place = percent / 100 * (values.size - 1)
        below, above = np.searchsorted(up_to, [np.floor(place), np.ceil(place)], side="right")
        found.append(float(below + (above - below) * (place - np.floor(place))))
    return found


def spread(values: Grey, background: Bool[np.ndarray, "y x"] | None = None, *, inverted: bool = False) -> PictureArray:
    """Spread values linearly to 0..1, or from 1 to 0, ``CLIPPED_PERCENT`` of the pixels clipped at each end.

    The ``background`` (padding around the exposed field) does not count and becomes 0. A picture of a single value
    becomes 0 throughout.
    """
    counted = values if background is None else values[~background]
    low, high = percentiles(counted, (CLIPPED_PERCENT, 100 - CLIPPED_PERCENT))
    if high <= low:  # nearly all of one value: what differs is the picture
        low, high = float(counted.min()), float(counted.max())
    if high <= low:
        return np.zeros(values.shape, np.float32)
    work = np.float32 if values.dtype.itemsize <= 2 else np.float64
    picture: PictureArray = ((values - work(low)) * work(1 / (high - low))).astype(np.float32, copy=False)
    np.clip(picture, 0, 1, out=picture)
    if inverted:
        np.subtract(1, picture, out=picture)
    if background is not None:
        picture[background] = 0
    return picture
