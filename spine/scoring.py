"""How well a film's vertebrae are found and named: matching, naming rates, order, confusion. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from shared.boxes import iou_matrix
from shared.metrics.detection import Matched, precision_recall
from shared.types import Boxes
from spine.config import LEVELS

MATCH_IOU = 0.5
ALIKE, FEWEST = 0.8, 4
"""Where this share of a film's names, and so many, are off by one number of levels, the film is."""
NOWHERE = len(LEVELS)
"""The confusion matrix's last row and column: no such vertebra, or not found."""


@dataclass(frozen=True, slots=True)
class Named:
    """Boxes with names on one film: pixels of the film, and places in LEVELS."""

    boxes_px: Boxes
    labels: Int64[np.ndarray, " n"]


class Naming(NamedTuple):
    """One film's names beside the truth.

    ``vertebrae`` true ones, of which ``found`` have a box over them, ``right`` with the right name, ``off_by_one`` with
    a neighbour's. ``swaps`` are neighbours down the film whose names do not follow; ``duplicates`` names given before.
    """

    vertebrae: int
    found: int
    right: int
    off_by_one: int
    extra: int
    swaps: int
    duplicates: int

    @property
    def every_name_right(self) -> bool:
        """Every true vertebra is found and bears its name."""
        return 0 < self.right == self.vertebrae

    @property
    def no_name_wrong(self) -> bool:
        """Some are found, and none of these bears another's name."""
        return 0 < self.right == self.found


def pair(found: Boxes, truth: Boxes) -> Int64[np.ndarray, " m"]:
    """Return for each true box the one that was found over it, or -1: the best overlaps of 0.5 or more first.

    Names play no part, so that a wrong one is told from a vertebra that was missed.
    """
    overlap = iou_matrix(truth, found)
    pairs = np.full(len(truth), -1, np.int64)
    for index in np.argsort(-overlap, axis=None, kind="stable"):
        row, column = np.unravel_index(index, overlap.shape)
        if overlap[row, column] < MATCH_IOU:
            break
        if pairs[row] < 0 and column not in pairs:
            pairs[row] = column
    return pairs


def compare_names(found: Named, truth: Named) -> Naming:
    """Compare a film's names with the true ones."""
    pairs = pair(found.boxes_px, truth.boxes_px)
    there = pairs >= 0
    away = np.abs(found.labels[pairs[there]] - truth.labels[there])
    names = down_the_film(found)
    return Naming(
        vertebrae=len(truth.labels),
        found=int(there.sum()),
        right=int((away == 0).sum()),
        off_by_one=int((away == 1).sum()),
        extra=len(found.labels) - int(there.sum()),
        swaps=int((np.diff(names) <= 0).sum()),
        duplicates=len(names) - len(np.unique(names)),
    )


def shift_of(found: Named, truth: Named) -> int:
    """Return by how many levels a film's names lie below the true ones, all together; 0 where they do not agree.

    That is asked of films of which at least `FEWEST` vertebrae and half of them all are found. Whether the
    names are wrong or the labels is not known by that: the film must be looked at.
    """
    pairs = pair(found.boxes_px, truth.boxes_px)
    there = pairs >= 0
    if there.sum() < max(FEWEST, len(there) / 2):
        return 0
    away, counts = np.unique(found.labels[pairs[there]] - truth.labels[there], return_counts=True)
    most = int(counts.argmax())
    return int(away[most]) if counts[most] >= ALIKE * there.sum() else 0


def told(
    films: Iterable[tuple[Named, Named, Float[np.ndarray, " n"]]],
) -> tuple[Float64[np.ndarray, " m"], Bool[np.ndarray, " m"]]:
    """Return how sure each name is that a true vertebra was given, and whether it is right.

    Names of what is no labelled vertebra are left out: it may be one that bears no label, as C7 often does.

    Args:
        films: what was found on each, the truth, and the confidences of what was found.
    """
    sure, right = [np.zeros(0)], [np.zeros(0, bool)]
    for found, truth, confidences in films:
        pairs = pair(found.boxes_px, truth.boxes_px)
        there = pairs >= 0
        sure.append(confidences[pairs[there]])
        right.append(found.labels[pairs[there]] == truth.labels[there])
    return np.concatenate(sure), np.concatenate(right)


def calibration_error(confidences: Float64[np.ndarray, " m"], right: Bool[np.ndarray, " m"], bins: int = 10) -> float:
    """Return how far confidences are from the share that is right: mean over ``bins`` of equal width, by their number.

    Expected calibration error (Guo et al. 2017, ICML, equation 3). 0 where there are no names.
    """
    place = np.minimum((confidences * bins).astype(np.int64), bins - 1)
    apart = np.bincount(place, weights=confidences - right, minlength=bins)
    return float(np.abs(apart).sum() / max(1, len(right)))


def down_the_film(found: Named) -> Int64[np.ndarray, " n"]:
    """Return the names in the order of their boxes' centres, from the top of the film down."""
    order = np.argsort(found.boxes_px[:, 1] + found.boxes_px[:, 3], kind="stable")
    names: Int64[np.ndarray, " n"] = found.labels[order]
    return names


def confusion(films: Sequence[tuple[Named, Named]]) -> Int64[np.ndarray, "truth found"]:
    """Count, over films of ``(found, truth)``, which level was called what; the last row and column are `NOWHERE`."""
    counts = np.zeros((NOWHERE + 1, NOWHERE + 1), np.int64)
    for found, truth in films:
        pairs = pair(found.boxes_px, truth.boxes_px)
        called = np.where(pairs >= 0, found.labels[pairs] if len(found.labels) else NOWHERE, NOWHERE)
        np.add.at(counts, (truth.labels, called), 1)
        extra = np.setdiff1d(np.arange(len(found.labels)), pairs)
        np.add.at(counts, (NOWHERE, found.labels[extra]), 1)
    return counts


class Curves(NamedTuple):
    """Scores against the confidence that a detection must reach; the mean over the levels there are, and of each."""

    confidence: Float64[np.ndarray, " n"]
    precision: Float64[np.ndarray, "level n"]
    recall: Float64[np.ndarray, "level n"]
    f1: Float64[np.ndarray, "level n"]
    levels: tuple[int, ...]

    @property
    def best(self) -> tuple[float, float]:
        """The highest mean F1, and the confidence where it is reached."""
        mean = self.f1.mean(axis=0)
        at = int(mean.argmax())
        return float(mean[at]), float(self.confidence[at])


def confidence_curves(matched: Sequence[Matched], points: int = 1000) -> Curves:
    """Return precision, recall and F1 of each level that occurs, at confidences from 0 to 1.

    Where nothing reaches a confidence precision is 1, as ultralytics has it.
    """
    levels = tuple(np.unique(np.concatenate([picture.truth_labels for picture in matched])).tolist())
    confidence = np.linspace(0, 1, points)
    precision, recall = np.ones((len(levels), points)), np.zeros((len(levels), points))
    for row, level in enumerate(levels):
        curve = precision_recall(matched, level)
        reached = np.searchsorted(-curve.scores, -confidence, side="right")  # how many score so much or more
        some = reached > 0
        precision[row, some] = curve.precision[reached[some] - 1]
        recall[row, some] = curve.recall[reached[some] - 1]
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    return Curves(confidence, precision, recall, f1, levels)


def scores_at(matched: Sequence[Matched], confidence: float) -> dict[str, float]:
    """Return precision, recall and F1 of all levels together where a detection must reach ``confidence``."""
    curve = precision_recall(matched)
    reached = int((curve.scores >= confidence).sum())
    precision = float(curve.precision[reached - 1]) if reached else 1.0
    recall = float(curve.recall[reached - 1]) if reached else 0.0
    total = precision + recall
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / total if total else 0.0}
