"""How a model does on films without labels: how many vertebrae it finds on each, and of which region.

    uv run python recipes/spine_look.py --model data/models/spine.onnx FILMS

Names out of order and names given twice are counted as well; there can be none.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import tyro
from tyro.conf import Positional

from shared.io.radiograph import is_radiograph
from spine.predict import Predictor, SpineResult
from spine.scoring import Named, compare_names

REGIONS = {"C": "cervical", "T": "thoracic", "L": "lumbar"}
MANY = 4


def main(films: Positional[Path], /, model: Path | None = None, operating_point: str = "default") -> None:
    """Print a line for each film, and the counts."""
    predictor = Predictor(model, "cpu", operating_point=operating_point)
    found = {path: predictor(path) for path in sorted(films.rglob("*")) if is_radiograph(path)}
    for path, result in found.items():
        names = f"{result.level_names[0]} to {result.level_names[-1]}" if len(result) else ""
        print(f"{path.name}: {len(result)} {names}")
    regions = Counter(region(result) for result in found.values())
    many = sum(len(result) >= MANY for result in found.values())
    print(f"\n{len(found)} films, {many} with {MANY} vertebrae or more")
    for some, count in regions.most_common():
        print(f"  {some}: {count}")
    unfit = sum(any("fit no order" in finding for finding in result.findings) for result in found.values())
    twice = sum(result.views == 2 for result in found.values())
    print(f"films whose own names fit no order: {unfit}; looked at twice: {twice}")
    swaps, duplicates = (sum(values) for values in zip(*map(broken, found.values()), strict=True))
    print(f"names out of order down the film: {swaps}; names given twice: {duplicates}")


def region(result: SpineResult) -> str:
    """Which regions a film's names are of."""
    return " and ".join(word for letter, word in REGIONS.items() if any(n[0] == letter for n in result.level_names))


def broken(result: SpineResult) -> tuple[int, int]:
    """Names out of order from the top of the film down, and names given twice."""
    nothing = Named(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    naming = compare_names(Named(result.boxes_px, result.labels), nothing)
    return naming.swaps, naming.duplicates


if __name__ == "__main__":
    tyro.cli(main)
