"""Fitted numbers of the order models, and where they come from.

CT: fitted on VID (Buergin, Prevost, Stollenga 2023; CC BY-SA 4.0), 1,947 CT spines, by ``recipes/spine_order.py``.
FILM: the same spacings, relative to one another; priors that hold for a film of any part of the spine.
"""

from __future__ import annotations

from spine.order_model import OrderModel

_SPACING_MM = (
    17.5, 24.7, 17.8, 17.2, 17.0, 18.0, 20.0,
    21.0, 21.2, 21.1, 21.7, 22.1, 22.6, 23.3, 24.0, 25.4, 27.3, 29.7, 32.4,
    34.5, 35.8, 36.5, 36.3, 33.0,
)  # fmt: skip
_SPACING_SD = (0.14, 0.1, 0.09, 0.09, 0.1, 0.12, 0.1, 0.1, 0.1, *(0.065,) * 14, 0.15)
_CT_FIRST = (
    0.03, 0.001, 0.002, 0.001, 0.004, 0.004, 0.015,
    0.024, 0.014, 0.002, 0.001, 0.003, 0.018, 0.04, 0.14, 0.25, 0.25, 0.14, 0.05,
    0.017, 0.002, 0.001, 0.0005, 0.0002, 0.0001,
)  # fmt: skip
_CT_LAST = (
    0.001, 0.001, 0.001, 0.001, 0.001, 0.001, 0.005,
    0.05, 0.08, 0.05, 0.07, 0.03, 0.01, 0.005, 0.002, 0.002, 0.001, 0.001, 0.002,
    0.003, 0.02, 0.024, 0.04, 0.9, 1.0,
)  # fmt: skip

CT = OrderModel(
    spacing_mm=_SPACING_MM, spacing_sd=_SPACING_SD, scale_sd=0.07, known_scale=True,
    missed=(0.01,) * 24 + (0.5,), clutter=0.0005, first=_CT_FIRST, last=_CT_LAST, odd=(0.004, 0.002, 0.025),
)  # fmt: skip

FILM = OrderModel(
    spacing_mm=_SPACING_MM, spacing_sd=tuple(max(0.1, sd) for sd in _SPACING_SD), scale_sd=0.15, known_scale=False,
    missed=(0.03,) * 24 + (0.5,), clutter=0.001, first=(0.04,) * 24 + (0.001,), last=(0.05,) * 23 + (0.6, 1.0),
    odd=(0.004, 0.004, 0.01),
)  # fmt: skip
