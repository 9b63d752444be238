"""Figures of an evaluation: curves, how the scores are distributed, and the worst pictures (blue found, red true)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from PIL import Image

from bones.evaluate_gate import Decided, GateScores
from bones.masks import bone_mask
from bones.scores import Scored, Scores, surest_ious
from bones.train_pictures import PREDICTED, TRUE
from shared.draw_detections import draw_detections
from shared.figures import COLOURS, FAINT, Strip, draw_strip
from shared.io.atomic import whole
from shared.io.radiograph import read_radiograph
from shared.metrics.detection import froc, precision_recall

FROC_FROM, FROC_TO = 0.05, 10.0  # false boxes per picture that are drawn
LEAST_SHOWN = 5  # of a worst picture's boxes that reach no operating point


def draw_all(scores: Scores, out: Path) -> list[Path]:
    """Draw every figure of a detector into ``out`` and return their files."""
    files = [out / "curves.png", out / "scores.png"]
    draw_curves(scores, files[0])
    draw_distribution(scores, files[1])
    for scored in scores.worst():
        path = _worst(out, scored.case.name)
        draw_case(scored, scores.middle, path)
        files.append(path)
    return files


def draw_gate(scores: GateScores, out: Path) -> list[Path]:
    """Draw every figure of a gate into ``out`` and return their files."""
    files = [out / "scores.png"]
    draw_decisions(scores, files[0])
    for decided in scores.worst():
        path = _worst(out, decided.case.name)
        draw_mask(decided, path)
        files.append(path)
    return files


def draw_curves(scores: Scores, path: Path) -> None:
    """Draw precision against recall, FROC, and sensitivity and specificity per picture at the operating points."""
    matched, summary = scores.matched(), scores.summary()
    figure, (left, middle, right) = _figure(3, (14, 4.4))
    figure.suptitle(
        f"{summary['pictures']} pictures, {summary['with_boxes']} with {summary['true_boxes']} true boxes; IoU 0.5",
        fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    curve = precision_recall(matched)
    left.plot(curve.recall, curve.precision, color=COLOURS[0], linewidth=1.6)
    interval = summary["ap50_interval_95"]
    told = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval and np.isfinite(interval).all() else ""
    _finish(left, f"AP50 {summary['ap50']:.3f}{told}", "recall", "precision")
    points = froc(matched, tuple(np.geomspace(FROC_FROM, FROC_TO, 200)))
    middle.plot(
        np.geomspace(FROC_FROM, FROC_TO, 200), [point.sensitivity for point in points], color=COLOURS[0], linewidth=1.6
    )
    middle.set_xscale("log")
    _finish(middle, "free-response ROC", "false boxes per picture", "true boxes found", (FROC_FROM, FROC_TO))
    middle.set_xticks([0.1, 0.5, 1, 2, 4, 8], ["0.1", "0.5", "1", "2", "4", "8"])
    for (name, point), marker in zip(summary["operating_points"].items(), "osd^", strict=False):
        reached = curve.scores >= point["score"]
        if reached.any():
            last = int(reached.sum()) - 1
            left.plot(curve.recall[last], curve.precision[last], marker, color=COLOURS[1], label=name)
        if point["false_boxes_per_picture"] >= FROC_FROM and summary["true_boxes"]:
            middle.plot(point["false_boxes_per_picture"], point["true_boxes_found"], marker, color=COLOURS[1])
    if left.get_legend_handles_labels()[0]:  # none where nothing reaches any point
        left.legend(frameon=False, fontsize=9, loc="upper right")
    _draw_rates(right, summary["operating_points"])
    _save(figure, path)


def _draw_rates(axes: Any, points: dict[str, Any]) -> None:
    """Draw sensitivity and specificity per picture with their intervals."""
    for offset, rate, colour in ((-0.1, "sensitivity", COLOURS[0]), (0.1, "specificity", COLOURS[2])):
        for place, point in enumerate(points.values()):
            value, (low, high) = point[rate]["value"], point[rate]["interval_95"]
            if np.isfinite(value):
                axes.errorbar(
                    place + offset, value, [[value - low], [high - value]], fmt="o", color=colour, elinewidth=1,
                    label=f"{rate} ({point[rate]['pictures']} pictures)" if place == 0 else None,
                )  # fmt: skip
    axes.set_xticks(range(len(points)), list(points))
    _finish(axes, "per picture, 95 % intervals", "", "", (-0.5, len(points) - 0.5))
    axes.legend(*axes.get_legend_handles_labels(), frameon=False, fontsize=9, loc="lower left")


def draw_distribution(scores: Scores, path: Path) -> None:
    """Draw the best score of each picture, the IoU of each true box's match, and that against the box's size."""
    figure, (left, middle, right) = _figure(3, (14, 4.4))
    broken = [len(scored.compared.truth_labels) > 0 for scored in scores.pictures]
    for place, wanted in enumerate((True, False)):
        best = [_best(scored) for scored, is_broken in zip(scores.pictures, broken, strict=True) if is_broken is wanted]
        aside = np.random.default_rng(0).uniform(-0.16, 0.16, len(best))
        left.scatter(place + aside, best, s=14, alpha=0.7, linewidths=0, color=COLOURS[place])
    left.set_xticks([0, 1], [f"{broken.count(True)} with a true box", f"{broken.count(False)} without"])
    for name, score in scores.points.items():
        left.axhline(score, color=FAINT, linewidth=0.8, linestyle=":")
        left.text(1.48, score, name, fontsize=8, color=FAINT, ha="right", va="bottom")
    _finish(left, "best score of each picture", "", "", (-0.5, 1.5))
    ious, sides = _ious_and_sides(scores)
    middle.hist(ious, bins=np.linspace(0, 1, 21).tolist(), color=COLOURS[0])
    mean = f", mean {ious.mean():.3f}" if len(ious) else ""
    _plain(middle, f"IoU of each true box with the surest that touches it{mean}", "IoU", "true boxes")
    middle.set_xlim(0, 1)
    middle.yaxis.set_major_locator(MaxNLocator(integer=True))
    right.scatter(sides, ious, s=14, alpha=0.7, linewidths=0, color=COLOURS[0])
    right.set_xscale("log")
    right.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.xaxis.set_major_formatter("{x:.0f}")
    right.xaxis.set_minor_formatter("")
    _plain(right, "the same by the size of the true box", "square root of its area, px", "IoU")
    right.set_ylim(-0.02, 1.02)
    _save(figure, path)


def _best(scored: Scored) -> float:
    scores = scored.compared.found.scores
    return float(scores.max()) if len(scores) else 0.0


def _ious_and_sides(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Return for every true box the IoU with the surest box that touches it, and its mean side, px."""
    ious, sides = [np.zeros(0)], [np.zeros(0)]
    for scored in scores.pictures:
        ious.append(surest_ious(scored.compared))
        wide, high = (scored.compared.truth_px[:, 2:] - scored.compared.truth_px[:, :2]).T
        sides.append(np.sqrt(wide * high))
    return np.concatenate(ious), np.concatenate(sides)


def draw_case(scored: Scored, score: float, path: Path) -> None:
    """Draw one picture's boxes: blue those found, red the true ones; of weak ones only the best few."""
    found = scored.compared.found
    order = np.argsort(-found.scores, kind="stable")
    kept = order[: max(int((found.scores >= score).sum()), LEAST_SHOWN)]
    shown = found.take(kept)
    title = f"{Path(scored.case.name).name}: {len(scored.compared.truth_labels)} true, " + (
        f"{int((found.scores >= score).sum())} found with a score of {score:.2f} or more"
    )
    image = draw_detections(
        read_radiograph(scored.case.picture).array, shown, title=title, caption="blue: found, red: true",
        colours=dict.fromkeys(found.names.values(), _rgb(PREDICTED)), truth_px=scored.compared.truth_px,
    )  # fmt: skip
    with whole(path) as aside:
        image.save(aside)


def draw_decisions(scores: GateScores, path: Path) -> None:
    """Draw the IoU of every mask, and what the decisions were made of."""
    figure, (left, right) = _figure(2, (9, 4.4))
    drawn = [picture for picture in scores.pictures if picture.iou is not None]
    names = [Path(picture.case.name).stem[:24] for picture in drawn]
    draw_strip(left, Strip("IoU of bone", {"": [float(picture.iou or 0) for picture in drawn]}, names))
    kinds = (("bone", True, COLOURS[0]), ("no radiograph", False, COLOURS[1]), ("not known", None, FAINT))
    for name, bone, colour in kinds:
        for passed, marker in ((True, "o"), (False, "x")):
            some = [one.decision for one in scores.pictures if one.bone is bone and one.decision.passed is passed]
            if some:
                right.scatter(
                    [one.area_fraction for one in some], [one.confidence for one in some], s=18, marker=marker,
                    color=colour, alpha=0.8, linewidths=1, label=f"{name}, {'passes' if passed else 'turned away'}",
                )  # fmt: skip
    _plain(right, f"{len(scores.pictures)} decisions", "share of the picture marked as bone", "mean probability there")
    right.legend(frameon=False, fontsize=8)
    _save(figure, path)


def draw_mask(decided: Decided, path: Path) -> None:
    """Draw one picture with the outlines of found and true bone."""
    picture = read_radiograph(decided.case.picture).array
    height, width = picture.shape
    found = np.asarray(Image.fromarray(decided.decision.mask).resize((width, height), Image.Resampling.NEAREST))
    true = bone_mask(decided.case)
    figure = Figure(figsize=(7, 7 * min(height / width, 1.6) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()
    for mask, colour in ((true, TRUE), (found, PREDICTED)):
        if mask is not None and mask.any() and not mask.all():
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=1.2)
    agreed = "" if decided.iou is None else f", IoU {decided.iou:.3f}"
    axes.set_title(
        f"{Path(decided.case.name).name}{agreed}: {'passes' if decided.decision.passed else 'turned away'}\n"
        f"{decided.decision.reason}     blue: found, red: true", fontsize=9, loc="left",
    )  # fmt: skip
    _save(figure, path)


def _worst(out: Path, name: str) -> Path:
    return out / f"worst-{Path(name).with_suffix('').as_posix().replace('/', '-')}.png"


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _figure(columns: int, size: tuple[float, float]) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns)


def _finish(axes: Any, title: str, across: str, up: str, limits: tuple[float, float] = (0, 1)) -> None:
    axes.set_xlim(*limits)
    axes.set_ylim(-0.02, 1.02)
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
