"""What a run's network finds on held-out pictures, in one sheet: blue predicted, red true."""

from __future__ import annotations

from collections.abc import Sequence
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


def draw_examples(
    names: Sequence[str], pictures: Sequence[PictureArray], compared: Sequence[Compared], path: Path
) -> None:
    """Write a PNG of pictures with their boxes; each predicted one has its score beside it.

    Of the predicted boxes those of score 0.1 or more are shown, the best five of a picture.
    """
    rows = -(-len(pictures) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * SIDE_INCHES, rows * (SIDE_INCHES + 0.25)), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("blue: predicted, with its score     red: true", fontsize=9)
    axes = np.asarray(figure.subplots(rows, COLUMNS, squeeze=False)).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, name, picture, one in zip(axes, names, pictures, compared, strict=False):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=1)
        axis.set_title(Path(name).name[:28], fontsize=7)
        _outline(axis, one.truth_px, TRUE)
        order = np.argsort(-one.found.scores)[:MOST_BOXES]
        shown = order[one.found.scores[order] >= LEAST_SCORE]
        _outline(axis, one.found.boxes_px[shown], PREDICTED)
        for box, score in zip(one.found.boxes_px[shown], one.found.scores[shown], strict=True):
            axis.text(box[0], box[1] - 4, f"{score:.2f}", color=PREDICTED, fontsize=6)
    with whole(path) as aside:
        figure.savefig(aside, dpi=130, format="png")


def _outline(axis: Axes, boxes: Boxes, colour: str) -> None:
    for x1, y1, x2, y2 in boxes:
        axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.2))
