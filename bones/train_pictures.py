"""What a run's network finds on held-out pictures, in one sheet: blue predicted, red true."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from shared.io.atomic import whole
from shared.metrics.detection import Compared
from shared.types import Boxes, PictureArray

PREDICTED, TRUE = "#4c8dff", "#ff4040"
COLUMNS, SIDE_INCHES = 4, 2.6
LEAST_SCORE, MOST_BOXES = 0.1, 5  # weaker ones would hide the picture


def draw_boxes(
    names: Sequence[str], pictures: Sequence[PictureArray], compared: Sequence[Compared], path: Path
) -> None:
    """Write a PNG of pictures with their boxes; each predicted one has its score beside it.

    Of the predicted boxes those of score 0.1 or more are shown, the best five of a picture.
    """
    with _sheet(names, pictures, "blue: predicted, with its score     red: true", path) as axes:
        for axis, one in zip(axes, compared, strict=True):
            _outline(axis, one.truth_px, TRUE)
            order = np.argsort(-one.found.scores)[:MOST_BOXES]
            shown = order[one.found.scores[order] >= LEAST_SCORE]
            _outline(axis, one.found.boxes_px[shown], PREDICTED)
            for box, score in zip(one.found.boxes_px[shown], one.found.scores[shown], strict=True):
                axis.text(box[0], box[1] - 4, f"{score:.2f}", color=PREDICTED, fontsize=6)


def draw_masks(names: Sequence[str], masked: Sequence[tuple[PictureArray, np.ndarray, np.ndarray]], path: Path) -> None:
    """Write a PNG of pictures with the outlines of their masks, the predicted and the true one of each."""
    with _sheet(names, [picture for picture, _, _ in masked], "blue: predicted     red: true", path) as axes:
        for axis, (_, found, true) in zip(axes, masked, strict=True):
            for mask, colour in ((true, TRUE), (found, PREDICTED)):
                if mask.any() and not mask.all():
                    axis.contour(mask, levels=[0.5], colors=[colour], linewidths=0.9)


@contextmanager
def _sheet(names: Sequence[str], pictures: Sequence[PictureArray], said: str, path: Path) -> Iterator[list[Axes]]:
    """Give axes that show each picture under its name, and write the sheet when they are drawn upon."""
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * SIDE_INCHES, rows * (SIDE_INCHES + 0.25)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(said, fontsize=9)
    axes = list(np.asarray(figure.subplots(rows, COLUMNS, squeeze=False)).ravel())
    for axis in axes:
        axis.set_axis_off()
    for axis, name, picture in zip(axes, names, pictures, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(Path(name).name[:28], fontsize=7)
    yield axes[: len(pictures)]
    with whole(path) as aside:
        figure.savefig(aside, dpi=130, format="png")


def _outline(axis: Axes, boxes: Boxes, colour: str) -> None:
    for x1, y1, x2, y2 in boxes:
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
