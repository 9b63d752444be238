"""The reference's comparison: one recipe without and with its seven augmentations, on the same cases and seed.

    coronary train --preset reference-ablation --data ImageCAS --out RUN

leaves two runs, ``RUN/baseline`` and ``RUN/augmented``, each trained, exported and scored on the held-out cases, and
``comparison.json``, ``comparison.csv`` and ``comparison.png`` beside them. Called again it does only what is missing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from coronary.config import Config
from coronary.evaluate import METRICS
from coronary.export import finish
from coronary.train import METRIC, train
from shared.config import apply_preset
from shared.figures import COLOURS, Strip, draw_strip
from shared.io.atomic import whole
from shared.io.writers import write_csv, write_json
from shared.metrics.bootstrap import bootstrap_interval
from shared.training_devices import is_first_process

log = logging.getLogger(__name__)

ARMS = {"baseline": "none", "augmented": "reference"}

Row = dict[str, Any]


def is_ablation(run: Path) -> bool:
    """Say whether a run folder is that of an ablation: to go on with it is to call ``ablate`` again."""
    return (run / "ablation.json").exists()


def ablate(
    config: Config,
    run: Path,
    data: Path | None = None,
    *,
    labels: Path | None = None,
    split: Path | None = None,
    fold: int | None = None,
    cache: Path | None = None,
    device: str = "auto",
    on_progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """Train both arms, export, score and compare them, and return the comparison's rows, one a metric.

    Where several processes train, the first alone does the rest; the others return no rows.

    Args:
        config: the settings of both arms, but for ``sampling.augment``.
        run: folder of both runs.
        data: folder of labelled scans; None makes phantoms.
        labels: folder of other labels than those beside the scans.
        split: file that says which cases are for what; its validation cases are those held out.
        fold: which of the file's splits.
        cache: folder for preprocessed cases, which the arms share; ``RUN/cache`` if left out.
        device: where the exported models run.
        on_progress: told step, total and loss after each step of either arm.
        say: told in a sentence how each arm began and ended.
    """
    arms = {name: apply_preset(config, {"sampling": {"augment": augment}}) for name, augment in ARMS.items()}
    cache = cache or run / "cache"
    if is_first_process():
        for name, arm in arms.items():
            write_json(arm.model_dump(mode="json"), run / name / "config.json")
        write_json({"arms": ARMS}, run / "ablation.json")  # after the configs: whoever finds it goes on from them
    source: dict[str, Any] = {"data": data, "labels": labels, "split": split, "fold": fold, "cache": cache}
    for name, arm in arms.items():
        cases = run / name / "cases.json"
        if name == "augmented" and is_first_process() and not cases.exists():
            write_json(json.loads((run / "baseline" / "cases.json").read_text()), cases)
        say(f"{name}: augmentation {arm.sampling.augment}")
        train(arm, run / name, **source, on_progress=on_progress, say=say)
    if not is_first_process():
        return []
    for name in arms:
        if not _is_scored(run / name):
            finish(run / name, cache=cache, device=device)
    return compare_runs(run)


def _is_scored(folder: Path) -> bool:
    """Say whether the scores are those of the run's weights."""
    scores, weights = folder / "scores" / "scores.json", folder / "best.ckpt"
    return scores.exists() and scores.stat().st_mtime_ns >= weights.stat().st_mtime_ns


def compare_runs(run: Path) -> list[Row]:
    """Compare the scored arms case by case, write table and picture, and return the table's rows.

    A row has a metric's mean and standard deviation for either arm, and the mean difference (augmented less baseline)
    with its 95 % bootstrap interval over cases; a case without a finite value in both arms is left out of its metric.
    """
    scores = {name: _read_cases(run / name / "scores" / "cases.csv") for name in ARMS}
    cases = [case for case in scores["baseline"] if case in scores["augmented"]]
    rows = []
    for metric in METRICS:
        pairs = np.array([[scores[name][case][metric] for name in ARMS] for case in cases]).reshape(-1, 2)
        rows.append({"metric": metric} | _paired(pairs[np.isfinite(pairs).all(axis=1)]))
    write_csv(rows, run / "comparison.csv")
    write_json({"schema_version": 1, "arms": ARMS, "cases": cases, "metrics": rows}, run / "comparison.json")
    _draw(run, {name: [scores[name][case][METRIC] for case in cases] for name in ARMS}, cases)
    return rows


def _paired(pairs: np.ndarray) -> Row:
    """Means of both columns, and of their difference with its interval."""
    row: Row = {"cases": len(pairs)}
    for column, name in enumerate(ARMS):
        row[name] = float(pairs[:, column].mean()) if len(pairs) else None
        row[f"{name}_sd"] = float(pairs[:, column].std(ddof=1)) if len(pairs) > 1 else None
    difference = pairs[:, 1] - pairs[:, 0]
    interval = bootstrap_interval(difference) if len(pairs) > 1 else None
    row["difference"] = float(difference.mean()) if len(pairs) else None
    row["difference_low"], row["difference_high"] = (interval.low, interval.high) if interval else (None, None)
    return row


def _read_cases(path: Path) -> dict[str, dict[str, float]]:
    import csv

    with path.open(newline="", encoding="utf-8") as file:
        return {row["case"]: {m: float(row[m] or "nan") for m in METRICS} for row in csv.DictReader(file)}


def _draw(run: Path, dice: dict[str, list[float]], cases: list[str]) -> None:
    """Draw loss and validation Dice of both arms against epochs, and the held-out cases' Dice side by side."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, width_ratios=(1, 1, 0.9))
    for (name, augment), colour in zip(ARMS.items(), COLOURS, strict=False):
        records = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
        label = f"{name} (augmentation {augment})"
        for axes, value in zip(panels, ("loss", METRIC), strict=False):
            axes.plot(
                [r["epoch"] for r in records], [r[value] for r in records], color=colour, label=label,
                marker="o" if len(records) < 40 else "", markersize=4,
            )  # fmt: skip
    for axes, title in zip(panels, ("training loss", "Dice of validation, model grid"), strict=False):
        axes.set_title(title, fontsize=10, loc="left")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(fontsize=9, frameon=False)
    draw_strip(panels[2], Strip("Dice of held-out cases, own grid", dice, cases))
    with whole(run / "comparison.png") as aside:
        figure.savefig(aside, dpi=130, format="png")
