"""What is known of spines before one is seen: how far apart levels lie, which are missed, where a picture ends."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from spine.config import LEVELS
from spine.order_lattice import Steps

STATES: tuple[str, ...] = (*LEVELS[:19], "T13", *LEVELS[19:], "L6", "S1")
"""What a candidate can be, from the head down: the levels, those that few people have, and the sacrum."""
COMMON: tuple[str, ...] = (*LEVELS, "S1")
GAPS = 5
"""A step whose length counts passes over fewer than so many states."""
_T11, _T12, _T13, _L1, _L5, _L6, _S1 = map(STATES.index, ("T11", "T12", "T13", "L1", "L5", "L6", "S1"))


@dataclass(frozen=True, eq=False)
class OrderModel:
    """Probabilities and lengths; the tuples run over COMMON (25) or, ``spacing`` and its ``sd``, the 24 gaps between.

    Attributes:
        spacing_mm: Expected distance from each level's centre to the next one's.
        spacing_sd: Spread of the logarithm of that distance, the spine's size once taken off.
        scale_sd: Spread of the logarithm of a spine's size.
        known_scale: The points are in mm; otherwise the size is found from the spacing itself.
        missed: Probability that a level between two found ones has no candidate.
        clutter: Candidates that are no vertebra of their own, per mm of spine.
        first: Probability that a level is the highest one found.
        last: Probability that a level is the lowest one found, given that it is found.
        odd: Prior probability of T11 above L1, of T13 and of L6.
        stray_sd: Distance of a vertebra from the smooth curve through all, in spacings.
        unforeseen: Density (per mm) of distances that the spacings do not explain.
    """

    spacing_mm: tuple[float, ...]
    spacing_sd: tuple[float, ...]
    scale_sd: float
    known_scale: bool
    missed: tuple[float, ...]
    clutter: float
    first: tuple[float, ...]
    last: tuple[float, ...]
    odd: tuple[float, float, float]
    stray_sd: float = 0.3
    unforeseen: float = 1e-5

    @cached_property
    def start(self) -> Float64[np.ndarray, " k"]:
        """Probability over STATES of being the first."""
        return self._over_states(self.first, 0.2)

    @cached_property
    def end(self) -> Float64[np.ndarray, " k"]:
        """Probability over STATES of being the last, once reached."""
        end = self._over_states(self.last, 1.0)
        end[_T13], end[_S1] = end[_T12], 1.0
        end[_L6] = max(end[_L5], 0.5)
        return end

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
        chance = (1 - self.end[_T11]) * self.odd[0]
        return Steps(weight, np.log(length), sd, far, GAPS - 2, _L1, chance, float(np.log(gap)), spread)

    @cached_property
    def state_spacing(self) -> Float64[np.ndarray, " k"]:
        """Expected distance from each state to the next, mm."""
        return np.array([self._gap(state)[0] if state != _S1 else self.spacing_mm[-1] for state in range(len(STATES))])

    def evidence(
        self, scores: Float64[np.ndarray, "n classes"], confidences: Float64[np.ndarray, " n"]
    ) -> Float64[np.ndarray, "n k"]:
        """Log likelihood ratio of each state over clutter, given class scores and the confidence."""
        share = scores + 1e-3
        share = share / share.sum(axis=1, keepdims=True)
        if scores.shape[1] == len(LEVELS):
            named = [LEVELS.index({"T13": "T12", "L6": "L5", "S1": "L5"}.get(name, name)) for name in STATES]
            near = share.copy()
            near[:, 1:] += 0.3 * share[:, :-1]
            near[:, :-1] += 0.3 * share[:, 1:]
            share = near / near.sum(axis=1, keepdims=True)
        else:
            named = ["CTL".index(name[0].replace("S", "L")) for name in STATES]
        ratio = np.log(share[:, named] * scores.shape[1])
        ratio[:, _S1] -= 2.0
        return ratio + 0.5 * np.log(confidences / (1 - confidences))[:, None]

    def _step(self, source: int, target: int) -> tuple[float, float, float]:
        """Probability, length in mm and spread of the logarithm of one step; odd states only where it ends or starts."""
        chance = 1.0 - self.end[source]
        inner = [state for state in range(source + 1, target) if state not in (_T13, _L6)]
        for state in inner:
            chance *= self.missed[COMMON.index(STATES[state])]
        if source <= _T12 < target:
            chance *= self.odd[1] if target == _T13 else 1 - self.odd[1] if source != _T13 else 1.0
        if source <= _L5 < target:
            chance *= self.odd[2] if target == _L6 else 1 - self.odd[2]
        gaps = [self._gap(state) for state in (source, *inner)]
        mean = sum(gap for gap, _ in gaps)
        return chance, mean, float(np.sqrt(sum((gap * spread) ** 2 for gap, spread in gaps))) / mean

    def _gap(self, state: int) -> tuple[float, float]:
        """Distance below a state and its spread; an odd one has that of the level above it."""
        common = COMMON.index(STATES[state - 1 if state in (_T13, _L6) else state])
        return self.spacing_mm[common], self.spacing_sd[common]

    @staticmethod
    def _over_states(values: tuple[float, ...], share: float) -> Float64[np.ndarray, " k"]:
        """Spread values over COMMON to STATES; an odd state gets a share of its neighbour's, and none gets nought."""
        table = dict(zip(COMMON, values, strict=True))
        table |= {"T13": share * table["T12"], "L6": share * table["L5"]}
        return np.maximum([table[name] for name in STATES], 1e-7)
