"""Names for vertebra candidates, in anatomical order: the most probable naming given scores, spacing and the picture.

A detector scores each candidate alone, so it mistakes a vertebra for its neighbour, finds one twice or not at all. Here
all candidates of a film are named together: they are put in order along the spine's curve, and of all namings that rise
level by level the most probable is taken, with each name's posterior probability.

Chains of vertebrae with spacings for steps are an old way to name them (Glocker 2012, MICCAI, LNCS 7512:590; Buergin
2023, MICCAI, LNCS 14228:483, has a hidden Markov model as its baseline); numbers that few spines have follow VERIDAH
(Moeller 2026, arXiv:2601.14066). ``docs/explanation/vertebra-order.md`` derives what is done.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from spine.config import LEVELS
from spine.order_constants import FILM
from spine.order_curve import along_spine
from spine.order_lattice import Decoded, decode
from spine.order_model import STATES, OrderModel

ODD = ("T11", "T13", "L6")
SCALES = 5
_LEVEL_STATES = np.array([STATES.index(level) for level in LEVELS])


@dataclass(frozen=True, slots=True)
class Missing:
    """A level that lies between two named ones and has no candidate; ``centre`` is where it ought to be."""

    label: str
    centre: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Naming:
    """One film's names; every tuple and first axis runs over the candidates as they were given.

    Attributes:
        labels: The level, or None for a duplicate, clutter, the sacrum, or a vertebra of a number few spines have.
        confidences: Posterior probability of that label (of having none where it is None).
        posteriors: Probability of each of LEVELS; a row sums to at most 1, the rest is none of them.
        raw_labels: The highest-scored class before ordering.
        missing: From the head down.
        changed: Candidates whose label is not their raw one.
        odd: Probability that T11 is the last thoracic vertebra, that there is a T13, and an L6. To be looked at by a
            person: no label follows from it.
        head_first: The candidates' order along the spine, from the head down.
    """

    labels: tuple[str | None, ...]
    confidences: Float64[np.ndarray, " n"]
    posteriors: Float64[np.ndarray, "n 24"]
    raw_labels: tuple[str, ...]
    missing: tuple[Missing, ...]
    changed: tuple[int, ...]
    odd: dict[str, float]
    head_first: Int64[np.ndarray, " n"]


def name_vertebrae(
    centres_px: Float64[np.ndarray, "n d"],
    sizes_px: Float64[np.ndarray, " n"] | None,
    scores: Float64[np.ndarray, "n classes"],
    confidences: Float64[np.ndarray, " n"] | None = None,
    *,
    picture_px: tuple[int, int] | None = None,
    head: tuple[float, ...] | None = (0.0, -1.0),
    model: OrderModel = FILM,
) -> Naming:
    """Name the candidates of one film or scan.

    Args:
        centres_px: Centres, ``x y`` in pixels (or ``x y z`` in mm, with ``model=CT``); no order is asked for.
        sizes_px: Square root of each one's area, or None.
        scores: Non-negative, one column for each of LEVELS, or three for C, T and L.
        confidences: That there is a vertebra, 0 to 1; the highest score where None.
        picture_px: Height and width of the film; a spine that ends well inside it ends for an anatomical reason.
        head: Which way the head lies, roughly; None where that is not known and is to be told from the scores.
        model: What is known of spines beforehand: FILM or CT of ``spine.order_constants``.

    Raises:
        ValueError: If shapes differ or something is not finite.
    """
    centres, scores, sure = _checked(centres_px, scores, confidences)
    if sizes_px is not None and (np.shape(sizes_px) != sure.shape or not np.isfinite(sizes_px).all()):
        raise ValueError(f"sizes_px: {len(sure)} finite numbers expected, {np.shape(sizes_px)} given")
    if not len(centres):
        return Naming(
            (), np.zeros(0), np.zeros((0, len(LEVELS))), (), (), (), dict.fromkeys(ODD, 0.0), np.zeros(0, int)
        )
    order, away, axis = along_spine(centres, sure)
    evidence = model.evidence(scores, sure)
    ways = [order, order[::-1]]
    if head is not None:
        down = -float(axis @ np.asarray(head, dtype=float)) if len(order) > 1 else 1.0
        ways = ways[:1] if down >= 0 else ways[1:]
    tried = [(_decode(centres[way], evidence[way], away[way], model, picture_px), way) for way in ways]
    (found, scale), order = max(tried, key=lambda one: one[0][0].log_evidence)
    return _naming(found, order, centres, scores, scale)


def _checked(
    centres_px: Float64[np.ndarray, "n d"],
    scores: Float64[np.ndarray, "n classes"],
    confidences: Float64[np.ndarray, " n"] | None,
) -> tuple[Float64[np.ndarray, "n d"], Float64[np.ndarray, "n classes"], Float64[np.ndarray, " n"]]:
    """The three as float64; refuses other shapes, negative scores and what is not finite."""
    centres, given = np.asarray(centres_px, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not len(centres):
        return centres, given, np.zeros(0)
    if centres.ndim != 2 or given.ndim != 2 or len(given) != len(centres) or given.shape[1] not in (3, len(LEVELS)):
        raise ValueError(
            f"centres n x d and scores n x {len(LEVELS)} expected, {centres.shape} and {given.shape} given"
        )
    sure = given.max(axis=1) if confidences is None else np.asarray(confidences, dtype=np.float64)
    if sure.shape != (len(centres),):
        raise ValueError(f"confidences: {len(centres)} expected, {sure.shape} given")
    if not (np.isfinite(centres).all() and np.isfinite(given).all() and np.isfinite(sure).all() and (given >= 0).all()):
        raise ValueError("centres, scores and confidences must be finite, scores not negative")
    return centres, given, np.clip(sure, 1e-3, 1 - 1e-3)


def _decode(
    centres: Float64[np.ndarray, "n d"],
    evidence: Float64[np.ndarray, "n k"],
    away: Float64[np.ndarray, " n"],
    model: OrderModel,
    picture_px: tuple[int, int] | None,
) -> tuple[Decoded, float]:
    """Weigh the namings of candidates in order; also the size of the spine (picture units a mm)."""
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    size = 1.0 if model.known_scale else _rough_scale(distance, evidence, model)
    spread = np.linspace(-2, 2, SCALES)
    prior = np.exp(-0.5 * spread**2)
    scale = size * np.exp(spread * model.scale_sd)
    stray = np.minimum(0.5 * (away / size / 27.0 / model.stray_sd) ** 2, 6.0)
    ratio = np.broadcast_to(evidence - stray[:, None] - np.log(model.clutter), (SCALES, *evidence.shape))
    start = np.broadcast_to(model.start, evidence.shape)
    end = np.broadcast_to(model.end, evidence.shape)
    found = decode(distance, ratio, scale, prior / prior.sum(), model.steps, start, end, 1e-3)
    return found, float(np.exp(found.scale @ np.log(scale)))


def _rough_scale(
    distance: Float64[np.ndarray, "n n"], evidence: Float64[np.ndarray, "n k"], model: OrderModel
) -> float:
    """Picture units a mm, from the distances of neighbours and what levels their scores say they are."""
    weight = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    expected = weight @ np.log(model.state_spacing) / weight.sum(axis=1)
    if len(distance) < 2:
        return 1.0
    steps = np.log(np.maximum(np.diagonal(distance, 1), 1e-6)) - 0.5 * (expected[1:] + expected[:-1])
    return float(np.exp(np.median(steps)))


def _naming(
    found: Decoded,
    order: Int64[np.ndarray, " n"],
    centres: Float64[np.ndarray, "n d"],
    scores: Float64[np.ndarray, "n classes"],
    scale: float,
) -> Naming:
    """What was found, back in the order in which the candidates were given."""
    n = len(order)
    path, posterior = np.full(n, -1), np.zeros((n, len(STATES)))
    path[order], posterior[order] = found.path, found.posterior
    labels = tuple(STATES[k] if k >= 0 and STATES[k] in LEVELS else None for k in path)
    levels = posterior[:, _LEVEL_STATES]
    sure = [levels[i, LEVELS.index(label)] if label else 1 - levels[i].sum() for i, label in enumerate(labels)]
    raw = tuple(LEVELS[k] for k in scores.argmax(axis=1)) if scores.shape[1] == len(LEVELS) else ("",) * n
    chance = {"T11": found.odd, **{name: float(posterior[:, STATES.index(name)].sum()) for name in ODD[1:]}}
    return Naming(
        labels=labels,
        confidences=np.clip(sure, 0.0, 1.0),
        posteriors=levels,
        raw_labels=raw,
        missing=_missing(order, path, centres),
        changed=tuple(i for i in range(n) if labels[i] != raw[i]),
        odd={name: min(value, 1.0) for name, value in chance.items()},
        head_first=order,
    )


def _missing(
    order: Int64[np.ndarray, " n"], path: Int64[np.ndarray, " n"], centres: Float64[np.ndarray, "n d"]
) -> tuple[Missing, ...]:
    """Levels between named neighbours that nothing was found for, spread evenly between the two."""
    named = [i for i in order if path[i] >= 0 and STATES[path[i]] in LEVELS]
    gone = []
    for above, below in zip(named, named[1:], strict=False):
        first, last = LEVELS.index(STATES[path[above]]), LEVELS.index(STATES[path[below]])
        for level in range(first + 1, last):
            part = (level - first) / (last - first)
            place = (1 - part) * centres[above] + part * centres[below]
            gone.append(Missing(LEVELS[level], tuple(float(x) for x in place)))
    return tuple(gone)
