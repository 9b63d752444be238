"""The two models of order: films of any part of the spine, and CT; where their numbers come from.

``ct()`` is read from ``order_ct.json``, fitted by ``recipes/spine_order.py`` on VID (Buergin, Prevost, Stollenga 2023,
CC BY-SA 4.0; 1,947 CT spines). FILM takes its spacings, which count relative to one another only, and allows for any
size and any part of the spine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from spine.order_model import STATES, ClassScores, OrderModel, RegionScores

SPACING_MM = (
    17.4, 24.7, 17.8, 17.2, 17.0, 18.0, 20.0,
    20.9, 21.1, 21.1, 21.7, 22.1, 22.6, 23.4, 24.0, 25.4, 27.3, 29.6, 32.3,
    34.5, 35.8, 36.5, 36.3, 34.5,
)  # fmt: skip
"""Mean distances of neighbouring levels' centres in VID, C1-C2 to L5-S1."""


def _film(bottom: float) -> list[float]:
    """Any level may be the last, L5 most often."""
    rest = (1 - bottom) / (len(STATES) - 1)
    return [bottom if name == "L5" else rest for name in STATES]


FILM = OrderModel(
    scores=ClassScores(),
    spacing_mm=SPACING_MM,
    spacing_sd=(0.12,) * 24,
    scale_sd=0.12,
    scales=3,
    known_scale=False,
    missed=(0.03,) * 25,
    clutter=0.001,
    views=(1.0,),
    first=([1 / len(STATES)] * len(STATES),),
    last=(_film(0.3),),
    odd=(1e-4, 1e-4, 0.005),  # rarer than spines: at 0.002 a T13 explained stretches of names off by one
    inside=0.7,
)


@cache
def film_model(neighbour: float, weight: float = ClassScores.weight) -> OrderModel:
    """FILM for a detector that gives thoracic and lumbar levels a neighbour's name in this share of cases.

    ``weight`` is below 1 where it does so to many on a film together.
    """
    pair = max(ClassScores.neighbour[0], neighbour), neighbour
    return replace(FILM, scores=ClassScores(neighbour=pair, weight=weight))


@cache
def ct() -> OrderModel:
    """The model of CT spines: points in mm, scores for C, T and L."""
    return ct_model(json.loads(Path(__file__).with_name("order_ct.json").read_text(encoding="utf-8")))


def ct_model(fitted: dict[str, Any]) -> OrderModel:
    """An OrderModel of what the recipe fitted."""
    scores = RegionScores(
        tuple(tuple(edges) for edges in fitted["edges"]), tuple(np.array(table) for table in fitted["tables"])
    )
    fields = {key: value for key, value in fitted.items() if key not in ("edges", "tables", "source")}
    return OrderModel(scores=scores, **fields)
