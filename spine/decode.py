"""From the network's raw head to vertebra candidates on the film: boxes, all 24 scores of each, masks and outlines.

The file computes four maps and no more: for every place of its three grids (strides 8, 16 and 32) the distributions of
the distances to the box's four sides, the logits of 24 levels and the mask coefficients; and the prototypes of masks.
What follows concerns the few places that may be vertebrae, and is done here in numpy. A test holds it equal to
ultralytics' own result with ``agnostic_nms=True, retina_masks=True``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from shared.boxes import nms
from shared.types import Boxes, Polygon
from spine.masks import Coefficients, Mask, MaskDecoder
from spine.preprocess import Letterbox

OUTPUTS = ("distances", "logits", "coefficients", "prototypes")
"""Names of the network's outputs, in order."""

STRIDES_PX = (8, 16, 32)
BINS = 16  # of each distance's distribution, in strides (Li et al., Generalized Focal Loss, NeurIPS 2020)
MAX_CANDIDATES = 300  # ultralytics' max_det


@dataclass(frozen=True, slots=True)
class Candidates:
    """What may be a vertebra, best first: boxes in pixels of the film, a score in 0..1 for each of the 24 levels.

    ``outline(k)`` draws the outline of one's mask, its largest piece without holes; most candidates need none.
    """

    boxes_px: Boxes
    scores: Float32[np.ndarray, "n 24"]
    masks: tuple[Mask, ...]
    outline: Callable[[int], Polygon]

    @property
    def confidences(self) -> Float32[np.ndarray, " n"]:
        """The highest score of each."""
        best: Float32[np.ndarray, " n"] = self.scores.max(axis=1)
        return best

    @property
    def centres_px(self) -> Float32[np.ndarray, "n 2"]:
        """The boxes' centres, ``x y``."""
        centres: Float32[np.ndarray, "n 2"] = (self.boxes_px[:, :2] + self.boxes_px[:, 2:]) / 2
        return centres

    @property
    def sizes_px(self) -> Float32[np.ndarray, " n"]:
        """Square roots of the boxes' areas."""
        sizes: Float32[np.ndarray, " n"] = np.sqrt((self.boxes_px[:, 2:] - self.boxes_px[:, :2]).prod(axis=1))
        return sizes

    def above(self, confidence: float) -> Candidates:
        """Return those whose best score is above ``confidence``: what decoding with it would give."""
        kept = np.flatnonzero(self.confidences > confidence)
        return Candidates(
            self.boxes_px[kept],
            self.scores[kept],
            tuple(self.masks[k] for k in kept),
            lambda k: self.outline(kept[k]),
        )

    def __len__(self) -> int:
        return len(self.scores)


def decode(
    outputs: Sequence[np.ndarray], letterbox: Letterbox, confidence: float, iou: float, limit: int = MAX_CANDIDATES
) -> Candidates:
    """Return the candidates of one film whose best score is above ``confidence``, no two alike.

    Of boxes that share more than ``iou`` the better one stays, whatever their levels: a vertebra is one thing with
    24 scores. One whose mask is empty is none.

    Args:
        outputs: the network's, in the order of ``OUTPUTS``, of a batch of one.
        letterbox: how the film lies on the network's input.
        confidence: what the best of a candidate's scores must exceed.
        iou: intersection over union from which on two boxes are the same vertebra.
        limit: at most so many.
    """
    distances, logits, coefficients, prototypes = (output[0] for output in outputs)
    places = np.flatnonzero(logits.max(axis=0) > _logit(confidence) - 1e-3)
    scores = 1 / (1 + np.exp(-logits[:, places].T.clip(-80)))  # below, float32 has no exponential
    best = scores.max(axis=1)
    order = np.argsort(-best, kind="stable")
    order = order[best[order] > confidence]
    places, scores = places[order], scores[order]
    boxes = input_boxes(distances[:, places], places, letterbox)
    kept = nms(boxes, iou, limit)
    film = letterbox.to_film(boxes[kept])
    own: Coefficients = np.ascontiguousarray(coefficients[:, places[kept]].T)
    decoder = MaskDecoder(prototypes, letterbox)
    masks = decoder.masks(film, own)
    shown = [k for k, mask in enumerate(masks) if mask.inside.any()]
    film, own = film[shown], own[shown]
    return Candidates(
        film, scores[kept][shown], tuple(masks[k] for k in shown), lambda k: decoder.outline(film[k], own[k])
    )


def with_mirrored(
    outputs: Sequence[np.ndarray], mirrored: Sequence[np.ndarray], letterbox: Letterbox
) -> tuple[np.ndarray, ...]:
    """Average a film's outputs with those of its mirror image, place by place: distances and logits.

    Left and right change sides. Masks are the film's own: coefficients mean nothing without their prototypes.
    """
    distances, logits, coefficients, prototypes = outputs
    sides = _mirrored(mirrored[0], letterbox).reshape(1, 4, BINS, -1)[:, [2, 1, 0, 3]].reshape(distances.shape)
    return (distances + sides) / 2, (logits + _mirrored(mirrored[1], letterbox)) / 2, coefficients, prototypes


def _mirrored(output: Float32[np.ndarray, "1 channel place"], letterbox: Letterbox) -> np.ndarray:
    """Turn each grid of an output left to right."""
    shapes = [(letterbox.input_height_px // stride, letterbox.input_width_px // stride) for stride in STRIDES_PX]
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]
    grids = [
        grid.reshape(*grid.shape[:2], *shape)[..., ::-1].reshape(grid.shape)
        for grid, shape in zip(np.split(output, ends, axis=2), shapes, strict=True)
    ]
    return np.concatenate(grids, axis=2)


def input_boxes(distances: Float32[np.ndarray, "64 n"], places: Int64[np.ndarray, " n"], letterbox: Letterbox) -> Boxes:
    """Return boxes ``x1 y1 x2 y2`` in pixels of the network's input.

    Each distance, from a place's centre to the box's left, top, right or bottom, is the mean of its distribution over
    0, 1, ..., 15 strides.
    """
    odds = distances.reshape(4, BINS, -1)
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    left, top, right, bottom = np.einsum("sbn,b->sn", shares, np.arange(BINS, dtype=np.float32))
    x, y, stride = grid_places(letterbox.input_width_px, letterbox.input_height_px)[:, places]
    boxes: Boxes = (np.stack([x - left, y - top, x + right, y + bottom], axis=1) * stride[:, None]).astype(np.float32)
    return boxes


def grid_places(width_px: int, height_px: int) -> Float32[np.ndarray, "3 n"]:
    """Return column and row of every place's centre, in strides, and its stride: grid by grid, row by row."""
    grids = []
    for stride in STRIDES_PX:
        y, x = np.indices((height_px // stride, width_px // stride), np.float32).reshape(2, -1) + 0.5
        grids.append(np.stack([x, y, np.full_like(x, stride)]))
    return np.concatenate(grids, axis=1).astype(np.float32)


def _logit(probability: float) -> float:
    if not 0 < probability < 1:
        return -math.inf if probability <= 0 else math.inf
    return math.log(probability / (1 - probability))
