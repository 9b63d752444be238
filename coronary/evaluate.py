"""Score a model on labelled scans, on the scans' own grid."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coronary.predict import Predictor
from shared.io.volume import read_volume
from shared.metrics.bootstrap import bootstrap_interval
from shared.metrics.overlap import betti0_error, cl_dice, dice, hd95_mm, surface_dice

METRICS = ("dice", "cl_dice", "hd95_mm", "surface_dice_1mm", "betti0_error")


@dataclass(frozen=True, slots=True)
class Scores:
    """One row a case, with ``case`` and every name of ``METRICS``; an infinite HD95 is one empty mask of two."""

    rows: tuple[dict[str, Any], ...]

    def mean(self, metric: str) -> float:
        """Mean of a metric over the cases."""
        return float(np.mean([row[metric] for row in self.rows]))

    def summary(self) -> dict[str, dict[str, Any]]:
        """Mean, standard deviation, 95 % bootstrap interval, best and worst case of every metric."""
        result: dict[str, dict[str, Any]] = {}
        for metric in METRICS:
            values = np.array([row[metric] for row in self.rows], float)
            finite = values[np.isfinite(values)]
            low, high = bootstrap_interval(finite) if len(finite) > 1 else (float("nan"), float("nan"))
            order = np.argsort(values)
            result[metric] = {
                "mean": float(finite.mean()) if len(finite) else None,
                "sd": float(finite.std(ddof=1)) if len(finite) > 1 else None,
                "interval_95": None if np.isnan(low) else [low, high],
                "lowest": {"case": self.rows[order[0]]["case"], "value": _json(values[order[0]])},
                "highest": {"case": self.rows[order[-1]]["case"], "value": _json(values[order[-1]])},
                "infinite": int(len(values) - len(finite)),
            }
        return result


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def compare(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Every metric of two boolean masks ``x y z`` on one grid."""
    return {
        "dice": dice(prediction, truth),
        "cl_dice": cl_dice(prediction, truth),
        "hd95_mm": hd95_mm(prediction, truth, spacing_mm),
        "surface_dice_1mm": surface_dice(prediction, truth, spacing_mm, tolerance_mm=1.0),
        "betti0_error": betti0_error(prediction, truth),
    }


def evaluate(
    model: Path | Predictor,
    cases: Sequence[tuple[Path, Path]],
    *,
    device: str = "auto",
    on_case: Callable[[dict[str, Any]], None] | None = None,
) -> Scores:
    """Predict every ``(scan, label)`` and compare them on the scan's grid, lumen against background."""
    predictor = model if isinstance(model, Predictor) else Predictor(model, device)
    rows = []
    for scan, label in cases:
        truth = read_volume(label)
        segmentation = predictor(scan)
        row = {"case": scan.name.partition(".")[0]}
        row |= compare(segmentation.labels > 0, truth.array > 0, truth.spacing_mm)
        rows.append(row)
        if on_case is not None:
            on_case(row)
    return Scores(tuple(rows))
