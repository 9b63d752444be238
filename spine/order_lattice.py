"""The lattice of all namings that keep anatomical order: how probable each is, and which is the most probable.

A hidden semi-Markov chain runs down the spine. Its states are levels; a step goes from one named candidate to the next
and may pass over candidates (clutter, duplicates) and over levels (missed vertebrae). Sums and maxima over all namings
are exact, by dynamic programming (Rabiner 1989, Proc. IEEE 77:257-286, section III). States rise strictly along the
chain, and steps go only where ``follows`` allows, so no naming can break the order or give a name twice.

Arrays are indexed ``hypothesis, candidate, state``; hypotheses are of the spine's size and of which part of it shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy.lib.stride_tricks import sliding_window_view

REACH = 4
"""Steps whose length counts look back over so many candidates; a longer one is ``far``."""
HIGHEST = 1e50
"""A weight above it becomes the unit of all."""
NEVER = -1e9
"""Logarithm of a probability of nought, finite so that differences stay numbers."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What a step costs that arrives at state k from (number of g) - g states above: the last g is the next level.

    ``weight[g, k]`` is its probability, ``log_length[g, k]`` the logarithm of its expected length and ``sd[g, k]`` that
    logarithm's spread. ``far[l, k]`` is the probability of a step from l to k times the density of a length nobody
    expects. The ``odd_*`` belong to a second way of making one step: L1 right below T11, in a spine that has no T12.
    """

    weight: Float64[np.ndarray, "g k"]
    log_length: Float64[np.ndarray, "g k"]
    sd: Float64[np.ndarray, "g k"]
    far: Float64[np.ndarray, "k k"]
    odd_g: int
    odd_k: int
    odd_weight: float
    odd_log_length: float
    odd_sd: float


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the lattice says of one row of candidates.

    Attributes:
        posterior: Probability that candidate i is state k.
        path: Each candidate's state in the most probable naming, -1 for none.
        hypothesis: Posterior of the hypotheses.
        odd: Probability that the odd step was made.
        log_evidence: Logarithm of the candidates' likelihood over that of clutter alone.
    """

    posterior: Float64[np.ndarray, "n k"]
    path: Int64[np.ndarray, " n"]
    hypothesis: Float64[np.ndarray, " s"]
    odd: float
    log_evidence: float


def decode(
    distance: Float64[np.ndarray, "n n"],
    follows: Bool[np.ndarray, "n n"],
    log_ratio: Float64[np.ndarray, "s n k"],
    scale: Float64[np.ndarray, " s"],
    prior: Float64[np.ndarray, " s"],
    steps: Steps,
    start: Float64[np.ndarray, "s n k"],
    end: Float64[np.ndarray, "s n k"],
    nothing: float,
) -> Decoded:
    """Weigh every naming of candidates that stand in order from the head down.

    Args:
        distance: Between any two candidates; a scale times the unit of ``steps.log_length``.
        follows: Whether a step may go from candidate i (row) to candidate j, which stands after it.
        log_ratio: Log likelihood of "candidate i is state k" over "candidate i is clutter", under each hypothesis.
        scale: The spine's size under each hypothesis.
        prior: The hypotheses' probabilities.
        steps: What a step between levels costs.
        start: Probability that a candidate, if it is that state, is the first one named; above nought.
        end: Probability that it is the last one; above nought.
        nothing: Probability that no candidate is a vertebra.
    """
    likely, odd = _step_likelihoods(distance, follows, scale, steps)
    log_start = np.log(start) + np.log(prior)[:, None, None]
    log_end = np.log(end)
    forward = _sums(likely, log_ratio, log_start, steps.far, follows)
    backward = _sums(
        _turned(likely), log_ratio[:, ::-1, ::-1], log_end[:, ::-1, ::-1], steps.far[::-1, ::-1].T,
        follows[::-1, ::-1].T,
    )  # fmt: skip
    backward = backward[:, ::-1, ::-1]  # includes the candidate's own evidence, as forward does
    best, back = _best(likely, log_ratio, log_start, steps.far, follows)
    finish = forward + log_end
    log_nothing = float(np.log(nothing))
    total = float(np.logaddexp(_log_sum(finish), log_nothing))
    posterior = np.exp(forward + backward - log_ratio - total).sum(axis=0)
    share = np.exp(finish - total).sum(axis=(1, 2)) + prior * np.exp(log_nothing - total)
    return Decoded(
        posterior=np.minimum(posterior, 1.0),
        path=_trace(best + log_end, back, log_nothing, likely.shape[3]),
        hypothesis=share / share.sum(),
        odd=_odd_step(odd, forward, backward, steps, total),
        log_evidence=total,
    )


def _odd_step(
    odd: Float64[np.ndarray, "n s w"],
    forward: Float64[np.ndarray, "s n k"],
    backward: Float64[np.ndarray, "s n k"],
    steps: Steps,
    total: float,
) -> float:
    """Posterior probability that some step was the odd one."""
    n, _, reach = odd.shape
    origin = steps.odd_k - (steps.weight.shape[0] - steps.odd_g)
    chance = 0.0
    for w in range(reach):
        far = reach - w
        if far < n:
            both = forward[:, :-far, origin] + backward[:, far:, steps.odd_k] - total
            chance += float((np.exp(both) * odd[far:, :, w].T).sum())
    return min(chance, 1.0)


def _step_likelihoods(
    distance: Float64[np.ndarray, "n n"],
    follows: Bool[np.ndarray, "n n"],
    scale: Float64[np.ndarray, " s"],
    steps: Steps,
) -> tuple[Float64[np.ndarray, "n s w g k"], Float64[np.ndarray, "n s w"]]:
    """Probability of a step times the density of its length, from the REACH candidates before each, nearest last."""
    n = len(distance)
    near, may = np.full((n, REACH), np.inf), np.zeros((n, REACH), bool)
    for w in range(1, min(REACH, n - 1) + 1):
        near[w:, REACH - w], may[w:, REACH - w] = np.diagonal(distance, w), np.diagonal(follows, w)
    length = np.clip(near[:, None, :] / scale[:, None], 1e-3, 1e3)
    log_length, allowed = np.log(length), may[:, None] / length
    likely = (log_length[..., None, None] - steps.log_length) / steps.sd
    likely *= likely  # in place: it is the largest array of all
    likely *= -0.5
    np.exp(likely, out=likely)
    likely *= steps.weight / (np.sqrt(2 * np.pi) * steps.sd)
    likely *= allowed[..., None, None]
    z = (log_length - steps.odd_log_length) / steps.odd_sd
    odd = np.exp(-0.5 * z * z) * (steps.odd_weight / (np.sqrt(2 * np.pi) * steps.odd_sd)) * allowed
    likely[..., steps.odd_g, steps.odd_k] += odd
    return likely, odd


def _turned(likely: Float64[np.ndarray, "n s w g k"]) -> Float64[np.ndarray, "n s w g k"]:
    """The same steps seen from below: candidates and states in reverse order, from target to source."""
    n, _, reach, gaps, _ = likely.shape
    turned = np.zeros_like(likely)
    for w in range(reach):
        for g in range(gaps):
            far, skip = reach - w, gaps - g
            if far < n:
                turned[far:, :, w, g, skip:] = likely[far:, :, w, g, skip:][::-1, :, ::-1]
    return turned


def _sums(
    likely: Float64[np.ndarray, "n s w g k"],
    log_ratio: Float64[np.ndarray, "s n k"],
    log_start: Float64[np.ndarray, "s n k"],
    far: Float64[np.ndarray, "k k"],
    follows: Bool[np.ndarray, "n n"],
) -> Float64[np.ndarray, "s n k"]:
    """Logarithm of the summed weight of all beginnings that end at a candidate and a state."""
    ratio, may = np.exp(log_ratio), follows.astype(np.float64)
    weights = _Weights(np.exp(log_start), gaps=likely.shape[3])
    for i in range(ratio.shape[1]):
        near = np.einsum("swgk,swgk->sk", weights.sources[:, i : i + REACH], likely[i])
        distant = may[:i, i] @ weights.so_far(i) @ far
        weights.put(i, ratio[:, i] * (weights.start[:, i] + near + distant))
    return weights.logarithms()


def _best(
    likely: Float64[np.ndarray, "n s w g k"],
    log_ratio: Float64[np.ndarray, "s n k"],
    log_start: Float64[np.ndarray, "s n k"],
    far: Float64[np.ndarray, "k k"],
    follows: Bool[np.ndarray, "n n"],
) -> tuple[Float64[np.ndarray, "s n k"], Int64[np.ndarray, "s n k"]]:
    """Logarithm of the weight of the best such beginning, and what it came by, for `_trace`.

    That is -1 at its start, else window times gaps plus gap of its last step, or after all of those candidate times
    states plus state of a distant one.
    """
    ratio, may, (scales, n, states) = np.exp(log_ratio), follows.astype(np.float64), log_ratio.shape
    gaps, scale = likely.shape[3], np.arange(scales)[:, None]
    weights, back = _Weights(np.exp(log_start), gaps), np.full((scales, n, states), -1)
    for i in range(n):
        steps = (weights.sources[:, i : i + REACH] * likely[i]).reshape(scales, REACH * gaps, states)
        came, reached, first = steps.argmax(axis=1), steps.max(axis=1), weights.start[:, i]
        if i:
            before = weights.so_far(i) * may[:i, i, None]
            distant = before.max(axis=1)[:, :, None] * far
            by_distant, state = distant.max(axis=1), distant.argmax(axis=1)
            came_far = REACH * gaps + before.argmax(axis=1)[scale, state] * states + state
            came, reached = np.where(reached >= by_distant, came, came_far), np.maximum(reached, by_distant)
        back[:, i] = np.where(first >= reached, -1, came)
        weights.put(i, ratio[:, i] * np.maximum(first, reached))
    return weights.logarithms(), back


class _Weights:
    """Weights of candidates and states, in a unit that grows with the highest so that none overflows.

    From what is 250 powers of ten below the highest nothing may go on. ``sources[s, i, g, k]`` is what can step on from
    candidate i - REACH to state k; margins hold candidates and states that do not exist. ``start`` is the weight of
    starting there, in the same unit.
    """

    def __init__(self, start: Float64[np.ndarray, "s n k"], gaps: int) -> None:
        scales, n, states = start.shape
        self.start, self._gaps, self._unit = start, gaps, 0.0
        self._values = np.zeros((scales, n + REACH, gaps + states))
        self._put, self._units = np.empty(start.shape), np.empty(n)
        self.sources = sliding_window_view(self._values, states, axis=2)[:, :, :gaps]

    def so_far(self, i: int) -> Float64[np.ndarray, "s i k"]:
        """Weights of the candidates before i."""
        return self._values[:, REACH : REACH + i, self._gaps :]

    def put(self, i: int, weights: Float64[np.ndarray, "s k"]) -> None:
        """Set those of candidate i."""
        self._put[:, i] = self._values[:, i + REACH, self._gaps :] = weights
        self._units[i] = self._unit
        highest = float(weights.max())
        if highest > HIGHEST:
            self._values /= highest
            self.start /= highest
            self._unit += np.log(highest)

    def logarithms(self) -> Float64[np.ndarray, "s n k"]:
        """The logarithms of all that was put; NEVER for nought."""
        found = np.log(self._put, out=np.full_like(self._put, NEVER), where=self._put > 0)
        return np.asarray(found + self._units[:, None])


def _trace(
    best: Float64[np.ndarray, "s n k"], back: Int64[np.ndarray, "s n k"], log_nothing: float, gaps: int
) -> Int64[np.ndarray, " n"]:
    """Follow the best naming from its last candidate to its first."""
    _, n, states = best.shape
    path = np.full(n, -1)
    scale, i, k = (int(place) for place in np.unravel_index(best.argmax(), best.shape))
    if best[scale, i, k] <= log_nothing:
        return path
    path[i] = k
    while (came := int(back[scale, i, k])) >= 0:
        if came < REACH * gaps:
            window, gap = divmod(came, gaps)
            i, k = i - REACH + window, k - gaps + gap
        else:
            i, k = divmod(came - REACH * gaps, states)
        path[i] = k
    return path


def _log_sum(x: Float64[np.ndarray, "..."]) -> float:
    top = x.max()
    return float(top + np.log(np.exp(x - top).sum()))
