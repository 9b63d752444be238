"""The demo: a shipped X-ray, and a phantom with breaks that training never saw, go through the whole path."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from bones.batch import DISCLAIMER, plan, predict_case, read_result, write_tables
from bones.phantom import Phantom, PhantomConfig, make
from bones.predict import Predictor
from shared.boxes import iou_matrix
from shared.cli import Answer, Voice
from shared.cohort import Item, run_cohort
from shared.errors import SetupError
from shared.io.atomic import whole
from shared.report import Report, recorded
from shared.types import Detections

SAMPLES = Path(__file__).resolve().parents[1] / "data" / "samples" / "bones"
BROKEN = PhantomConfig(size_px=768, broken=1.0, displaced=1.0, implants=0.0)
FOUND_IOU = 0.5  # COCO's AP50 counts a box from there on


def demo(out: Path, seed: int, device: str, precision: Literal["auto", "fp32", "int8"], voice: Voice) -> Answer:
    """Write every output of prediction for sample and phantom under ``out``, and what was found of the breaks."""
    samples = sorted(SAMPLES.glob("*.png"))
    if not samples:
        raise SetupError(f"{SAMPLES}: holds no sample; run the demo in a checkout of the repository")
    with recorded(Report("bones", "demo", {"seed": seed, "device": device}), out / "report.json") as report:
        predictor = Predictor(device=device, precision=precision)
        with voice.progress("making a phantom"), report.stage("phantom"):
            truth = broken_phantom(seed)
            picture = write_picture(truth, out / "phantom" / "phantom.png")
        started = time.perf_counter()
        items = plan([*samples, picture], out)
        with voice.progress("looking", total=len(items)) as update:
            result = run_cohort(
                items,
                lambda item: predict_case(item, predictor),
                overwrite=True,
                on_start=lambda item: update(items.index(item), item.path.name),
                on_end=report.add_record,
            )
        seconds = time.perf_counter() - started
        report.use_model(predictor.path, predictor.sha256)
        report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
        report.outputs.extend(write_tables(items, out, predictor.names))
        scores = {}
        if result.exit_status == 0:
            scores = compare(read_result(items[-1].outputs[1], predictor.names), truth)
        report.results = {"phantom": scores, "seconds_predict": seconds}
        report.exit_status = result.exit_status
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    if scores:
        _tell(voice, out, predictor, items, scores, seconds)
    return Answer(report.as_dict(), result.exit_status)


def broken_phantom(seed: int) -> Phantom:
    """Return the first phantom of the seed with a break to be seen."""
    return next(phantom for index in range(1, 100) if len((phantom := make(seed, index, BROKEN)).boxes))


def write_picture(phantom: Phantom, path: Path) -> Path:
    """Write a phantom's picture as PNG."""
    with whole(path) as aside:
        Image.fromarray(np.rint(phantom.picture * 255).astype(np.uint8)).save(aside)
    return path


def compare(found: Detections, truth: Phantom) -> dict[str, float]:
    """Return how many breaks there are, how many have a box of IoU 0.5 or more, and how many boxes have none."""
    overlap = iou_matrix(truth.boxes, found.boxes_px)
    hit = overlap >= FOUND_IOU
    return {
        "breaks": len(truth.boxes),
        "found": int(hit.any(axis=1).sum()),
        "false_boxes": int((~hit.any(axis=0)).sum()),
        "best_iou": float(overlap.max(initial=0.0)),
    }


def _tell(
    voice: Voice, out: Path, predictor: Predictor, items: list[Item], scores: dict[str, float], seconds: float
) -> None:
    voice.say(
        f"Looked at {len(items)} pictures in {seconds:.1f} s with {predictor.engine} on {predictor.device}, "
        f"{predictor.precision}; the detector's loading is part of it."
    )
    for item in items:
        found = read_result(item.outputs[1], predictor.names)
        voice.say(f"{item.path.name}: {len(found) or 'no'} {'box' if len(found) == 1 else 'boxes'}")
    voice.say(
        f"Against the phantom's exact truth: {scores['found']} of {scores['breaks']} breaks found, "
        f"{scores['false_boxes']} false boxes, best IoU {scores['best_iou']:.2f}."
    )
    voice.say(f"Outputs in {out}: a JSON and an overlay (PNG) for each picture, COCO, CSV, report.json.")
    voice.say(
        "Next:\n"
        "  uv run --no-dev bones predict PICTURE... --out DIR    your pictures: PNG, JPEG, TIFF, DICOM\n"
        "  uv run --no-dev bones phantom --out DIR --count 10    more phantoms, as a COCO data set\n"
        "  uv run --no-dev bones info --probe    what runs here"
    )
    voice.say(DISCLAIMER)
