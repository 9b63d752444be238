"""The mean of the last weights of runs that followed from one another, as a run of its own to export or go on from.

    uv run python recipes/spine_average.py runs/spine/lite-read2 runs/spine/lite-read3 --out runs/spine/lite-mean

Each run's moving average is taken. Weights that were trained on from one another lie in one valley of the loss, and
their mean may do better than either without costing anything in prediction (Wortsman et al. 2022, Model soups, ICML;
Izmailov et al. 2018, Averaging weights leads to wider optima, UAI). Films and settings are those of the last run.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
import tyro
from tyro.conf import Positional


def main(runs: Positional[list[Path]], /, out: Path) -> None:
    """Write the run: best.ckpt, config.json and films.json."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    all_weights = [torch.load(run / "last.ckpt", map_location="cpu", weights_only=True)["ema"] for run in runs]
    mean = {
        name: torch.stack([weights[name].double() for weights in all_weights]).mean(0).to(value.dtype)
        for name, value in all_weights[0].items()
    }
    torch.save({"model": mean}, out / "best.ckpt")
    for name in ("config.json", "films.json"):
        shutil.copyfile(runs[-1] / name, out / name)


if __name__ == "__main__":
    tyro.cli(main)
