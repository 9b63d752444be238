"""The demo: a phantom that training never saw goes through the whole path, and is scored."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from coronary.batch import DISCLAIMER, Options, plan, predict_case
from coronary.evaluate import compare
from coronary.phantom import PhantomConfig, make_phantom, write_phantom
from coronary.predict import Predictor
from coronary.tree import Tree
from shared.cli import Answer, Voice
from shared.cohort import run_cohort
from shared.io.volume import read_volume
from shared.report import Report, recorded

if TYPE_CHECKING:
    from rich.table import Table

SCAN = PhantomConfig(shape=(320, 320, 240), spacing_mm=(0.4, 0.4, 0.5))


def demo(out: Path, seed: int, device: str, precision: Literal["auto", "fp32", "int8"], voice: Voice) -> Answer:
    """Write the phantom's scan and truth and every output of prediction under ``out``, and the scores."""
    with recorded(Report("coronary", "demo", {"seed": seed, "device": device}), out / "report.json") as report:
        predictor = Predictor(device=device, precision=precision)
        report.use_model(predictor.session.path, predictor.session.sha256)
        report.device, report.engine, report.precision = predictor.device, predictor.engine, predictor.precision
        with voice.progress("making a phantom"), report.stage("phantom"):
            scan, label = write_phantom(make_phantom(SCAN, seed), out / "phantom", 1)
        started = time.perf_counter()
        with voice.progress("segmenting", total=1) as update:
            items = plan([scan], out, Options())
            result = run_cohort(
                items,
                lambda item: predict_case(item, predictor, Options(), lambda ran, of: update(ran / of, None)),
                overwrite=True,
                on_end=report.add_record,
            )
        seconds = time.perf_counter() - started
        scores = {}
        if result.exit_status == 0:
            truth, found = read_volume(label), read_volume(items[0].outputs[0])
            with report.stage("scores"):
                scores = compare(found.array > 0, truth.array > 0, truth.spacing_mm)
        report.results = {"scores": scores, "seconds_predict": seconds}
        report.exit_status = result.exit_status
    for failure in report.failures:
        print(f"error: {failure}", file=sys.stderr)
    if scores:
        _tell(voice, out, predictor, scores, seconds)
    return Answer(report.as_dict(), result.exit_status)


def _tell(voice: Voice, out: Path, predictor: Predictor, scores: dict[str, float], seconds: float) -> None:
    voice.say(f"Segmented in {seconds:.1f} s with {predictor.engine} on {predictor.device}, {predictor.precision}.")
    voice.say(
        f"Against the phantom's exact truth: Dice {scores['dice']:.3f}, clDice {scores['cl_dice']:.3f}, "
        f"HD95 {scores['hd95_mm']:.2f} mm, surface Dice at 1 mm {scores['surface_dice_1mm']:.3f}."
    )
    voice.say(f"Outputs in {out}: mask, tree (JSON, CSV), mesh (STL), preview (PNG), report.json.")
    voice.say(
        "Next:\n"
        f"  uv run --no-dev coronary measure {out}/1.img.nii.gz    lengths, diameters, narrowings of the tree\n"
        "  uv run --no-dev coronary predict SCAN... --out DIR    your scans: NIfTI, NRRD, MHA, DICOM folder or zip\n"
        "  uv run --no-dev coronary phantom --out DIR --count 10    more phantoms, in ImageCAS's layout\n"
        "  uv run --no-dev coronary info --probe    what runs here"
    )
    voice.say(DISCLAIMER)


def tree_table(tree: Tree) -> Table:
    """A table of the tree's branches, for people."""
    from rich.table import Table

    table = Table("branch", "side", "length mm", "mean mm", "least mm", "narrowings")
    for branch in tree.branches:
        narrowings = ", ".join(f"{n.percent:.0f} %" for n in branch.narrowings)
        cells = (branch.length_mm, branch.mean_diameter_mm, branch.min_diameter_mm)
        table.add_row(str(branch.id), branch.side, *(f"{cell:.1f}" for cell in cells), narrowings)
    return table
