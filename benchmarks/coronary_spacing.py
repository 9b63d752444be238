"""How much of the truth a grid can hold: what a network that makes no mistake would score at each spacing.

    uv run python benchmarks/coronary_spacing.py runs/coronary/heldout

Labels are brought to the grid as each voxel's share of lumen, as training sees them, back as prediction does, and
compared with themselves. It bounds Dice from above; a network that paints thin vessels boldly can recall more of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from coronary.cases import find_cases
from coronary.evaluate import RECALL, compare
from coronary.predict import threshold_on
from shared.geometry import resample_to_spacing
from shared.io.volume import read_volume


def main(
    data: Positional[Path], /, spacings_mm: tuple[float, ...] = (1.0, 0.85, 0.7, 0.6, 0.5), count: int = 10
) -> None:
    """Print a table over the first ``count`` cases of a folder in ImageCAS's layout."""
    labels = [read_volume(case.label) for case in find_cases(data)[:count]]
    print(f"{len(labels)} cases\n")
    print("| spacing, mm | Dice | clDice | recall < 0.8 mm | recall 0.8-1.5 mm | voxels against 1 mm |")
    print("|---|---|---|---|---|---|")
    for spacing in spacings_mm:
        rows = []
        for label in labels:
            share, affine = resample_to_spacing((label.array > 0).astype(np.float32), label.affine, (spacing,) * 3)
            found = threshold_on(label.grid, share, affine, 0.5)
            rows.append(compare(found, label.array > 0, label.spacing_mm))
        names = ("dice", "cl_dice", *RECALL[:2])
        cells = [f"{np.nanmean([row[name] for row in rows]):.3f}" for name in names]
        print("| " + " | ".join([f"{spacing:g}", *cells, f"{spacing**-3:.1f}"]) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main)
