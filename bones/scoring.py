"""What gate and detector find beside what is known, and what operating points ask for. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bones.cases import Case
from bones.formats.rle import Mask
from bones.masks import bone_mask
from bones.predict import OperatingPoint, Predictor
from bones.preprocess import fit
from shared.metrics.detection import Compared, Matched, froc
from shared.types import Detections

FALSE_BOXES_PER_PICTURE: dict[OperatingPoint, float] = {"screening": 2.0, "balanced": 0.5, "specific": 0.1}
"""What an operating point allows; free-response ROC curves are read at such rates (Bunch et al. 1978)."""
HALF = 0.5  # of a pixel: so much of it true bone makes it bone


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
    """Return what the detector finds on one picture beside its true boxes."""
    return beside_truth(predictor(case.picture, threshold=0.0, gated=False), case)


def beside_truth(found: Detections, case: Case) -> Compared:
    """Put detections beside a case's true boxes; of other labels than the detector's own none count."""
    numbers = {name: label for label, name in found.names.items()}
    known = [k for k, label in enumerate(case.labels) if label in numbers]
    boxes = np.zeros((0, 4), np.float32) if case.boxes is None else case.boxes[known]
    return Compared(found, boxes, np.array([numbers[case.labels[k]] for k in known], np.int64))


def bone_iou(found: Mask, case: Case) -> float | None:
    """Return what the gate's mask shares with the true one over what both cover, on the gate's square.

    1 where both are empty; None where it is not known which pixels are bone.

    Raises:
        InputError: the true mask cannot be read.
    """
    true = bone_mask(case)
    if true is None:
        return None
    wanted = fit(true.astype(np.float32), len(found)) >= HALF
    covered = int((found | wanted).sum())
    return int((found & wanted).sum()) / covered if covered else 1.0


def choose_operating_points(matched: Sequence[Matched]) -> dict[OperatingPoint, float]:
    """Return the score that each operating point asks for: the best sensitivity at its rate of false boxes.

    Where even the best score is a false box too many it is 1, which nothing reaches.
    """
    points = froc(matched, tuple(FALSE_BOXES_PER_PICTURE.values()))
    return {
        name: min(1.0, round(point.threshold, 4)) for name, point in zip(FALSE_BOXES_PER_PICTURE, points, strict=True)
    }
