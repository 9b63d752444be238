"""What a model's file says of how its candidates are to be taken: from which confidence on, and how far to trust names.

A low confidence lets in faint vertebrae, for which the order of all can make up, and clutter, which can mislead it. A
network that often gives a level its neighbour's name leaves more to order, and so does one that shifts a whole stretch
of names. All this depends on the network, so it is looked up on labelled films that its weights were not trained on:
the trust that finds the true names likeliest, the confidence that gives most vertebrae their name, and the temperature
at which names are as sure as they are right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from shared.io.radiograph import read_radiograph
from shared.types import Boxes
from spine.cases import Film
from spine.config import LEVELS
from spine.decode import Candidates
from spine.evaluate import read_truth
from spine.model_file import OperatingPoint
from spine.order import Naming
from spine.order_model import ClassScores
from spine.predict import Predictor, ordered, tempered, vertebrae_of
from spine.scoring import Named, compare_names, pair

CONFIDENCES = (0.02, 0.03, 0.05, 0.07, 0.1, 0.14, 0.2, 0.257, 0.35, 0.5)


class Trust(NamedTuple):
    """How far names are trusted: the share that is a neighbour's, and how much scores count (`ClassScores`)."""

    neighbour: float
    weight: float


USUAL = Trust(ClassScores.neighbour[1], ClassScores.weight)
"""What the confidence is first looked up with."""
TRUSTS = tuple(Trust(*one) for one in product((0.03, 0.06, 0.12, 0.25, 0.4, 0.5), (1.0, 0.7, 0.5, 0.35)))
TEMPERATURES = tuple(np.geomspace(1, 20, 60).round(2).tolist())
UNLIKELIEST = 1e-6  # no name counts as less likely, or one film would decide on the temperature
SAME = 0.002
"""Shares of right names that differ by less are alike: some films more or less would swap them."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was chosen, and the share of vertebrae with their right name at each confidence with that ``trust``."""

    point: OperatingPoint
    trust: Trust
    temperature: float
    shares: dict[float, float]

    @property
    def name_trust(self) -> dict[str, float]:
        """What a model file says of trust."""
        return {"neighbour": self.trust.neighbour, "score_weight": self.trust.weight, "temperature": self.temperature}


@dataclass(frozen=True, slots=True)
class Tried:
    """One film: what may be a vertebra from the lowest of `CONFIDENCES` on, and the truth."""

    candidates: Candidates
    truth: Named
    width_px: int
    height_px: int

    def ordered(self, trust: Trust, confidence: float) -> tuple[Boxes, Naming]:
        """Return the boxes of the candidates above a confidence and what their order says of each."""
        candidates = self.candidates.above(confidence)
        return candidates.boxes_px, ordered(candidates, self.width_px, self.height_px, *trust)


def choose(
    predictor: Predictor,
    films: Sequence[Film],
    on_case: Callable[[int, str], None] = lambda done, film: None,
    *,
    mirrored: bool = False,
) -> Chosen:
    """Look up the confidence of the default operating point and how far names are trusted and sure; the overlap stays.

    With ``mirrored`` this is for the mean of both views of a film.

    Raises:
        InputError: a film or its labels cannot be used.
    """
    lowest = OperatingPoint(confidence=CONFIDENCES[0], iou=predictor.operating_point.iou)
    tried = []
    for number, film in enumerate(films, start=1):
        radiograph = read_radiograph(film.image)
        truth = read_truth(film, radiograph)
        candidates = predictor.candidates(radiograph, lowest, mirrored=mirrored)
        named_truth = Named(truth.boxes_px, truth.labels)
        tried.append(Tried(candidates, named_truth, radiograph.width_px, radiograph.height_px))
        on_case(number, film.image.name)
    usual = best(shares_right(tried, USUAL))
    trust = min(TRUSTS, key=lambda one: (log_loss(tried, one, usual), one != USUAL))
    shares = shares_right(tried, trust)
    confidence = best(shares)
    point = OperatingPoint(confidence=confidence, iou=lowest.iou)
    return Chosen(point, trust, likeliest_temperature(tried, trust, confidence), shares)


def log_loss(films: Sequence[Tried], trust: Trust, confidence: float) -> float:
    """Return the mean log loss of the true levels of all vertebrae that have a candidate, at its best temperature.

    Which trust gives most right names hangs on two or three films; how likely it holds the truth on all of them.
    """
    rows, true = [np.zeros((0, len(LEVELS)))], [np.zeros(0, np.int64)]
    for film in films:
        boxes, naming = film.ordered(trust, confidence)
        pairs = pair(boxes, film.truth.boxes_px)
        rows.append(naming.posteriors[pairs[pairs >= 0]])
        true.append(film.truth.labels[pairs >= 0])
    posteriors, levels = np.concatenate(rows), np.concatenate(true)
    likely = (tempered(posteriors, one)[np.arange(len(levels)), levels] for one in TEMPERATURES)
    return min(float(-np.log(np.maximum(one, UNLIKELIEST)).sum()) for one in likely) / max(1, len(levels))


def shares_right(
    films: Sequence[Tried], trust: Trust, confidences: Sequence[float] = CONFIDENCES
) -> dict[float, float]:
    """Return, for each confidence, the share of true vertebrae that are found and rightly named."""
    true = sum(len(film.truth.labels) for film in films)
    right = np.zeros(len(confidences))
    for film in films:
        for k, confidence in enumerate(confidences):
            boxes, naming = film.ordered(trust, confidence)
            kept, labels = vertebrae_of(naming)
            right[k] += compare_names(Named(boxes[kept], labels), film.truth).right
    return dict(zip(confidences, (right / max(1, true)).tolist(), strict=True))


def likeliest_temperature(films: Sequence[Tried], trust: Trust, confidence: float) -> float:
    """Return which of `TEMPERATURES` gives names the likeliest confidences: least log loss over all found vertebrae."""
    rows, given, right = [np.zeros((0, len(LEVELS)))], [np.zeros(0, np.int64)], [np.zeros(0, bool)]
    for film in films:
        boxes, naming = film.ordered(trust, confidence)
        kept, labels = vertebrae_of(naming)
        pairs = pair(boxes[kept], film.truth.boxes_px)
        there = pairs >= 0
        rows.append(naming.posteriors[kept][pairs[there]])
        given.append(labels[pairs[there]])
        right.append(given[-1] == film.truth.labels[there])
    names, was_right = np.concatenate(given), np.concatenate(right)
    losses = []
    for temperature in TEMPERATURES:
        sure = tempered(np.concatenate(rows), temperature)[np.arange(len(names)), names]
        losses.append(-np.log(np.maximum(np.where(was_right, sure, 1 - sure), UNLIKELIEST)).sum())
    return float(TEMPERATURES[int(np.argmin(losses))])


def best(shares: Mapping[float, float]) -> float:
    """Return the middle one of the confidences that are as good as the best; the higher of two."""
    alike = sorted(confidence for confidence, share in shares.items() if share > max(shares.values()) - SAME)
    return alike[len(alike) // 2]
