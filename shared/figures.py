"""Figures of scores, by matplotlib: every case a point, a box behind them, the mean said in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from shared.io.atomic import whole

COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44")  # Paul Tol's bright scheme: told apart by the colour-blind
FAINT = "#777777"
COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Strip:
    """One panel: a metric's values for each of one or more groups (the same cases in the same order)."""

    title: str
    groups: Mapping[str, Sequence[float]]
    cases: Sequence[str]
    share: bool = True
    """Between 0 and 1, higher is better; else from 0 on, lower is better."""


def draw_strips(strips: Sequence[Strip], path: Path, title: str = "") -> None:
    """Draw a panel for each strip, four in a row: points, box of quartiles, mean and standard deviation, worst case.

    Cases of two groups are joined by lines. Values that are not finite are left out and counted in the panel.
    """
    rows = -(-len(strips) // COLUMNS)
    columns = min(len(strips), COLUMNS)
    width = 1.4 + 0.9 * max(len(strip.groups) for strip in strips)
    figure = Figure(figsize=(max(width, 2.7) * columns, 3.3 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=11, x=0.01, ha="left")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, strip in zip(panels, strips, strict=False):
        draw_strip(axes, strip)
    for axes in panels[len(strips) :]:
        axes.axis("off")
    with whole(path) as aside:
        figure.savefig(aside, dpi=130, format="png")


def draw_strip(axes: Any, strip: Strip) -> None:
    """Draw one strip on matplotlib's axes."""
    values = np.array(list(strip.groups.values()), dtype=np.float64)
    # The same sideways step for a case in every group, so that lines do not cross for nothing.
    aside = np.asarray(np.random.default_rng(0).uniform(-0.14, 0.14, values.shape[1]))
    finite = np.isfinite(values)
    if len(values) == 2:
        both = finite.all(axis=0)
        axes.plot(np.array([[0], [1]]) + aside[both], values[:, both], color=FAINT, alpha=0.35, linewidth=0.8, zorder=1)
    lines = []
    for place, (name, row, there) in enumerate(zip(strip.groups, values, finite, strict=True)):
        colour, shown = COLOURS[place % len(COLOURS)], row[there]
        if len(shown) > 1:
            axes.boxplot(
                shown, positions=[place], widths=0.55, showfliers=False, showcaps=False, manage_ticks=False, zorder=0,
                patch_artist=True, boxprops={"facecolor": "#ececec", "edgecolor": "none"},
                medianprops={"color": "#aaaaaa", "linewidth": 2}, whiskerprops={"color": "#cccccc"},
            )  # fmt: skip
        axes.scatter(place + aside[there], shown, s=20, color=colour, alpha=0.8, linewidths=0, zorder=2)
        lines.append(_words(name, shown, len(row) - len(shown), strip.share))
        if len(values) == 1 and len(shown) > 1 and np.ptp(shown):
            worst = int(np.argmin(shown) if strip.share else np.argmax(shown))
            case = np.array(strip.cases)[there][worst]
            axes.annotate(
                f"case {case}", (place + aside[there][worst], shown[worst]), (6, 0), textcoords="offset points",
                fontsize=8, va="center", color="black",
            )  # fmt: skip
    axes.set_title(strip.title + "\n" + "\n".join(lines), fontsize=9.5, loc="left")
    axes.set_xticks(range(len(values)), [*strip.groups], fontsize=9)
    axes.set_xlim(-0.6, len(values) - 0.4)
    _set_range(axes, values[finite], strip.share)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _set_range(axes: Any, shown: np.ndarray, share: bool) -> None:
    """From a round number below the lowest value to 1, but never so close that a thousandth looks like a lot."""
    if not share:
        highest = max(float(shown.max()) if shown.size else 0.0, 1.0)
        axes.set_ylim(-0.04 * highest, 1.06 * highest)
        return
    lowest = np.floor((float(shown.min()) if shown.size else 0.0) * 20 - 0.2) / 20
    lowest = max(min(lowest, 0.9), 0.0)
    axes.set_ylim(lowest - 0.01 * (1 - lowest), 1 + 0.03 * (1 - lowest))


def _words(name: str, shown: np.ndarray, left_out: int, share: bool) -> str:
    """Mean and standard deviation, and how many values could not be drawn."""
    if not len(shown):
        return f"{name} no value".strip()
    digits = 3 if share else 1
    spread = f" ± {shown.std(ddof=1):.{digits}f}" if len(shown) > 1 else ""
    missing = f" ({left_out} without)" if left_out else ""
    return f"{name} {shown.mean():.{digits}f}{spread}{missing}".strip()
