"""The scores of a detector: COCO average precision, FROC, sensitivity and specificity; and the reference's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from bones.cases import Case
from bones.formats.rle import filled
from bones.gate import GateDecision
from bones.masks import instances
from shared.boxes import iou_matrix
from shared.metrics.bootstrap import Interval
from shared.metrics.detection import (
    Compared,
    Matched,
    Overlap,
    average_precision,
    coco_scores,
    froc,
    match,
    picture_rates,
    score_interval,
)
from shared.types import Detections

PICTURES = 3  # of the worst cases
TOUCH = 1e-6  # IoU of masks that overlap at all


class MaskPairs(NamedTuple):
    """One picture's outlines: what was found and is there, and the IoU of every pair."""

    compared: Compared
    overlap: Overlap


@dataclass(frozen=True, slots=True)
class Scored:
    """One picture: what was found beside the truth; ``masks`` where both have outlines."""

    case: Case
    group: str
    compared: Compared
    gate: GateDecision | None = None
    seconds: float | None = None
    masks: MaskPairs | None = None

    @property
    def behind_gate(self) -> Compared:
        """What is left of it behind the gate."""
        if self.gate is None or self.gate.passed:
            return self.compared
        found = self.compared.found
        return self.compared._replace(found=found.take(np.zeros(len(found), bool)))


@dataclass(frozen=True, slots=True)
class Scores:
    """Every picture that could be scored, and a line for each that could not."""

    pictures: tuple[Scored, ...]
    points: Mapping[str, float]
    """Score that a box must reach at each operating point."""
    failures: tuple[str, ...] = ()

    def matched(self, iou: float = 0.5) -> list[Matched]:
        """Pair the detector's boxes with the true ones."""
        return match([scored.compared for scored in self.pictures], iou)

    @property
    def middle(self) -> float:
        """The score asked for at the operating point that people get unless they say otherwise."""
        return self.points.get("balanced", next(iter(self.points.values())))

    def rows(self) -> list[dict[str, Any]]:
        """Return a line for each picture; boxes are counted at the operating point ``balanced``."""
        return [
            _row(scored, matched, self.middle) for scored, matched in zip(self.pictures, self.matched(), strict=True)
        ]

    def summary(self) -> dict[str, Any]:
        """Return everything as plain numbers; see docs/reference/outputs.md."""
        matched = self.matched()
        with_box = sum(len(picture.truth_labels) > 0 for picture in matched)
        found: dict[str, Any] = {
            "pictures": len(matched),
            "with_boxes": with_box,
            "without_boxes": len(matched) - with_box,
            "true_boxes": sum(len(picture.truth_labels) for picture in matched),
            **self._average_precision(),
            "froc": [point._asdict() for point in froc(matched)],
            "operating_points": {name: _at(matched, score) for name, score in self.points.items()},
            "reference": reference_figures([scored.compared for scored in self.pictures]),
        }
        names = self.pictures[0].compared.found.names
        if len(names) > 1:
            found["labels"] = {name: self._of_label(label) for label, name in names.items()}
        if any(scored.masks for scored in self.pictures):
            found["masks"] = self._of_masks(names)
        if any(scored.gate for scored in self.pictures):
            found["behind_gate"] = self._behind_gate()
        seconds = [scored.seconds for scored in self.pictures if scored.seconds is not None]
        if seconds:
            found["milliseconds_per_picture"] = {"median": 1e3 * float(np.median(seconds))}
        return found

    def means(self) -> dict[str, float]:
        """Return the few numbers that stand for the others, as a model's card shows them."""
        summary = self.summary()
        found = {name: summary[name] for name in ("ap50", "ap50_95")}
        for name, point in summary["operating_points"].items():
            found |= {f"{rate}_{name}": point[rate]["value"] for rate in ("sensitivity", "specificity")}
        if "masks" in summary:
            found["mask_ap50"] = summary["masks"]["ap50"]
        return {name: value for name, value in found.items() if np.isfinite(value)}

    def worst(self) -> list[Scored]:
        """Return the pictures with most errors at ``balanced``; of equally many that with the surest false box."""
        rows = self.rows()

        def badness(k: int) -> tuple[int, float]:
            missed = rows[k]["true_boxes"] - rows[k]["true_boxes_found"]
            return missed + rows[k]["false_boxes"], rows[k]["best_false_score"] or 0.0

        order = sorted(range(len(rows)), key=badness, reverse=True)
        return [self.pictures[k] for k in order[:PICTURES]]

    def _average_precision(self) -> dict[str, Any]:
        groups = [scored.group for scored in self.pictures]
        interval = score_interval(self.matched(), groups=groups) if len(set(groups)) > 1 else None
        return {
            **coco_scores([scored.compared for scored in self.pictures]),
            "ap50_interval_95": None if interval is None else [interval.low, interval.high],
        }

    def _of_label(self, label: int) -> dict[str, float]:
        only = [_only(scored.compared, label) for scored in self.pictures]
        return {"true_boxes": sum(len(one.truth_labels) for one in only), **coco_scores(only)}

    def _of_masks(self, names: Mapping[int, str]) -> dict[str, Any]:
        """AP of masks as COCO's, and for each label the mean IoU of the true masks; one that is not found has 0."""
        pairs = [scored.masks for scored in self.pictures if scored.masks is not None]
        compared, overlaps = [one.compared for one in pairs], [one.overlap for one in pairs]
        touching = match(compared, TOUCH, overlaps)
        each = {}
        for label, name in names.items():
            count = sum(int((one.truth_labels == label).sum()) for one in touching)
            shared = sum(float(one.ious[one.labels == label].sum()) for one in touching)
            each[name] = {"true_masks": count, "mean_iou": shared / count if count else None}
        return {"pictures": len(pairs), **coco_scores(compared, overlaps), "labels": each}

    def _behind_gate(self) -> dict[str, Any]:
        """The same detector where what the gate turns away has no boxes."""
        compared = [scored.behind_gate for scored in self.pictures]
        matched = match(compared)
        away = [scored for scored in self.pictures if scored.gate is not None and not scored.gate.passed]
        return {
            "turned_away": {
                "with_boxes": sum(len(scored.compared.truth_labels) > 0 for scored in away),
                "without_boxes": sum(len(scored.compared.truth_labels) == 0 for scored in away),
            },
            **coco_scores(compared),
            "operating_points": {name: _at(matched, score) for name, score in self.points.items()},
        }


def surest_ious(compared: Compared) -> Float64[np.ndarray, " m"]:
    """Return for each true box its IoU with the surest box of its label that touches it; 0 where none does."""
    found = compared.found
    order = np.argsort(-found.scores, kind="stable")
    overlap = iou_matrix(found.boxes_px, compared.truth_px) * (found.labels[:, None] == compared.truth_labels)
    overlap = np.concatenate([overlap[order], np.zeros((1, len(compared.truth_px)))])
    touches = overlap > 0
    touches[-1] = True  # what nothing touches has 0
    ious: Float64[np.ndarray, " m"] = overlap[touches.argmax(axis=0), np.arange(overlap.shape[1])]
    return ious


def reference_figures(compared: Sequence[Compared]) -> dict[str, Any]:
    """Return what the reference project told of its detectors: means and best over fractured pictures alone.

    A picture's IoU is the mean of `surest_ious`, its mAP50 its own average precision. The reference says neither how
    it paired boxes nor over what it averaged: these are the plainest readings of its words.
    """
    broken = [picture for picture in compared if len(picture.truth_labels)]
    ious = [float(surest_ious(picture).mean()) for picture in broken]
    precisions = [average_precision(match([picture])) for picture in broken]
    return {
        "fractured_pictures": len(broken),
        "mean_iou": float(np.mean(ious)) if ious else None,
        "max_iou": max(ious, default=None),
        "mean_map50": float(np.mean(precisions)) if precisions else None,
        "max_map50": max(precisions, default=None),
    }


def mask_pairs(found: Detections, case: Case) -> MaskPairs | None:
    """Return the IoU of each found outline with each true one; None where not every box has its outline."""
    numbers = {name: label for label, name in found.names.items()}
    masks, labels = instances(case, numbers)
    if found.polygons_px is None or case.boxes is None or len(labels) < sum(label in numbers for label in case.labels):
        return None
    areas = masks.sum(axis=(1, 2))
    overlap = np.zeros((len(found), len(labels)))
    for row, polygon in zip(overlap, found.polygons_px, strict=True):
        if len(polygon) < 3:  # a mask that nowhere reaches a half
            continue
        inside = filled((polygon,), case.width_px, case.height_px)
        shared = masks[:, inside].sum(axis=1)
        row[:] = shared / np.maximum(areas + inside.sum() - shared, 1)
    true = np.array([numbers[label] for label in labels], np.int64)
    return MaskPairs(Compared(found, np.zeros((len(true), 4), np.float32), true), overlap)


def _only(compared: Compared, label: int) -> Compared:
    """Leave only what has that label."""
    found, there = compared.found, compared.truth_labels == label
    return Compared(found.take(found.labels == label), compared.truth_px[there], compared.truth_labels[there])


def _at(matched: Sequence[Matched], score: float) -> dict[str, Any]:
    """What boxes that reach a score give: per picture, and per box."""
    rates = picture_rates(matched, score)
    reached = [picture.ious[picture.scores >= score] for picture in matched]
    true, hits = sum(len(picture.truth_labels) for picture in matched), sum(int((ious > 0).sum()) for ious in reached)
    return {
        "score": score,
        "sensitivity": _share(rates.sensitivity) | {"found": rates.found, "pictures": rates.positives},
        "specificity": _share(rates.specificity) | {"cleared": rates.cleared, "pictures": rates.negatives},
        "true_boxes_found": hits / true if true else None,
        "false_boxes_per_picture": sum(int((ious == 0).sum()) for ious in reached) / max(len(matched), 1),
    }


def _share(found: Interval) -> dict[str, Any]:
    return {"value": found.estimate, "interval_95": [found.low, found.high]}


def _row(scored: Scored, matched: Matched, score: float) -> dict[str, Any]:
    """One picture's line of the table."""
    reached, false = matched.ious[matched.scores >= score], matched.scores[matched.ious == 0]
    count = len(matched.truth_labels)
    return {
        "case": scored.case.name,
        "group": scored.group,
        "true_boxes": count,
        "true_boxes_found": int((reached > 0).sum()),
        "false_boxes": int((reached == 0).sum()),
        "best_score": float(matched.scores.max()) if len(matched.scores) else None,
        "best_false_score": float(false.max()) if len(false) else None,
        "reference_iou": float(surest_ious(scored.compared).mean()) if count else None,
        "reference_map50": average_precision([matched]) if count else None,
        "gate_passed": None if scored.gate is None else scored.gate.passed,
        "gate_reason": None if scored.gate is None else scored.gate.reason,
        "milliseconds": None if scored.seconds is None else 1e3 * scored.seconds,
    }
