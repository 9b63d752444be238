"""What it takes away, and what it costs, that an artery must come close to the heart's blood.

    uv run python benchmarks/coronary_region.py runs/coronary/heldout another_scan.nii.gz

Folders are labelled scans in ImageCAS's layout, files are scans without a label.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

import coronary.predict
from coronary.cases import find_cases
from coronary.evaluate import compare
from coronary.predict import Predictor
from shared.io.volume import read_volume

RULE = coronary.predict.apart


def main(scans: Positional[tuple[Path, ...]], /, model: Path | None = None, device: str = "cpu") -> None:
    """Print each scan's volume, and where there is a label Dice and clDice, without and with the rule."""
    predictor = Predictor(model, device)
    print("| scan | ml without | ml with | Dice without | Dice with | clDice without | clDice with |")
    print("|---|---|---|---|---|---|---|")
    for path in scans:
        cases = [(case.image, case.label) for case in find_cases(path)] if path.is_dir() else [(path, None)]
        for image, label in cases:
            volume = read_volume(image)
            found = [_predict(predictor, volume, rule) for rule in (lambda mask, place: np.zeros_like(mask), RULE)]
            cells = [f"{mask.sum() * volume.grid.voxel_mm3 / 1000:.2f}" for mask in found]
            if label is not None:
                truth = read_volume(label).array > 0
                scores = [compare(mask, truth, volume.spacing_mm) for mask in found]
                cells += [f"{score[name]:.4f}" for name in ("dice", "cl_dice") for score in scores]
            print("| " + " | ".join([image.name, *cells]) + " |", flush=True)


def _predict(predictor, volume, rule):
    coronary.predict.apart = rule
    return predictor(volume).labels > 0


if __name__ == "__main__":
    tyro.cli(main)
