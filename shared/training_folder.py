"""A run's folder: checkpoints, and what one sees of it, ``metrics.jsonl``, TensorBoard events and ``curves.png``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from shared.io.atomic import whole

Record = dict[str, Any]
SAVE_EVERY_S = 600.0  # so much of a long epoch may be lost to a crash
OTHER_SCORES = ("precision", "recall", "map50", "map50_95")
LOSS, SCORE, BEST = "#4477aa", "#ee6677", "#555555"


class RunFolder:
    """Writes a run's files, each whole or not at all; does nothing in any process but the first.

    The history, a list with one record for each epoch, is kept in the checkpoint; ``metrics.jsonl`` and the curves are
    written from it anew, so that a run that was killed and resumed holds each epoch once.
    """

    def __init__(self, path: Path, metric: str, active: bool) -> None:
        self.path, self.metric, self._active = path, metric, active
        self.last, self.best = path / "last.ckpt", path / "best.ckpt"
        self._tensorboard: Any = None
        self._saved = time.monotonic()
        path.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def open(self, step: int) -> Iterator[RunFolder]:
        """Go on from ``step``: what an earlier process began and TensorBoard's records after it are forgotten."""
        if not self._active:
            yield self
            return
        from torch.utils.tensorboard import SummaryWriter

        for checkpoint in (self.last, self.best):
            for left_over in self.path.glob(f".*-{checkpoint.name}"):
                left_over.unlink(missing_ok=True)
        self._tensorboard = SummaryWriter(str(self.path / "tensorboard"), purge_step=step + 1)
        try:
            yield self
        finally:
            self._tensorboard.close()

    def save_best(self, weights: Mapping[str, Any], history: Sequence[Record]) -> None:
        """Keep the last epoch's weights if no epoch before it was better."""
        newest = history[-1]
        if self._active and best_of(history, self.metric) in (None, newest):
            self._save(self.best, {"model": dict(weights), "score": newest[self.metric], **newest})

    def save_last(self, state: Mapping[str, Any]) -> None:
        """Write what the run needs to go on."""
        if self._active:
            self._save(self.last, dict(state))
            self._saved = time.monotonic()

    def save_at_times(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save within a long epoch, so that a crash costs minutes."""
        if self._active and time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save_last(state())

    def _save(self, path: Path, content: dict[str, Any]) -> None:
        with whole(path) as aside:
            torch.save(content, aside)

    def write(self, history: Sequence[Record]) -> None:
        """Write metrics and curves anew, and the last epoch to TensorBoard."""
        if not self._active:
            return
        with whole(self.path / "metrics.jsonl") as aside:
            aside.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in history))
        draw_curves(history, self.metric, self.path / "curves.png")
        newest = history[-1]
        for name, value in newest.items():
            if isinstance(value, int | float) and name not in ("epoch", "step"):
                self._tensorboard.add_scalar(name, value, newest["step"])
        self._tensorboard.flush()


def best_of(history: Sequence[Mapping[str, Any]], metric: str) -> Mapping[str, Any] | None:
    """Return the first record with the highest finite ``metric``, or None."""
    scored = [record for record in history if record[metric] is not None]
    return max(scored, key=lambda record: float(record[metric]), default=None)


def _drawn(record: Mapping[str, Any], name: str) -> float:
    value = record.get(name)
    return math.nan if value is None else float(value)


def draw_curves(history: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draw loss and validation score, thinly their parts and other scores beside them; the best epoch is marked."""
    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True)
    marker = "o" if len(history) < 40 else ""
    losses = [name for name in history[-1] if name.endswith("_loss") and any(record.get(name) for record in history)]
    others = [name for name in history[-1] if name != metric and name.endswith(OTHER_SCORES)]
    for axes, name, parts, label, colour in (
        (upper, "loss", losses, "training loss", LOSS),
        (lower, metric, others, f"validation {metric}", SCORE),
    ):
        values = [_drawn(record, name) for record in history]
        axes.plot(epochs, values, color=colour, marker=marker, markersize=4, label=name)
        for part in parts:
            axes.plot(epochs, [_drawn(record, part) for record in history], linewidth=0.9, label=part)
        if parts:
            axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    best = best_of(history, metric)
    if best is not None:
        lower.axvline(best["epoch"], color=BEST, linestyle=":", linewidth=1)
        lower.set_title(f"best {metric} {best[metric]:.4f} after epoch {best['epoch']}", fontsize=10, loc="left")
    lower.set_xlabel("epoch")
    lower.xaxis.set_major_locator(MaxNLocator(integer=True))
    with whole(path) as aside:
        figure.savefig(aside, dpi=120, format="png")
