"""What is known of spines before one is seen: how far apart levels lie, which are missed, where a picture ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from jaxtyping import Float64

from spine.config import LEVELS
from spine.order_lattice import Steps

STATES: tuple[str, ...] = (*LEVELS[:19], "T13", *LEVELS[19:], "L6", "S1")
"""What a candidate can be, from the head down: the levels, those that few people have, and the sacrum."""
COMMON: tuple[str, ...] = (*LEVELS, "S1")
GAPS = 5
"""A step whose length counts advances by so many states at most."""
_T11, _T12, _T13, _L1, _L5, _L6, _S1 = map(STATES.index, ("T11", "T12", "T13", "L1", "L5", "L6", "S1"))
_LIKE = {"T13": "T12", "L6": "L5", "S1": "L5"}


class Scores(Protocol):
    """What a detector's scores say of the states."""

    def evidence(
        self, scores: Float64[np.ndarray, "n c"], confidences: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "v n k"]:
        """Log likelihood ratio of each state over clutter, under each view."""
        ...


@dataclass(frozen=True)
class ClassScores:
    """Scores of a detector with one class a level: each may stand for a neighbour.

    ``neighbour[0]`` (cervical) and ``neighbour[1]`` (the others) are the probabilities that a level's score belongs to
    the level above or below it, together (0.31 and 0.12 in the reference's confusion matrix); ``elsewhere`` that it
    belongs to any level whatever. ``weight`` says how much names count: 1 where each candidate's score errs by itself,
    less where those of a film err together. ``trust`` says how much a candidate's odds count, ``sacrum`` how seldom S1
    is found.
    """

    neighbour: tuple[float, float] = (0.31, 0.12)
    elsewhere: float = 0.03
    weight: float = 1.0
    trust: float = 0.5
    sacrum: float = 0.05

    def evidence(
        self, scores: Float64[np.ndarray, "n c"], confidences: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "v n k"]:
        """One view; ``scores`` has a column for each of LEVELS."""
        if scores.shape[1] != len(LEVELS):
            raise ValueError(f"scores: {len(LEVELS)} columns expected, {scores.shape[1]} given")
        share = scores / np.maximum(scores.sum(axis=1, keepdims=True), 1e-9)
        likely = share @ self._confusion.T * len(LEVELS)
        columns = [LEVELS.index(_LIKE.get(name, name)) for name in STATES]
        ratio = self.weight * np.log(np.maximum(likely[:, columns], self.elsewhere))
        ratio[:, _S1] += np.log(self.sacrum)
        return np.asarray(ratio + self.trust * np.log(confidences / (1 - confidences))[:, None])[None]

    @cached_property
    def _confusion(self) -> Float64[np.ndarray, "k k"]:
        """Probability that level k (row) is scored as class c (column)."""
        table = np.zeros((len(LEVELS), len(LEVELS)))
        for k in range(len(LEVELS)):
            wrong = self.neighbour[0] if LEVELS[k][0] == "C" else self.neighbour[1]
            beside = [j for j in (k - 1, k + 1) if 0 <= j < len(LEVELS)]
            table[k, beside] = wrong / len(beside)
            table[k, k] = 1 - wrong
        return (1 - self.elsewhere) * table + self.elsewhere / len(LEVELS)


@dataclass(frozen=True, eq=False)
class RegionScores:
    """Scores of a detector that tells cervical, thoracic and lumbar apart, and what they say of every state.

    Differences of log odds, lumbar less thoracic and cervical less thoracic, and the highest score are cut into bins at
    ``edges``; ``tables[feature][v, k, bin]`` add up to the log likelihood ratio over clutter.
    """

    edges: tuple[tuple[float, ...], ...]
    tables: tuple[Float64[np.ndarray, "v k b"], ...]

    def evidence(
        self, scores: Float64[np.ndarray, "n c"], confidences: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "v n k"]:
        """``scores`` has the columns C, T, L; ``confidences`` are those scores' own."""
        if scores.shape[1] != 3:
            raise ValueError(f"scores: columns C, T, L expected, {scores.shape[1]} given")
        parts = [table[:, :, bins] for table, bins in zip(self.tables, self.bins(scores), strict=True)]
        return np.moveaxis(np.sum(parts, axis=0), 1, 2)

    def bins(self, scores: Float64[np.ndarray, "n 3"]) -> list[np.ndarray]:
        """The bin of each feature that each candidate falls into."""
        return [np.digitize(x, edges) for x, edges in zip(region_features(scores), self.edges, strict=True)]


def region_features(scores: Float64[np.ndarray, "n 3"]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log odds of L less those of T, of C less those of T, and the highest score."""
    odds = np.clip(scores, 1e-4, 1 - 1e-4)
    logit = np.log(odds / (1 - odds))
    return logit[:, 2] - logit[:, 1], logit[:, 0] - logit[:, 1], scores.max(axis=1)


@dataclass(frozen=True, eq=False)
class OrderModel:
    """Probabilities and lengths; ``first`` and ``last`` run over STATES, ``missed`` over COMMON, spacings its gaps.

    Attributes:
        scores: How to read a detector's scores.
        spacing_mm: Expected distance from each level's centre to the next one's.
        spacing_sd: Spread of that distance's logarithm, once the spine's size is taken off.
        scale_sd: Spread of the logarithm of a spine's size, over ``scales`` hypotheses; one is its mean alone.
        known_scale: The points are in mm; otherwise the size is found from the spacing itself.
        missed: Probability that a level between two found ones has no candidate.
        clutter: Candidates that are no vertebra of their own, per mm of spine.
        views: Prior probability of each way that a picture shows a part of the spine.
        first: In each view, the probability that a state is the highest one found.
        last: In each view, the probability that a state is the lowest one found.
        odd: Prior probability of T11 above L1, of T13 and of L6.
        inside: Factor on ending for each level that would still fit into the picture below, up to L5.
        stray: Distance of a vertebra from the smooth curve through all, in spacings (one standard deviation).
        unforeseen: Density (per mm) of distances that the spacings do not explain.
    """

    scores: Scores
    spacing_mm: Sequence[float]
    spacing_sd: Sequence[float]
    scale_sd: float
    scales: int
    known_scale: bool
    missed: Sequence[float]
    clutter: float
    views: Sequence[float]
    first: Sequence[Sequence[float]]
    last: Sequence[Sequence[float]]
    odd: Sequence[float]
    inside: float = 1.0
    stray: float = 0.3
    unforeseen: float = 1e-5

    @cached_property
    def start(self) -> Float64[np.ndarray, "v k"]:
        """``first``, nowhere nought."""
        return np.maximum(np.asarray(self.first, dtype=np.float64), 1e-6)

    @cached_property
    def end(self) -> Float64[np.ndarray, "v k"]:
        """``last``, nowhere nought."""
        return np.maximum(np.asarray(self.last, dtype=np.float64), 1e-6)

    @cached_property
    def steps(self) -> Steps:
        """The table of steps between states."""
        k = len(STATES)
        weight, length, sd = np.zeros((GAPS, k)), np.ones((GAPS, k)), np.ones((GAPS, k))
        far = np.zeros((k, k))
        for target in range(1, k):
            for source in range(target):
                chance, mean, spread = self._step(source, target)
                far[source, target] = chance * self.unforeseen
                g = GAPS - (target - source)
                if g >= 0:
                    weight[g, target], length[g, target], sd[g, target] = chance, mean, spread
        gap, spread = self._gap(_T12)
        return Steps(weight, np.log(length), sd, far, GAPS - (_L1 - _T11), _L1, self.odd[0], float(np.log(gap)), spread)

    @cached_property
    def state_spacing_mm(self) -> Float64[np.ndarray, " k"]:
        """Expected distance from each state to the next."""
        return np.array([self._gap(min(state, _L6))[0] for state in range(len(STATES))])

    def _step(self, source: int, target: int) -> tuple[float, float, float]:
        """Probability, length in mm and spread of its logarithm of one step; it passes over no odd state."""
        chance = 1.0
        inner = [state for state in range(source + 1, target) if state not in (_T13, _L6)]
        for state in inner:
            chance *= self.missed[COMMON.index(STATES[state])]
        if source <= _T12 < target:
            chance *= self.odd[1] if target == _T13 else 1 - self.odd[1]
        if source <= _L5 < target:
            chance *= self.odd[2] if target == _L6 else 1 - self.odd[2]
        gaps = [self._gap(state) for state in (source, *inner)]
        mean = sum(gap for gap, _ in gaps)
        return chance, mean, float(np.sqrt(sum((gap * spread) ** 2 for gap, spread in gaps))) / mean

    def _gap(self, state: int) -> tuple[float, float]:
        """Distance below a state and its spread; an odd one has that of the level above it."""
        common = COMMON.index(STATES[state - 1 if state in (_T13, _L6) else state])
        return self.spacing_mm[common], self.spacing_sd[common]
