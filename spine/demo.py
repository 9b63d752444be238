"""The demo: the shipped film goes through the whole path, and is scored against its exact outlines."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from shared.cli import Answer, Voice
from shared.cohort import run_cohort
from shared.report import Report, recorded
from spine.batch import COCO, DISCLAIMER, TABLE, plan, predict_case, write_tables
from spine.cases import Film
from spine.evaluate import Scored, score_film
from spine.predict import Precision, Predictor

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "samples" / "spine"


def demo(out: Path, device: str, precision: Precision, voice: Voice) -> Answer:
    """Write every output of prediction on the shipped film under ``out``, and its scores."""
    film = Film(SAMPLE / "ap.png", SAMPLE / "ap.txt", "test", "sample")
    with recorded(Report("spine", "demo", {"device": device}), out / "report.json") as report:
        predictor = Predictor(device=device, precision=precision)
        report.use_model(predictor.path, predictor.sha256)
        report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
        items = plan([film.image], out)
        started = time.perf_counter()
        result = run_cohort(items, lambda item: predict_case(item, predictor), overwrite=True, on_end=report.add_record)
        seconds = time.perf_counter() - started
        report.exit_status = result.exit_status
        if result.exit_status == 0:
            report.outputs += write_tables(items, out)
            with report.stage("scores"):
                scored = score_film(film, predictor)
            report.results = {"scores": scored.row(), "seconds_predict": seconds}
            _tell(voice, out, predictor, scored, seconds)
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    return Answer(report.as_dict(), result.exit_status)


def _tell(voice: Voice, out: Path, predictor: Predictor, scored: Scored, seconds: float) -> None:
    naming, row = scored.naming("after"), scored.row()
    voice.say(
        f"{len(scored.result)} vertebrae in {seconds:.2f} s with {predictor.engine} on {predictor.device}, "
        f"{predictor.precision}: {', '.join(scored.result.level_names)}."
    )
    voice.say(
        f"The sample is a projection of a CT with known outlines: {naming.found} of its {naming.vertebrae} vertebrae "
        f"are found, {naming.right} of them bear the right name, mean IoU {row['box_iou']:.2f} of boxes and "
        f"{row['mask_iou']:.2f} of masks."
    )
    voice.say(f"Outputs in {out}: ap.png (overlay), ap.mask.png, ap.json, {COCO}, {TABLE}, report.json.")
    voice.say(
        "Next:\n"
        "  uv run --no-dev spine predict FILM... --out DIR    your films: PNG, JPEG, TIFF, DICOM, or folders\n"
        "  uv run --no-dev spine phantom --out DIR --count 10    synthetic films with exact truth\n"
        "  uv run --no-dev spine info --probe    what runs here"
    )
    voice.say(DISCLAIMER)
