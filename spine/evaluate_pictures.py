"""Figures of an evaluation: curves, confusion of names, the levels that there are, names by level, worst films."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from shared.draw import PAGE
from shared.figures import COLOURS, FAINT
from shared.io.atomic import whole
from shared.io.radiograph import read_radiograph
from shared.metrics.bootstrap import wilson_interval
from shared.metrics.detection import Matched, average_precision, precision_recall
from spine.cases import read_labels
from spine.config import LEVELS
from spine.evaluate import STAGES, Scored, Scores
from spine.overlay import COLOURS as LEVEL_COLOURS
from spine.overlay import REGIONS, draw_vertebrae
from spine.predict import SpineResult
from spine.scoring import Curves, confidence_curves, confusion, pair

KINDS = ("box", "mask")
REFERENCE_POINTS = {"F1 peak": 0.257, "tuned": 0.7}
"""Confidences that the reference project read from its curves."""
REGION_COLOURS = {name: "#{:02x}{:02x}{:02x}".format(*pair[1]) for name, pair in REGIONS.items()}
REGION_LEVELS = {"cervical": range(7), "thoracic": range(7, 19), "lumbar": range(19, 24)}


def draw_all(scores: Scores, out: Path, worst: Sequence[Scored]) -> list[Path]:
    """Draw every figure into ``out`` and return their files."""
    files = [out / name for name in ("curves.png", "confusion.png", "labels.png", "names.png")]
    for draw, path in zip((draw_curves, draw_confusion, draw_labels, draw_names), files, strict=True):
        draw(scores, path)
    for scored in worst:
        path = out / f"worst-{scored.film.image.stem}.png"
        draw_film(scored, path)
        files.append(path)
    return files


def draw_curves(scores: Scores, path: Path) -> None:
    """Draw precision against recall, and F1, precision and recall against confidence, of boxes and of masks."""
    figure, panels = _figure(2, 4, (15.5, 7.4))
    figure.suptitle(
        f"{len(scores.films)} films, IoU 0.5, names by the network alone; black: mean over levels", fontsize=11, x=0.01,
        ha="left",
    )  # fmt: skip
    for row, kind in zip(panels, KINDS, strict=True):
        matched = scores.matched("before", kind)
        curves = confidence_curves(matched)
        _draw_precision_recall(row[0], matched, kind)
        for axes, name in zip(row[1:], ("f1", "precision", "recall"), strict=True):
            _draw_by_confidence(axes, curves, name, kind)
    _save(figure, path)


def _draw_precision_recall(axes: Any, matched: Sequence[Matched], kind: str) -> None:
    for region, levels in REGION_LEVELS.items():
        label: str | None = region
        for level in levels:
            curve = precision_recall(matched, level)
            if len(curve.recall) and np.isfinite(curve.recall).all():
                axes.plot(curve.recall, curve.precision, color=REGION_COLOURS[region], linewidth=0.8, label=label)
                label = None
    pooled = precision_recall(matched)
    axes.plot(pooled.recall, pooled.precision, color="black", linewidth=2)
    _finish(axes, f"{kind}: precision and recall, mAP50 {average_precision(matched):.3f}", "recall", "precision")
    if axes.lines[:-1]:  # a level was drawn
        axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_by_confidence(axes: Any, curves: Curves, name: str, kind: str) -> None:
    values = getattr(curves, name)
    for row, level in enumerate(curves.levels):
        region = next(region for region, levels in REGION_LEVELS.items() if level in levels)
        axes.plot(curves.confidence, values[row], color=REGION_COLOURS[region], linewidth=0.8)
    axes.plot(curves.confidence, values.mean(axis=0), color="black", linewidth=2)
    title = f"{kind}: {name.replace('f1', 'F1')}"
    if name == "f1":
        best, at = curves.best
        axes.plot([at], [best], "o", color=COLOURS[1], zorder=3)
        title += f", best {best:.3f} at {at:.3f}"
        for word, confidence in REFERENCE_POINTS.items():
            axes.axvline(confidence, color=FAINT, linewidth=0.8, linestyle=":")
            axes.text(confidence, 0.02, f" reference: {word}", fontsize=7, color=FAINT, rotation=90, va="bottom")
    _finish(axes, title, "confidence", "")


def draw_confusion(scores: Scores, path: Path) -> None:
    """Draw which level was called what: counts and shares, before and after ordering."""
    figure, panels = _figure(2, 2, (15, 14))
    for row, stage in zip(panels, STAGES, strict=True):
        counts = confusion([scored.names[stage] for scored in scores.films])
        there = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
        shown = counts[np.ix_(there, there)]
        shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
        names = [(*LEVELS, "none")[k] for k in there]
        for axes, values, word in ((row[0], shown, "counts"), (row[1], shares, "share of each true level")):
            _draw_matrix(axes, values, names, f"{stage} ordering, {word}")
    _save(figure, path)


def _draw_matrix(axes: Any, values: np.ndarray, names: Sequence[str], title: str) -> None:
    axes.imshow(np.sqrt(values / max(values.max(), 1e-9)), cmap="Blues", vmin=0, vmax=1.25)
    whole_numbers = values.dtype.kind == "i"
    for (row, column), value in np.ndenumerate(values):
        if value >= (1 if whole_numbers else 0.005):
            text = str(value) if whole_numbers else f"{value:.2f}".lstrip("0")
            dark = values[row, column] > 0.4 * values.max()
            colour = "white" if dark else "black" if row == column else "#aa3344"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, fontsize=8, rotation=90)
    axes.set_yticks(ticks, names, fontsize=8)
    axes.set_xlabel("called", fontsize=9)
    axes.set_ylabel("true", fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def draw_labels(scores: Scores, path: Path) -> None:
    """Draw how many of each level there are, where on the films their centres lie, and how large their boxes are."""
    levels, centres, sizes = [], [], []
    for scored in scores.films:
        truth, film = scored.names["after"][1], scored.result
        size = np.array([film.width_px, film.height_px])
        levels.append(truth.labels)
        centres.append((truth.boxes_px[:, :2] + truth.boxes_px[:, 2:]) / 2 / size)
        sizes.append((truth.boxes_px[:, 2:] - truth.boxes_px[:, :2]) / size)
    level, centre, size = np.concatenate(levels), np.concatenate(centres), np.concatenate(sizes)
    colours = np.array([LEVEL_COLOURS[LEVELS[k]] for k in level]).reshape(-1, 3) / 255
    figure, ((bars, places, extents),) = _figure(1, 3, (15, 4.6))
    counts = np.bincount(level, minlength=len(LEVELS))
    bars.bar(range(len(LEVELS)), counts, color=np.array([LEVEL_COLOURS[name] for name in LEVELS]) / 255)
    bars.set_xticks(range(len(LEVELS)), LEVELS, rotation=90, fontsize=8)
    _plain(bars, f"{len(level)} vertebrae on {len(scores.films)} films", "", "films")
    for axes, points, title, words in (
        (places, centre, "centres, share of the film", ("across", "down")),
        (extents, size, "box sizes, share of the film", ("width", "height")),
    ):
        axes.scatter(points[:, 0], points[:, 1], s=5, c=colours, linewidths=0)
        _plain(axes, title, *words)
    places.set_xlim(0, 1)
    places.set_ylim(1, 0)
    extents.set_xlim(left=0)
    extents.set_ylim(bottom=0)
    _save(figure, path)


def draw_names(scores: Scores, path: Path) -> None:
    """Draw for each level the share that bears its name, before and after ordering, with Wilson intervals."""
    figure, ((axes,),) = _figure(1, 1, (11, 4.4))
    for offset, stage, colour in ((-0.16, "before", COLOURS[1]), (0.16, "after", COLOURS[0])):
        right = _right_by_level(scores, stage)
        places = [place + offset for place in range(len(right))]
        found = [wilson_interval(*counts) for counts in right.values()]
        low = [value.estimate - value.low for value in found]
        high = [value.high - value.estimate for value in found]
        rate = scores.rates(stage)["identification"]["value"]
        axes.errorbar(
            places, [value.estimate for value in found], [low, high], fmt="o", color=colour, markersize=5,
            elinewidth=1, label=f"{stage} ordering: {rate:.3f} of all",
        )  # fmt: skip
    axes.set_xticks(range(len(right)), [LEVELS[level] for level in right], fontsize=9)
    _plain(axes, "true vertebrae that are found and bear the right name (95 % intervals)", "", "")
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1, 1.13), ncols=2)
    _save(figure, path)


def _right_by_level(scores: Scores, stage: str) -> Mapping[int, tuple[int, int]]:
    """For each level that occurs: how many bear the right name, and how many there are."""
    right, there = np.zeros(len(LEVELS), int), np.zeros(len(LEVELS), int)
    for scored in scores.films:
        found, truth = scored.names[stage]
        pairs = pair(found.boxes_px, truth.boxes_px)
        hit = pairs >= 0
        hit[hit] = found.labels[pairs[hit]] == truth.labels[hit]
        np.add.at(there, truth.labels, 1)
        np.add.at(right, truth.labels[hit], 1)
    return {int(level): (int(right[level]), int(there[level])) for level in np.flatnonzero(there)}


def draw_film(scored: Scored, path: Path) -> None:
    """Draw one film as it is labelled, beside it what was found, and say how many names are right."""
    naming, picture = scored.naming("after"), read_radiograph(scored.film.image).array
    title = f"{scored.film.image.name}: {naming.right} of {naming.vertebrae} right, {naming.found} found"
    sides = [
        draw_vertebrae(picture, _as_labelled(scored), title="as labelled"),
        draw_vertebrae(picture, scored.result, title=title),
    ]
    page = Image.new("RGB", (sum(side.width for side in sides), max(side.height for side in sides)), PAGE)
    for side, left in zip(sides, (0, sides[0].width), strict=True):
        page.paste(side, (left, 0))
    with whole(path) as aside:
        page.save(aside)


def _as_labelled(scored: Scored) -> SpineResult:
    """Return a film's labels in the form of a result."""
    labels, shares = read_labels(scored.film.label)
    down, film = np.argsort(labels), scored.result
    polygons = tuple((shares[k] * [film.width_px, film.height_px]).astype(np.float32) for k in down)
    boxes = np.array([[*p.min(axis=0), *p.max(axis=0)] for p in polygons], np.float32).reshape(-1, 4)
    names = dict(enumerate(LEVELS))
    return SpineResult(
        boxes, np.ones(len(down), np.float32), labels[down], names, film.width_px, film.height_px, polygons,
        raw_labels=tuple(LEVELS[labels[k]] for k in down),
    )  # fmt: skip


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _finish(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    _plain(axes, title, across, up)


def _plain(axes: Any, title: str, across: str, up: str) -> None:
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(up, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as aside:
        figure.savefig(aside, dpi=130, format="png")
