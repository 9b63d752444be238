"""From what a detector computes to boxes: SSD's default boxes, their decoding and NMS, and outlines of masks.

In numpy, and the same as torchvision's to a fraction of a pixel (a test compares them), so that prediction needs no
torch. Boxes are ``x1 y1 x2 y2`` in pixels of the network's square input.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Int64

from bones.preprocess import boxes_to_picture
from shared.boxes import nms
from shared.config import Config as FrozenConfig
from shared.errors import SetupError
from shared.types import Boxes, Polygon

DELTA_SCALE = np.array([10, 10, 5, 5], np.float32)  # SSD's variances 0.1 and 0.2 (Liu et al. 2016, its code)
MAX_LOG_GROWTH = math.log(1000 / 16)  # torchvision's BoxCoder: exp() of more is cut
MASK_EDGE = 0.5  # probability where an outline is drawn, as torchvision's Mask R-CNN examples do
OUTLINE_TOLERANCE_CELLS = 0.1  # of the mask's cells: corners that change an outline by less are left out


class Anchors(FrozenConfig):
    """SSD's default boxes as data: everything from which a model file's reader computes them anew."""

    grids: tuple[tuple[int, int], ...]
    """Rows and columns of each feature map."""
    aspect_ratios: tuple[tuple[float, ...], ...]
    """Of each map, beside the square; each ratio gives a wide and a high box."""
    scales: tuple[float, ...]
    """Size of each map's boxes as a share of the picture, and one more for the last map's larger square."""
    steps_px: tuple[float, ...] | None = None
    """Distance of neighbouring centres on each map; the picture's size over the grid's where None."""


class Selection(FrozenConfig):
    """Which boxes of an SSD are kept; the defaults are torchvision's."""

    score_threshold: float = 0.01
    candidates: int = 400
    """Of each label, the best that enter NMS."""
    nms_iou: float = 0.45
    max_detections: int = 200


YOLO_SELECTION = Selection(score_threshold=0.001, candidates=2000, nms_iou=0.7, max_detections=300)
"""As ultralytics validates (its cfg/default.yaml), but for fewer candidates: those left out score next to nothing."""


class Found(NamedTuple):
    """Boxes on the network's square, best score first; ``polygons_px`` where the network draws masks."""

    boxes_px: Boxes
    scores: Float32[np.ndarray, " n"]
    labels: Int64[np.ndarray, " n"]
    polygons_px: tuple[Polygon, ...] | None = None


Decoder: TypeAlias = Callable[[Sequence[np.ndarray], float], Found]
"""Turns a network's outputs for one picture into what scores so much or more."""


def decoder_of(kind: str, size_px: int, anchors: Anchors | None, selection: Selection) -> Decoder:
    """Return how the outputs of a detector of this kind become boxes.

    Raises:
        SetupError: there is no such kind, or an SSD without its anchors.
    """
    if kind == "maskrcnn":
        return decode_instances
    if kind == "yolo":
        return lambda outputs, threshold: decode_yolo(outputs[0][0], threshold, size_px, selection)
    if kind != "ssd300_vgg16" or anchors is None:
        raise SetupError(
            f"a detector of kind {kind}{'' if anchors else ' without anchors'} cannot be used; export it again"
        )
    ssd = SsdDecoder.of(anchors, size_px, selection)
    return lambda outputs, threshold: ssd(outputs[0][0], outputs[1][0], threshold)


def to_picture(found: Found, size_px: int, width_px: int, height_px: int) -> Found:
    """Bring what was found on the square of ``size_px`` back to the picture of ``width_px`` by ``height_px``."""
    scale = np.array([width_px, height_px], np.float32) / size_px
    polygons = None if found.polygons_px is None else tuple(polygon * scale for polygon in found.polygons_px)
    boxes = boxes_to_picture(found.boxes_px, size_px, width_px, height_px)
    return found._replace(boxes_px=boxes, polygons_px=polygons)


@dataclass(frozen=True)
class SsdDecoder:
    """Turns an SSD's logits and deltas into boxes; the default boxes are computed once."""

    default_boxes_px: Boxes
    size_px: int
    selection: Selection

    @classmethod
    def of(cls, anchors: Anchors, size_px: int, selection: Selection | None = None) -> SsdDecoder:
        """Make the decoder of a network with these ``anchors`` and an input of ``size_px`` squared."""
        return cls(default_boxes(anchors, size_px), size_px, selection or Selection())

    def __call__(
        self,
        logits: Float32[np.ndarray, "anchor label"],
        deltas: Float32[np.ndarray, "anchor 4"],
        threshold: float = 0.0,
    ) -> Found:
        """Return what scores ``threshold`` or more, and more than the selection's; label 0 is the background.

        A higher threshold saves work and changes none of the boxes that reach it: NMS goes from the best score down.
        """
        return _best(
            [self._of_label(logits, deltas, label, threshold) for label in range(1, logits.shape[1])],
            self.selection.max_detections,
        )

    def _of_label(
        self,
        logits: Float32[np.ndarray, "anchor label"],
        deltas: Float32[np.ndarray, "anchor 4"],
        label: int,
        threshold: float,
    ) -> Found:
        # A label's probability is at most what it would be against the background alone; that is cheap to ask of all.
        least = _logit(max(threshold, self.selection.score_threshold)) - 1e-3
        hopeful = np.flatnonzero(logits[:, label] - logits[:, 0] > least)
        scores = _softmax(logits[hopeful])[:, label]
        passed = (scores > self.selection.score_threshold) & (scores >= threshold)
        hopeful, scores = hopeful[passed], scores[passed]
        best = np.argsort(-scores, kind="stable")[: self.selection.candidates]
        boxes = decode_boxes(deltas[hopeful[best]], self.default_boxes_px[hopeful[best]]).clip(0, self.size_px)
        return _apart(boxes, scores[best], label, self.selection)


def default_boxes(anchors: Anchors, size_px: int) -> Boxes:
    """Return SSD's default boxes (Liu et al. 2016, section 2.2), map by map, row by row, as torchvision orders them.

    Each map has, per place, a square of its scale, a square of the geometric mean with the next scale, and two boxes
    for each aspect ratio; sides beyond the picture's are cut to it.
    """
    parts = []
    for index, (rows, columns) in enumerate(anchors.grids):
        scale, following = anchors.scales[index], anchors.scales[index + 1]
        sides = [(scale, scale), (math.sqrt(scale * following),) * 2]
        for ratio in anchors.aspect_ratios[index]:
            wide, high = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            sides += [(wide, high), (high, wide)]
        down, across = (rows, columns) if anchors.steps_px is None else (size_px / anchors.steps_px[index],) * 2
        y, x = np.meshgrid((np.arange(rows) + 0.5) / down, (np.arange(columns) + 0.5) / across, indexing="ij")
        centres = np.stack([x, y], axis=-1).reshape(-1, 1, 2)
        halves = np.clip(sides, 0, 1)[None] / 2
        parts.append(np.concatenate([centres - halves, centres + halves], axis=-1).reshape(-1, 4))
    return (np.concatenate(parts) * size_px).astype(np.float32)


def decode_boxes(deltas: Float32[np.ndarray, "n 4"], default_boxes_px: Boxes) -> Boxes:
    """Move and stretch default boxes by what the network says: centres in their sides, sides in logarithms."""
    sides = default_boxes_px[:, 2:] - default_boxes_px[:, :2]
    centres = default_boxes_px[:, :2] + sides / 2
    moves = deltas / DELTA_SCALE
    centres = centres + moves[:, :2] * sides
    halves = np.exp(np.minimum(moves[:, 2:], np.float32(MAX_LOG_GROWTH))) * sides / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def decode_yolo(
    predictions: Float32[np.ndarray, "value cell"], threshold: float, size_px: int, selection: Selection
) -> Found:
    """Take ultralytics' predictions: each cell's box as centre and size, then the score of each label."""
    every, scores_of_all = predictions[4:], predictions[4:].max(axis=0)
    hopeful = np.flatnonzero((scores_of_all > selection.score_threshold) & (scores_of_all >= threshold))
    hopeful = hopeful[np.argsort(-scores_of_all[hopeful], kind="stable")][: selection.candidates]
    scores, labels = scores_of_all[hopeful], every[:, hopeful].argmax(axis=0) + 1
    centres, halves = predictions[:2, hopeful].T, predictions[2:4, hopeful].T / 2
    boxes = np.concatenate([centres - halves, centres + halves], axis=1)
    parts = []
    for label in range(1, len(every) + 1):
        mine = labels == label
        parts.append(_apart(boxes[mine], scores[mine], label, selection))
    found = _best(parts, selection.max_detections)
    return found._replace(boxes_px=found.boxes_px.clip(0, size_px))  # after NMS, as ultralytics


def _apart(boxes_px: Boxes, scores: Float32[np.ndarray, " n"], label: int, selection: Selection) -> Found:
    """Return what NMS leaves of one label's boxes, given best first."""
    kept = nms(boxes_px, selection.nms_iou)
    return Found(boxes_px[kept], scores[kept], np.full(len(kept), label, np.int64))


def _best(parts: Sequence[Found], count: int) -> Found:
    """Put the labels' boxes together, best first, so many at most."""
    scores = np.concatenate([part.scores for part in parts])
    best = np.argsort(-scores, kind="stable")[:count]
    boxes, labels = (np.concatenate([getattr(p, name) for p in parts])[best] for name in ("boxes_px", "labels"))
    return Found(boxes, scores[best], labels)


def decode_instances(outputs: Sequence[np.ndarray], threshold: float) -> Found:
    """Take what torchvision's Mask R-CNN has selected by itself: boxes, labels, scores, and masks over the boxes."""
    boxes, labels, scores, masks = outputs
    best = np.argsort(-scores, kind="stable")
    best = best[scores[best] >= threshold]
    return Found(boxes[best], scores[best], labels[best], outlines(masks[best, 0], boxes[best]))


def outlines(masks: Float32[np.ndarray, "n y x"], boxes_px: Boxes) -> tuple[Polygon, ...]:
    """Draw the outline of each mask, probabilities on a grid over its box, in the pixels of the box.

    The outline runs where the probability, interpolated between the cells' centres, is a half; of several pieces the
    largest. A mask that nowhere reaches a half has an outline without corners.
    """
    return tuple(_outline(mask, box) for mask, box in zip(masks, boxes_px, strict=True))


def _outline(mask: Float32[np.ndarray, "y x"], box_px: Float32[np.ndarray, " 4"]) -> Polygon:
    from skimage.measure import approximate_polygon, find_contours  # only networks with masks need it

    padded = np.pad(mask.astype(np.float64), 1)  # so that a mask that fills its box has an outline
    pieces = find_contours(padded, MASK_EDGE)  # type: ignore[no-untyped-call]
    if not pieces:
        return np.zeros((0, 2), np.float32)
    closed = approximate_polygon(max(pieces, key=_area), OUTLINE_TOLERANCE_CELLS)  # type: ignore[no-untyped-call]
    cells = closed[:-1]  # the last corner is the first again
    shares = (cells[:, ::-1] - 0.5) / np.array(mask.shape)[::-1]  # a cell's centre lies half a cell in; one is padding
    corners: Polygon = (box_px[:2] + shares.clip(0, 1) * (box_px[2:] - box_px[:2])).astype(np.float32)
    return corners


def _area(outline: np.ndarray) -> float:
    y, x = outline.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def _softmax(logits: Float32[np.ndarray, "n label"]) -> Float32[np.ndarray, "n label"]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    shares: Float32[np.ndarray, "n label"] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))
