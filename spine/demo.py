"""The demo: the shipped film, a chest radiograph, goes through the whole path."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from shared.cli import Answer, Voice
from shared.cohort import run_cohort
from shared.report import Report, recorded
from spine.batch import COCO, DISCLAIMER, TABLE, plan, predict_case, write_tables
from spine.predict import Precision, Predictor

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "samples" / "spine"


def demo(out: Path, device: str, precision: Precision, voice: Voice) -> Answer:
    """Write every output of prediction on the shipped film under ``out``."""
    with recorded(Report("spine", "demo", {"device": device}), out / "report.json") as report:
        predictor = Predictor(device=device, precision=precision)
        report.use_model(predictor.path, predictor.sha256)
        report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
        items = plan([SAMPLE / "chest.png"], out)
        started = time.perf_counter()
        result = run_cohort(items, lambda item: predict_case(item, predictor), overwrite=True, on_end=report.add_record)
        seconds = time.perf_counter() - started
        report.exit_status = result.exit_status
        if result.exit_status == 0:
            report.outputs += write_tables(items, out)
            report.results = {"seconds_predict": seconds}
            _tell(voice, out, predictor, seconds)
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    return Answer(report.as_dict(), result.exit_status)


def _tell(voice: Voice, out: Path, predictor: Predictor, seconds: float) -> None:
    found = json.loads((out / "chest.json").read_text(encoding="utf-8"))
    names = [one["label"] for one in found["vertebrae"]]
    renamed = sum(one["label"] is not None for one in found["changed"])
    dropped = len(found["changed"]) - renamed
    voice.say(
        f"{len(names)} vertebrae in {seconds:.2f} s with {predictor.engine} on {predictor.device}, "
        f"{predictor.precision}: {', '.join(names)}."
    )
    voice.say(
        f"The sample is a real chest radiograph without labels. Ordering changed {renamed} of the network's names and "
        f"took {dropped} of its candidates for no vertebra. How often names are right: spine/README.md."
    )
    voice.say(f"Outputs in {out}: chest.png (overlay), chest.mask.png, chest.json, {COCO}, {TABLE}, report.json.")
    voice.say(
        "Next:\n"
        "  uv run --no-dev spine predict FILM... --out DIR    your films: PNG, JPEG, TIFF, DICOM, or folders\n"
        "  uv run --no-dev spine phantom --out DIR --count 10    synthetic films with exact truth\n"
        "  uv run --no-dev spine info --probe    what runs here"
    )
    voice.say(DISCLAIMER)
