"""What a detector finds beside what is known, and the scores that its operating points ask for. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bones.cases import Case
from bones.predict import OperatingPoint, Predictor
from shared.metrics.detection import Compared, Matched, froc

FALSE_BOXES_PER_PICTURE: dict[OperatingPoint, float] = {"screening": 2.0, "balanced": 0.5, "specific": 0.1}
"""What an operating point allows; free-response ROC curves are read at such rates (Bunch et al. 1978)."""


def compare(
    predictor: Predictor, cases: Iterable[Case], on_case: Callable[[int, str], None] = lambda done, case: None
) -> list[Compared]:
    """Return what the detector finds on each picture, whatever its score and without the gate, and the true boxes.

    Raises:
        InputError: a picture cannot be used.
    """
    found = []
    for number, case in enumerate(cases, start=1):
        found.append(compared(case, predictor))
        on_case(number, case.name)
    return found


def compared(case: Case, predictor: Predictor) -> Compared:
    """Return what the detector finds on one picture beside its true boxes; of other labels than its own none count."""
    detections = predictor(case.picture, threshold=0.0, gated=False)
    numbers = {name: label for label, name in detections.names.items()}
    known = [k for k, label in enumerate(case.labels) if label in numbers]
    boxes = np.zeros((0, 4), np.float32) if case.boxes is None else case.boxes[known]
    return Compared(detections, boxes, np.array([numbers[case.labels[k]] for k in known], np.int64))


def choose_operating_points(matched: Sequence[Matched]) -> dict[OperatingPoint, float]:
    """Return the score that each operating point asks for: the best sensitivity at its rate of false boxes.

    Where even the best score is a false box too many it is 1, which nothing reaches.
    """
    points = froc(matched, tuple(FALSE_BOXES_PER_PICTURE.values()))
    return {
        name: min(1.0, round(point.threshold, 4)) for name, point in zip(FALSE_BOXES_PER_PICTURE, points, strict=True)
    }
