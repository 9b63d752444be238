"""The reference's tables: train and score every combination of size, learning rate, epochs and network.

    bones sweep --sizes 300 640 --lr 3e-4 1e-4 --epochs 10 15 --data FOLDER --out RUN
    bones sweep --task gate --init runs/bones/lesions --data FOLDER --out RUN

Every combination is a run of its own below ``RUN``, trained, exported and scored on the same held-out pictures, as
``bones train`` would; ``sweep.csv``, ``sweep.json`` and ``sweep.png`` compare those that are done. Called again it does
only what is missing.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bones.config import Config
from bones.export import finish
from bones.train import train
from shared.config import apply_preset, load_config
from shared.errors import SetupError
from shared.figures import COLOURS, FAINT
from shared.io.atomic import whole
from shared.io.tables import write_csv, write_json
from shared.metrics.detection import FROC_RATES
from shared.training_devices import is_first_process

log = logging.getLogger(__name__)

Row = dict[str, Any]
GATES = ("segnet", "unet")
TITLES = {
    "detector": {
        "network": "network", "size_px": "size", "epochs": "epochs", "learning_rate": "lr",
        "reference_mean_iou": "mean IoU", "reference_max_iou": "max IoU", "reference_mean_map50": "mean mAP50",
        "reference_max_map50": "max mAP50", "ap50": "AP50", "ap50_low": "from", "ap50_high": "to",
        "ap50_95": "AP50-95", "sensitivity": "sens.", "specificity": "spec.", "milliseconds": "ms",
    },
    "gate": {
        "network": "network", "size_px": "size", "epochs": "epochs", "learning_rate": "lr", "iou": "IoU",
        "iou_low": "from", "iou_high": "to", "milliseconds": "ms", "minutes": "min. trained",
    },
}  # fmt: skip
"""What the printed table shows of a row, and under what name; four columns of the first are the reference's."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One combination: what it is called, how it is trained, and from what weights."""

    name: str
    network: str
    config: Config
    init: Path | None


def arms_of(
    config: Config,
    sizes: Sequence[int] = (),
    rates: Sequence[float] = (),
    epochs: Sequence[int] = (),
    kinds: Sequence[str] = (),
    init: Path | None = None,
) -> list[Arm]:
    """Return every combination; of a list that is empty the config's value stands.

    With ``init`` every detector starts from it. Of gates only SegNet does, and is trained without it too: whether
    pretraining helps is what the reference asked.
    """
    part = "gate" if config.network == "gate" else "detector"
    settings = getattr(config, part)
    starts: list[tuple[str, Path | None]] = []
    for kind in kinds or (GATES if part == "gate" else (settings.kind,)):
        if part == "detector":
            starts.append((kind, init))
        else:
            starts += [(kind, None)] + ([(kind, init)] if kind == "segnet" and init is not None else [])
    found = []
    for (kind, start), size, rate, count in itertools.product(
        starts, sizes or (settings.size_px,), rates or (config.training.learning_rate,),
        epochs or (config.training.epochs,),
    ):  # fmt: skip
        diff = {part: {"kind": kind, "size_px": size}, "training": {"learning_rate": rate, "epochs": count}}
        network = kind if part == "detector" or start is None else f"{kind}, pretrained"
        name = f"{network.replace(', ', '-')}-{size}px-{count}epochs-lr{rate:g}"
        found.append(Arm(name, network, apply_preset(config, diff), start))
    return found


def sweep(
    arms: Sequence[Arm],
    out: Path,
    data: Path | None = None,
    *,
    split: Path | None = None,
    cache: Path | None = None,
    classes: Mapping[str, str] | None = None,
    on_progress: Callable[[int, int, float], None] = lambda step, total, loss: None,
    say: Callable[[str], None] = log.info,
) -> list[Row]:
    """Train, export and score each arm that is not yet, and return the comparison's rows.

    Where several processes train, the first alone does the rest; the others return no rows.

    Args:
        arms: see ``arms_of``.
        out: folder of all runs.
        data: folder of labelled radiographs; None makes phantoms.
        split: file or folder that says which cases are for what; the validation cases are those held out.
        cache: folder for pictures as they were read, which the runs share; ``OUT/cache`` if left out.
        classes: which class of the data set is which label.
        on_progress: told step, total and loss after each step of any run.
        say: told in a sentence how each run began and ended.

    Raises:
        SetupError: a run that is there already has other settings or data.
    """
    rows: list[Row] = []
    for number, arm in enumerate(arms, start=1):
        run = out / arm.name
        _same_settings(run, arm, data, classes)
        if not _is_scored(run):
            say(f"{number} of {len(arms)}: {arm.name}")
            if number > 1 and is_first_process():
                _same_cases(out / arms[0].name, run)
            train(
                arm.config, run, data, split=split, init=arm.init, cache=cache or out / "cache", classes=classes,
                on_progress=on_progress, say=say,
            )  # fmt: skip
            if is_first_process():
                finish(run, device=arm.config.training.device)
        if is_first_process():
            rows.append(read_row(arm, run))
            write_csv(rows, out / "sweep.csv")
            write_json({"schema_version": 1, "task": arm.config.network, "runs": rows}, out / "sweep.json")
            draw(rows, arm.config.network, out / "sweep.png")
    return rows


def read_row(arm: Arm, run: Path) -> Row:
    """Return what the comparison tells of a scored run; ``reference_`` marks the figures that the reference gave."""
    scores = json.loads((run / "scores" / "scores.json").read_text(encoding="utf-8"))["scores"]
    settings = arm.config.gate if arm.config.network == "gate" else arm.config.detector
    history = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    row = {
        "run": arm.name, "network": arm.network, "size_px": settings.size_px, "epochs": arm.config.training.epochs,
        "learning_rate": arm.config.training.learning_rate,
    }  # fmt: skip
    told = _gate_row(scores) if arm.config.network == "gate" else _detector_row(scores)
    time = {
        "milliseconds": scores["milliseconds_per_picture"]["median"],
        "minutes": sum(record["seconds"] for record in history) / 60,
    }
    return row | told | time


def _detector_row(scores: Mapping[str, Any]) -> Row:
    point = scores["operating_points"]["balanced"]
    low, high = scores["ap50_interval_95"] or (None, None)
    figures = ("mean_iou", "max_iou", "mean_map50", "max_map50")
    return {
        **{f"reference_{name}": scores["reference"][name] for name in figures},
        "ap50": scores["ap50"], "ap50_low": low, "ap50_high": high, "ap50_95": scores["ap50_95"],
        **{f"froc_{rate:g}": found["sensitivity"] for rate, found in zip(FROC_RATES, scores["froc"], strict=True)},
        **{rate: point[rate]["value"] for rate in ("sensitivity", "specificity")},
        "pictures_with_boxes": scores["with_boxes"], "pictures_without": scores["without_boxes"],
    }  # fmt: skip


def _gate_row(scores: Mapping[str, Any]) -> Row:
    low, high = scores["iou"]["interval_95"] or (None, None)
    return {"iou": scores["iou"]["mean"], "iou_low": low, "iou_high": high, "pictures": scores["iou"]["pictures"]}


def table_cells(rows: Sequence[Row], task: str) -> tuple[list[str], list[list[str]]]:
    """Return the printed table's titles, and its cells as text."""
    return list(TITLES[task].values()), [[_text(row[name]) for name in TITLES[task]] for row in rows]


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if 0 < value < 1e-2 else f"{value:.1f}" if value > 1 else f"{value:.3f}"
    return "-" if value is None else str(value)


def draw(rows: Sequence[Row], task: str, path: Path) -> None:
    """Draw the score of every run with its interval beside the reference's figures; of gates, beside their time."""
    score, other = ("iou", "milliseconds") if task == "gate" else ("ap50", "reference_mean_map50")
    figure = Figure(figsize=(11, 1.4 + 0.34 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows, strict=True):
        value, low, high = row[score], row[f"{score}_low"], row[f"{score}_high"]
        if value is not None:
            spread = None if low is None or high is None else [[max(value - low, 0)], [max(high - value, 0)]]
            left.errorbar(value, place, xerr=spread, fmt="o", color=COLOURS[0], elinewidth=1)
    title = "IoU of bone" if task == "gate" else "AP50, all pictures"
    left.set_title(f"{title}, 95 % interval", fontsize=9.5, loc="left")
    left.set_yticks(places, [row["run"] for row in rows], fontsize=8)
    left.set_ylim(-0.6, len(rows) - 0.4)
    if task == "gate":
        right.barh(places, [row[other] for row in rows], height=0.5, color=COLOURS[0])
        right.set_title("milliseconds per picture", fontsize=9.5, loc="left")
    else:
        for name, colour in ((other, COLOURS[1]), ("reference_mean_iou", COLOURS[2])):
            right.plot([row[name] for row in rows], places, "o", color=colour, label=TITLES[task][name])
        right.set_title("the reference's figures, fractured pictures alone", fontsize=9.5, loc="left")
        right.legend(frameon=False, fontsize=8)
        right.set_xlim(0, 1)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(axis="y", length=0, color=FAINT)
    left.set_xlim(0, 1)
    with whole(path) as aside:
        figure.savefig(aside, dpi=130, format="png")


def _same_settings(run: Path, arm: Arm, data: Path | None, classes: Mapping[str, str] | None) -> None:
    config, source = run / "config.json", run / "source.json"
    if config.exists() and load_config(Config, config) != arm.config:
        raise SetupError(f"{run}: was trained with other settings; give the same ones, or another --out")
    if data is None or not source.exists():
        return
    told = json.loads(source.read_text(encoding="utf-8"))
    if (told["data"], told.get("classes") or {}) != (str(data.resolve()), classes or {}):
        raise SetupError(f"{run}: was trained on other data or classes; give the same ones, or another --out")


def _same_cases(first: Path, run: Path) -> None:
    """Let a new run have the cases of the first one."""
    if not (run / "cases.json").exists():
        for name in ("source.json", "cases.json"):
            write_json(json.loads((first / name).read_text(encoding="utf-8")), run / name)


def _is_scored(run: Path) -> bool:
    """Say whether the scores are those of the run's weights."""
    scores, weights = run / "scores" / "scores.json", run / "best.ckpt"
    return scores.exists() and scores.stat().st_mtime_ns >= weights.stat().st_mtime_ns
