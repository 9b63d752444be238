"""How well detected boxes agree with the true ones: COCO average precision, FROC, sensitivity and specificity.

`match` pairs boxes once; every score is a function of what it returns, so that a bootstrap over patients is cheap.
Pictures without a true box count: their false alarms lower precision, and specificity is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float64, Int64

from shared.boxes import iou_matrix
from shared.metrics.bootstrap import Interval, bootstrap_interval, wilson_interval
from shared.types import Boxes, Detections

COCO_IOUS = tuple((50 + 5 * step) / 100 for step in range(10))
COCO_MAX_DETECTIONS = 100  # of each label on each picture
RECALLS = np.linspace(0, 1, 101)
FROC_RATES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


Overlap: TypeAlias = Float64[np.ndarray, "n m"]
"""IoU of every detection on a picture with every true one."""


class Compared(NamedTuple):
    """One picture: what was ``found``, and the true boxes with their labels."""

    found: Detections
    truth_px: Boxes
    truth_labels: Int64[np.ndarray, " m"]


class Matched(NamedTuple):
    """One picture after matching: every detection's score, label and IoU with its true box (0: it has none)."""

    scores: Float64[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    ious: Float64[np.ndarray, " n"]
    truth_labels: Int64[np.ndarray, " m"]


class Curve(NamedTuple):
    """Precision against recall, as the score that a detection must reach falls to each of ``scores``."""

    recall: Float64[np.ndarray, " n"]
    precision: Float64[np.ndarray, " n"]
    scores: Float64[np.ndarray, " n"]


class OperatingPoint(NamedTuple):
    """What a ``threshold`` on the score gives: the share of true boxes found, at so many false ones per picture."""

    false_positives_per_picture: float
    sensitivity: float
    threshold: float


class PictureRates(NamedTuple):
    """How many pictures with a true box were ``found``, and how many without were ``cleared``."""

    sensitivity: Interval
    specificity: Interval
    found: int
    positives: int
    cleared: int
    negatives: int


def match(pictures: Sequence[Compared], iou: float = 0.5, overlaps: Sequence[Overlap] | None = None) -> list[Matched]:
    """Pair detections with true boxes of their label as COCO does, for IoU of at least ``iou``.

    In falling order of score, each takes the true box it overlaps most among those not yet taken (pycocotools,
    ``evaluateImg``, without crowds and areas); of each label the best 100 on a picture count.

    Args:
        pictures: what was found on each, and what is there.
        iou: the least overlap of a pair.
        overlaps: for each picture the IoU of every detection with every true box, such as that of their masks; that of
            the boxes where None.
    """
    given = overlaps if overlaps is not None else box_overlaps(pictures)
    return [_match_picture(picture, iou, overlap) for picture, overlap in zip(pictures, given, strict=True)]


def box_overlaps(pictures: Sequence[Compared]) -> list[Overlap]:
    """Return for each picture the IoU of every detection's box with every true box."""
    return [iou_matrix(picture.found.boxes_px, picture.truth_px) for picture in pictures]


def average_precision(matched: Sequence[Matched]) -> float:
    """Return COCO's average precision at the IoU of the matching: the mean over the labels that have true boxes.

    Precision is interpolated at 101 recalls (pycocotools, ``accumulate``). NaN if there is no true box at all.
    """
    labels = np.unique(np.concatenate([picture.truth_labels for picture in matched] or [np.zeros(0, np.int64)]))
    return float(np.mean([_average_precision(matched, int(label)) for label in labels])) if len(labels) else np.nan


def coco_scores(pictures: Sequence[Compared], overlaps: Sequence[Overlap] | None = None) -> dict[str, float]:
    """Return ap50, ap75 and ap50_95 (the mean over IoU 0.50, 0.55, ... 0.95) as COCO defines them.

    ``overlaps`` as in `match`: with those of masks these are the scores that COCO calls segm.
    """
    given = overlaps if overlaps is not None else box_overlaps(pictures)
    each = {iou: average_precision(match(pictures, iou, given)) for iou in COCO_IOUS}
    return {"ap50": each[0.5], "ap75": each[0.75], "ap50_95": float(np.mean(list(each.values())))}


def precision_recall(matched: Sequence[Matched], label: int | None = None) -> Curve:
    """Return precision and recall at every detection, best score first; of one label, or of all together."""
    scores, hits, truths = _ranked(matched, label)
    true, count = np.cumsum(hits), np.arange(1, len(hits) + 1)
    recall = true / truths if truths else np.full(len(hits), np.nan)
    return Curve(recall, true / count, scores)


def froc(matched: Sequence[Matched], rates: Sequence[float] = FROC_RATES) -> list[OperatingPoint]:
    """Return the best sensitivity to true boxes at no more than each rate of false positives per picture.

    Free-response ROC (Bunch et al., J Appl Photogr Eng 1978); each point is a threshold that can be set, nothing is
    interpolated. Where even the best score is a false positive too many the sensitivity is 0 and the threshold
    infinite. Sensitivity is NaN without true boxes.
    """
    scores, hits, truths = _ranked(matched, None)
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # of detections with one score all count or none
    false, true = np.cumsum(~hits)[last] / max(len(matched), 1), np.cumsum(hits)[last]
    points = []
    for rate in rates:
        within = np.flatnonzero(false <= rate)
        if not len(within):
            points.append(OperatingPoint(0.0, 0.0 if truths else np.nan, np.inf))
            continue
        at = within[np.argmax(true[within])]  # the first of equals has the fewest false positives
        sensitivity = true[at] / truths if truths else np.nan
        points.append(OperatingPoint(float(false[at]), float(sensitivity), float(scores[last[at]])))
    return points


def picture_rates(matched: Sequence[Matched], threshold: float, *, level: float = 0.95) -> PictureRates:
    """Return sensitivity and specificity per picture with Wilson intervals.

    A picture is called positive if any detection scores ``threshold`` or more, wherever its box lies; it is positive
    if it has a true box. Over no picture at all a rate is NaN and its interval 0 to 1. The intervals take pictures to
    be independent: give one of each patient, or use `score_interval` with patients as groups.
    """
    called = np.array([bool((picture.scores >= threshold).any()) for picture in matched], bool)
    positive = np.array([len(picture.truth_labels) > 0 for picture in matched], bool)
    found, positives = int((called & positive).sum()), int(positive.sum())
    cleared, negatives = int((~called & ~positive).sum()), int((~positive).sum())
    return PictureRates(
        wilson_interval(found, positives, level=level),
        wilson_interval(cleared, negatives, level=level),
        *(found, positives, cleared, negatives),
    )


def matched_ious(matched: Sequence[Matched], threshold: float = 0.0) -> Float64[np.ndarray, " n"]:
    """Return the IoU of every matched detection that scores ``threshold`` or more; their mean is the mean IoU."""
    each = [picture.ious[(picture.ious > 0) & (picture.scores >= threshold)] for picture in matched]
    return np.concatenate(each) if each else np.zeros(0)


def score_interval(
    matched: Sequence[Matched],
    statistic: Callable[[Sequence[Matched]], float] = average_precision,
    groups: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    n: int = 999,
    seed: int = 0,
) -> Interval:
    """Return a score and its bootstrap interval; pictures of one group (a patient) are drawn together.

    The interval is NaN where a draw may leave no true box to score.

    Raises:
        ValueError: fewer than two groups, or not one group for each picture.
    """
    names = list(range(len(matched))) if groups is None else list(groups)
    members: dict[Hashable, list[Matched]] = {}
    for name, picture in zip(names, matched, strict=True):
        members.setdefault(name, []).append(picture)
    units = list(members.values())

    def of_units(drawn: Float64[np.ndarray, " n"]) -> float:
        return statistic([picture for unit in drawn for picture in units[int(unit)]])

    return bootstrap_interval(range(len(units)), of_units, level=level, n=n, seed=seed)


def _match_picture(picture: Compared, iou: float, overlap: Overlap) -> Matched:
    found, order = picture.found, np.argsort(-picture.found.scores, kind="stable")
    kept, ious = [], []
    for label in np.unique(found.labels):
        mine = order[found.labels[order] == label][:COCO_MAX_DETECTIONS]
        kept.append(mine)
        ious.append(_greedy(overlap[mine][:, picture.truth_labels == label], iou))
    chosen = np.concatenate(kept) if kept else order
    scores = found.scores[chosen].astype(np.float64)
    return Matched(scores, found.labels[chosen], np.concatenate(ious or [np.zeros(0)]), picture.truth_labels)


def _greedy(overlap: Float64[np.ndarray, "n m"], iou: float) -> Float64[np.ndarray, " n"]:
    """Give each row, in turn, the largest overlap among the columns still free; 0 if that is below ``iou``."""
    free = overlap.copy()
    taken = np.zeros(len(free))
    for row in range(len(free) if free.shape[1] else 0):
        best = free.shape[1] - 1 - int(np.argmax(free[row][::-1]))  # of equals the last, as pycocotools
        if free[row, best] >= iou:
            taken[row] = free[row, best]
            free[:, best] = -1
    return taken


def _ranked(
    matched: Sequence[Matched], label: int | None
) -> tuple[Float64[np.ndarray, " n"], Bool[np.ndarray, " n"], int]:
    """Give scores in falling order, which are hits, and how many true boxes there are; ties in the pictures' order."""
    wanted = [np.full(len(p.labels), True) if label is None else p.labels == label for p in matched]
    scores = np.concatenate([p.scores[keep] for p, keep in zip(matched, wanted, strict=True)] or [np.zeros(0)])
    hits = np.concatenate([p.ious[keep] > 0 for p, keep in zip(matched, wanted, strict=True)] or [np.zeros(0, bool)])
    truths = sum(int((p.truth_labels == label).sum()) if label is not None else len(p.truth_labels) for p in matched)
    order = np.argsort(-scores, kind="stable")
    return scores[order], hits[order], truths


def _average_precision(matched: Sequence[Matched], label: int) -> float:
    recall, precision, _ = precision_recall(matched, label)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(envelope, 0.0)[at].mean())
