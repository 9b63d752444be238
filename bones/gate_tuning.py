"""The gate's thresholds chosen on pictures that the network never learnt from, and how well they do. Needs no torch.

What radiographs look like (chroma, roughness) is fixed by the defaults of ``GateSettings``. What the network
makes of them is learnt here: area, confidence and contrast of the mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bones.gate import Features, GateSettings, measure, refusal
from bones.preprocess import fit
from shared.config import apply_preset
from shared.io.radiograph import read_radiograph
from shared.metrics.bootstrap import Interval, wilson_interval
from shared.types import PictureArray

SHARES = (0.0, 0.005, 0.01, 0.02)
"""Of radiographs that one bound may turn away; the one that turns away most other pictures is taken."""
MARGIN = 1.25
"""How far a bound lies beyond the radiographs that it must let pass: there are few, and others will differ."""
FOLDS = 5

Network = Callable[[PictureArray], PictureArray]
"""From the square picture to the probability of bone there, both ``y x``."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How the gate does: the shares, with 95 % Wilson intervals."""

    sensitivity: Interval
    """Of radiographs of bone that pass."""
    specificity: Interval
    """Of other pictures that are turned away."""


def features_of(pictures: Iterable[Path], network: Network, size_px: int) -> list[Features]:
    """Measure pictures as prediction does.

    Raises:
        InputError: one cannot be read.
    """
    found = []
    for path in pictures:
        radiograph = read_radiograph(path)
        square = fit(radiograph.array, size_px)
        probability = network(square)
        found.append(measure(probability, probability >= GateSettings().mask_probability, square, radiograph.source))
    return found


def choose(bone: Sequence[Features], other: Sequence[Features]) -> GateSettings:
    """Choose settings that let ``bone`` pass and turn ``other`` away; of equally good ones the most lenient."""
    found = [_bounds(bone, share) for share in SHARES]
    return max(found, key=lambda settings: _share_passed(bone, settings) - _share_passed(other, settings))


def _bounds(bone: Sequence[Features], share: float) -> GateSettings:
    """Return bounds each of which turns away less than that share of radiographs."""

    def least(name: str) -> float:
        return float(np.quantile([getattr(one, name) for one in bone], share))

    largest = float(np.quantile([one.area_fraction for one in bone], 1 - share))
    change: dict[str, Any] = {
        "min_area_fraction": np.clip(least("area_fraction") / MARGIN, 0.002, 0.3),
        "max_area_fraction": np.clip(largest * MARGIN, 0.4, 0.95),
        "min_confidence": np.clip(1 - (1 - least("confidence")) * MARGIN, 0.5, 1),
        "min_contrast": np.clip(least("contrast") / MARGIN, 0.005, 0.5),
    }
    return apply_preset(GateSettings(), {name: round(float(value), 4) for name, value in change.items()})


def cross_validated(bone: Sequence[Features], other: Sequence[Features], seed: int = 0) -> list[bool]:
    """Say of each other picture whether settings chosen without its fold turn it away."""
    folds = np.random.default_rng(seed).permutation(len(other)) % FOLDS
    turned_away = np.zeros(len(other), bool)
    for fold in range(FOLDS):
        settings = choose(bone, [one for one, its in zip(other, folds, strict=True) if its != fold])
        for index in map(int, np.flatnonzero(folds == fold)):
            turned_away[index] = refusal(other[index], settings) is not None
    return turned_away.tolist()


def rates(passed: Sequence[bool], turned_away: Sequence[bool]) -> Rates:
    """Return sensitivity over radiographs that passed or not, specificity over others turned away or not."""
    return Rates(wilson_interval(sum(passed), len(passed)), wilson_interval(sum(turned_away), len(turned_away)))


def _share_passed(features: Sequence[Features], settings: GateSettings) -> float:
    return float(np.mean([refusal(one, settings) is None for one in features]))
