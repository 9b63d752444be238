"""Score a model on labelled scans, on the scans' own grid."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coronary.cases import Case, find_cases
from coronary.predict import Predictor
from shared.draw import preview
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.io.volume import read_volume
from shared.io.writers import write_csv, write_json
from shared.metrics.bootstrap import bootstrap_interval
from shared.metrics.overlap import overlap_scores
from shared.types import Segmentation

COLOURS = {"hit": (120, 200, 120), "missed": (255, 96, 80), "extra": (255, 200, 60)}
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
            interval = bootstrap_interval(finite) if len(finite) > 1 else None
            order = np.argsort(values)
            result[metric] = {
                "mean": float(finite.mean()) if len(finite) else None,
                "sd": float(finite.std(ddof=1)) if len(finite) > 1 else None,
                "interval_95": None if interval is None else [interval.low, interval.high],
                "lowest": {"case": self.rows[order[0]]["case"], "value": _json(values[order[0]])},
                "highest": {"case": self.rows[order[-1]]["case"], "value": _json(values[order[-1]])},
                "infinite": int(len(values) - len(finite)),
            }
        return result


def _json(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def compare(prediction: np.ndarray, truth: np.ndarray, spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """Every metric of two boolean masks ``x y z`` on one grid."""
    scores = overlap_scores(prediction, truth, spacing_mm, tolerance_mm=1.0)
    scores["surface_dice_1mm"] = scores.pop("surface_dice")
    return {metric: scores[metric] for metric in METRICS}


def evaluate(
    model: Path | Predictor,
    cases: Sequence[tuple[Path, Path]],
    *,
    device: str = "auto",
    on_case: Callable[[int, dict[str, Any]], None] | None = None,
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
            on_case(len(rows), row)
    return Scores(tuple(rows))


def evaluate_folder(
    model: Path, data: Path, split: str, out: Path, device: str, on_case: Callable[[int, str], None]
) -> Scores:
    """Evaluate the cases of ``split`` in ``data``; write scores.json, cases.csv and pictures of the worst three.

    Raises:
        SetupError: no such split, or no cases.
    """
    cases = _split(find_cases(data), data, split)
    predictor = Predictor(model, device)
    scores = evaluate(
        predictor, [(case.image, case.label) for case in cases], on_case=lambda n, row: on_case(n, str(row["case"]))
    )
    out.mkdir(parents=True, exist_ok=True)
    write_csv(scores.rows, out / "cases.csv")
    content = {"model_sha256": predictor.session.sha256, "engine": predictor.engine, "precision": predictor.precision}
    write_json(content | {"split": split, "cases": len(cases), "scores": scores.summary()}, out / "scores.json")
    by_name = {case.name: case for case in cases}
    for row in sorted(scores.rows, key=lambda row: float(row["dice"]))[:3]:
        _picture(by_name[row["case"]], predictor, out / f"worst-{row['case']}.png", row)
    return scores


def _split(cases: list[Case], data: Path, split: str) -> list[Case]:
    if split == "all":
        return cases
    try:
        names = {str(name) for name in json.loads((data / "splits.json").read_text())[split]}
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(f"{data / 'splits.json'}: no split {split!r} there ({error}); give --split all") from error
    return [case for case in cases if case.name in names]


def _picture(case: Case, predictor: Predictor, path: Path, row: dict[str, Any]) -> None:
    """Draw hits, misses and extras of one case."""
    truth = read_volume(case.label)
    scan = read_volume(case.image)
    found, wanted = predictor(scan).labels > 0, truth.array > 0
    labels = np.where(found & wanted, 1, np.where(wanted, 2, np.where(found, 3, 0))).astype(np.uint8)
    shown = Segmentation(labels, scan.affine, {0: "background", 1: "hit", 2: "missed", 3: "extra"}, scan.source)
    title = f"{case.name}: Dice {row['dice']:.3f}, clDice {row['cl_dice']:.3f}"
    with whole(path) as aside:
        preview(scan, shown, title=title, colours=COLOURS).save(aside)
