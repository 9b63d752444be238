"""Masks and outlines at the film's own resolution, from mask coefficients and prototypes (YOLACT, Bolya et al. 2019).

A vertebra's mask is where the sum of the prototypes, weighted by its coefficients, is above 0 (its logistic function
above 0.5), within its box. Prototypes are coarse, a quarter of the network's input: they are interpolated linearly, in
the two steps in which ultralytics does it with ``retina_masks``, but as two small matrices over the box alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from shared.types import Boxes, Polygon
from spine.preprocess import Letterbox

PROTOTYPE_STRIDE_PX = 4  # of the network's input, for a cell of the prototypes
NODES_PER_CELL = 2  # of the outline's grid: it then strays from the mask's edge by less than a pixel of the film
MIN_CORNERS = 3

Prototypes = Float32[np.ndarray, "k cell_y cell_x"]
Coefficients = Float32[np.ndarray, "n k"]


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask cut to its box: ``inside`` is true on the vertebra, from row ``top_px`` and column ``left_px`` on."""

    left_px: int
    top_px: int
    inside: Bool[np.ndarray, "y x"]

    def paint(self, picture: np.ndarray, value: int) -> None:
        """Set the pixels of ``picture`` (``y x``, the film's size) that lie inside to ``value``."""
        height, width = self.inside.shape
        picture[self.top_px : self.top_px + height, self.left_px : self.left_px + width][self.inside] = value


class MaskDecoder:
    """Gives masks and outlines of boxes on one film."""

    def __init__(self, prototypes: Prototypes, letterbox: Letterbox) -> None:
        self.prototypes = prototypes.transpose(1, 0, 2)  # as matrix products take a stack: y k x
        pad_x = letterbox.input_width_px - letterbox.inner_width_px
        pad_y = letterbox.input_height_px - letterbox.inner_height_px
        # Prototypes are first made finer, by 1, 2 or 4, until the padding's edges fall between two of their cells.
        pad = pad_x | pad_y
        finer = PROTOTYPE_STRIDE_PX // math.gcd(PROTOTYPE_STRIDE_PX, pad | pad // 2)
        cells_y, cells_x = prototypes.shape[1:]
        self.across = _Axis.of(cells_x, finer, letterbox.left_px, letterbox.inner_width_px, letterbox.width_px)
        self.down = _Axis.of(cells_y, finer, letterbox.top_px, letterbox.inner_height_px, letterbox.height_px)

    def masks(self, boxes_px: Boxes, coefficients: Coefficients) -> tuple[Mask, ...]:
        """Return each box's mask: the film's pixels whose top left corner is in the box and whose centre is inside."""
        corners = np.ceil(boxes_px).astype(int)
        columns = self.across.weights(np.arange(self.across.length_px) + 0.5)
        rows = self.down.weights(np.arange(self.down.length_px) + 0.5)
        found = []
        for (left, top, right, bottom), own in zip(corners, coefficients, strict=True):
            inside = self._logits(own, rows[top:bottom], columns[left:right]) > 0
            found.append(Mask(int(left), int(top), inside))
        return tuple(found)

    def outline(self, box_px: Float32[np.ndarray, " 4"], own: Float32[np.ndarray, " k"]) -> Polygon:
        """Return the outline of one box's mask, ``x y`` in pixels of the film: its largest piece, holes left out.

        It runs where the interpolated sum is 0, to a fraction of a pixel, and along the box where that cuts it. A mask
        that is nowhere gives no corners.
        """
        from skimage.measure import find_contours

        x, y = self.across.nodes(box_px[0], box_px[2]), self.down.nodes(box_px[1], box_px[3])
        logits = self._logits(own, self.down.weights(y), self.across.weights(x))
        # Around the box a frame without any width, outside: so the outline closes along the box's edge.
        framed = np.full((len(y) + 2, len(x) + 2), min(-1e-6, float(logits.min())))
        framed[1:-1, 1:-1] = logits
        pieces = find_contours(framed, 0.0)  # type: ignore[no-untyped-call]
        if not pieces:
            return np.zeros((0, 2), np.float32)
        places = max(pieces, key=_area)  # the last corner is the first again
        corners = np.stack([_at(places[:, 1] - 1, x), _at(places[:, 0] - 1, y)], axis=1).astype(np.float32)
        polygon: Polygon = corners[:-1][(corners[1:] != corners[:-1]).any(axis=1)]
        return polygon if len(polygon) >= MIN_CORNERS else np.zeros((0, 2), np.float32)

    def _logits(
        self, own: Float32[np.ndarray, " k"], rows: Float32[np.ndarray, "y cell_y"],
        columns: Float32[np.ndarray, "x cell_x"],
    ) -> Float32[np.ndarray, "y x"]:  # fmt: skip
        """Interpolate the weighted sum of the prototypes; only the cells that bear on it are summed."""
        if not len(rows) or not len(columns):
            return np.zeros((len(rows), len(columns)), np.float32)
        y, x = _span(rows), _span(columns)
        part = own @ self.prototypes[y, :, x]
        logits: Float32[np.ndarray, "y x"] = rows[:, y] @ part @ columns[:, x].T
        return logits


@dataclass(frozen=True, slots=True)
class _Axis:
    """How places along one axis of the film depend on the prototypes' cells."""

    finer_from_cells: Float32[np.ndarray, "fine cell"]
    first: int
    """The film's first fine cell; those before it are padding."""
    count: int
    """Fine cells of the film."""
    length_px: int

    @classmethod
    def of(cls, cells: int, finer: int, pad_px: int, inner_px: int, length_px: int) -> _Axis:
        matrix = np.eye(cells, dtype=np.float32)
        if finer > 1:
            matrix = _interpolated(matrix, (np.arange(cells * finer) + 0.5) / finer)
        share = finer / PROTOTYPE_STRIDE_PX
        return cls(matrix, round(pad_px * share), max(round(inner_px * share), 1), length_px)

    def weights(self, places_px: Float[np.ndarray, " n"]) -> Float32[np.ndarray, "n cell"]:
        """Return how much each cell counts at these places of the film, in pixels from its edge."""
        film = self.finer_from_cells[self.first : self.first + self.count]
        return _interpolated(film, places_px * (self.count / self.length_px))

    def nodes(self, start_px: float, stop_px: float) -> Float[np.ndarray, " n"]:
        """Return places from start to stop, both included, ``NODES_PER_CELL`` for a cell."""
        cell_px = self.length_px * len(self.finer_from_cells) / self.finer_from_cells.shape[1] / self.count
        return np.linspace(start_px, stop_px, 2 + math.ceil((stop_px - start_px) / cell_px * NODES_PER_CELL))


def _interpolated(
    values: Float32[np.ndarray, "cell column"], places: Float[np.ndarray, " n"]
) -> Float32[np.ndarray, "n column"]:
    """Interpolate rows linearly at places in cells, whose centres are at 0.5, 1.5, ...; beyond the ends the end row."""
    place = (places - 0.5).clip(0, len(values) - 1)
    first = np.minimum(place.astype(np.int64), max(len(values) - 2, 0))
    share = (place - first).astype(np.float32)[:, None]
    second = np.minimum(first + 1, len(values) - 1)
    result: Float32[np.ndarray, "n column"] = values[first] * (1 - share) + values[second] * share
    return result


def _span(weights: Float32[np.ndarray, "n cell"]) -> slice:
    """The cells that count between the first place and the last."""
    return slice(int(np.flatnonzero(weights[0])[0]), int(np.flatnonzero(weights[-1])[-1]) + 1)


def _at(places: Float[np.ndarray, " n"], nodes_px: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Turn places between nodes, counted from 0, into pixels; the frame lies on the ends."""
    pixels: Float[np.ndarray, " n"] = np.interp(places, np.arange(len(nodes_px)), nodes_px)
    return pixels


def _area(outline: Float[np.ndarray, "corner 2"]) -> float:
    """Return the area inside a closed line (the shoelace formula)."""
    y, x = outline.T
    return float(abs(x[:-1] @ y[1:] - x[1:] @ y[:-1]) / 2)


def mask_of(polygon_px: Polygon, width_px: int, height_px: int) -> Mask:
    """Return the pixels of a film whose centres lie inside a polygon."""
    from skimage.draw import polygon as pixels_inside

    low = np.floor(polygon_px.min(axis=0)).clip(0, (width_px, height_px)).astype(int)
    high = np.ceil(polygon_px.max(axis=0)).clip(0, (width_px, height_px)).astype(int)
    inside = np.zeros((high - low)[::-1], bool)
    x, y = (polygon_px - low - 0.5).T
    inside[pixels_inside(y, x, inside.shape)] = True  # type: ignore[no-untyped-call]
    return Mask(int(low[0]), int(low[1]), inside)


def mask_overlaps(found: Sequence[Mask], truth: Sequence[Mask]) -> Float64[np.ndarray, "n m"]:
    """Return the pixels that each pair of masks shares over those that either has; 0 where neither has any."""
    ious = np.zeros((len(found), len(truth)))
    areas = [int(mask.inside.sum()) for mask in truth]
    for row, one in enumerate(found):
        area = int(one.inside.sum())
        for column, other in enumerate(truth):
            shared = _shared(one, other)
            if shared:
                ious[row, column] = shared / (area + areas[column] - shared)
    return ious


def _shared(one: Mask, other: Mask) -> int:
    left, top = max(one.left_px, other.left_px), max(one.top_px, other.top_px)
    right = min(one.left_px + one.inside.shape[1], other.left_px + other.inside.shape[1])
    bottom = min(one.top_px + one.inside.shape[0], other.top_px + other.inside.shape[0])
    if right <= left or bottom <= top:
        return 0
    parts = (
        mask.inside[top - mask.top_px : bottom - mask.top_px, left - mask.left_px : right - mask.left_px]
        for mask in (one, other)
    )
    return int(np.logical_and(*parts).sum())
