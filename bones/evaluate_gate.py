"""Score a gate: does it mark bone where bone is, what does it let pass, and how long does it take?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bones.cases import Case
from bones.evaluate_common import score_each, write_scores
from bones.gate import GateDecision
from bones.masks import bone_mask
from bones.predict import Gate
from bones.scoring import bone_iou
from shared.errors import SetupError
from shared.io.radiograph import is_radiograph, read_radiograph
from shared.metrics.bootstrap import bootstrap_interval, wilson_interval
from shared.report import Report
from shared.runtime import read_metadata

PICTURES = 3  # of the worst cases


@dataclass(frozen=True, slots=True)
class Decided:
    """One picture: what the gate decided, whether bone is there (None: not known), IoU of bone where it was drawn."""

    case: Case
    decision: GateDecision
    bone: bool | None
    iou: float | None
    seconds: float

    @property
    def wrong(self) -> bool:
        """Whether the decision is known to be wrong."""
        return self.bone is not None and self.bone != self.decision.passed

    def row(self) -> dict[str, Any]:
        """Return the picture's line of the table."""
        return {
            "case": self.case.name,
            "bone": self.bone,
            "passed": self.decision.passed,
            "iou": self.iou,
            "area_fraction": self.decision.area_fraction,
            "confidence": self.decision.confidence,
            "reason": self.decision.reason,
            "milliseconds": 1e3 * self.seconds,
        }


@dataclass(frozen=True, slots=True)
class GateScores:
    """Every picture that was decided on, and a line for each that could not be."""

    pictures: tuple[Decided, ...]
    failures: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """Return a line for each picture."""
        return [picture.row() for picture in self.pictures]

    def summary(self) -> dict[str, Any]:
        """Return IoU with its bootstrap interval, sensitivity and specificity with Wilson's, and milliseconds."""
        ious = self.ious()
        interval = bootstrap_interval(ious) if len(ious) > 1 else None
        milliseconds = [1e3 * picture.seconds for picture in self.pictures]
        return {
            "pictures": len(self.pictures),
            "iou": {
                "mean": float(np.mean(ious)) if ious else None,
                "interval_95": None if interval is None else [interval.low, interval.high],
                "lowest": min(ious, default=None),
                "highest": max(ious, default=None),
                "pictures": len(ious),
            },
            "sensitivity": self._rate(bone=True),
            "specificity": self._rate(bone=False),
            "milliseconds_per_picture": {
                "median": float(np.median(milliseconds)), "percentile_95": float(np.percentile(milliseconds, 95)),
            },
        }  # fmt: skip

    def means(self) -> dict[str, float]:
        """Return the few numbers that stand for the others, as a model's card shows them."""
        summary = self.summary()
        found = {"iou": summary["iou"]["mean"], "milliseconds": summary["milliseconds_per_picture"]["median"]}
        found |= {rate: summary[rate]["value"] for rate in ("sensitivity", "specificity")}
        return {name: value for name, value in found.items() if value is not None and np.isfinite(value)}

    def ious(self) -> list[float]:
        """Return the IoU of each picture whose bone is drawn."""
        return [picture.iou for picture in self.pictures if picture.iou is not None]

    def worst(self) -> list[Decided]:
        """Return the pictures decided wrongly, then those whose mask agrees least."""

        def badness(picture: Decided) -> tuple[bool, float]:
            return picture.wrong, -1.0 if picture.iou is None else -picture.iou

        judged = [picture for picture in self.pictures if picture.wrong or picture.iou is not None]
        return sorted(judged, key=badness, reverse=True)[:PICTURES]

    def _rate(self, *, bone: bool) -> dict[str, Any]:
        known = [picture for picture in self.pictures if picture.bone is bone]
        right = sum(not picture.wrong for picture in known)
        found = wilson_interval(right, len(known))
        return {
            "value": found.estimate, "interval_95": [found.low, found.high], "right": right, "pictures": len(known),
        }  # fmt: skip


def evaluate_gate(
    model: Path,
    cases: Iterable[Case],
    out: Path,
    report: Report,
    device: str = "auto",
    others: Path | None = None,
    on_case: Callable[[int, str], None] = lambda done, case: None,
) -> GateScores:
    """Decide on every picture, going on after one that cannot be used, and write everything but ``report.json``.

    Args:
        model: the gate's ONNX file.
        cases: labelled pictures.
        out: folder for the results.
        report: of the run.
        device: where the network runs.
        others: folder of pictures that are no radiographs.
        on_case: called after each picture with how many are done and its name.

    Raises:
        SetupError: ``others`` holds no picture.
    """
    with report.stage("load model"):
        gate = Gate(model, device)
    report.use_model(gate.path, gate.sha256)
    report.device, report.engine = gate.session.device, gate.session.engine
    report.precision = str(read_metadata(model).get("precision", "fp32"))
    every = [*cases, *_others(others)]
    scores = GateScores(
        score_each(every, lambda case: decide_case(case, gate), report, on_case), tuple(report.failures)
    )
    from bones.evaluate_pictures import draw_gate

    write_scores(scores, "gate", lambda folder: draw_gate(scores, folder), out, report)
    return scores


def decide_case(case: Case, gate: Gate) -> Decided:
    """Decide on one picture and compare the mask with the true one.

    Raises:
        InputError: the picture or its mask cannot be read.
    """
    radiograph = read_radiograph(case.picture)
    started = time.perf_counter()
    decision = gate(radiograph)
    seconds = time.perf_counter() - started
    return Decided(case, decision, shows_bone(case), bone_iou(decision.mask, case), seconds)


def shows_bone(case: Case) -> bool | None:
    """Say whether a picture is a radiograph with bone, as far as its labels tell.

    Whoever labels fractures, or their absence, labels radiographs of bone; an empty mask says that no bone is there.
    """
    if case.bone is not None:
        return case.bone
    if case.fractured is not None:
        return True
    mask = bone_mask(case)
    return None if mask is None else bool(mask.any())


def _others(folder: Path | None) -> Sequence[Case]:
    """Return pictures that are no radiographs as cases; their size is of no interest."""
    if folder is None:
        return ()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and is_radiograph(path))
    if not files:
        raise SetupError(f"{folder}: holds no picture; --others names a folder of pictures that are no radiographs")
    return [Case(path.relative_to(folder).as_posix(), path, 0, 0, bone=False) for path in files]
