"""Names for vertebra candidates, in anatomical order: the most probable naming given scores, spacing and the picture.

A detector scores each candidate alone, so it mistakes a vertebra for its neighbour, finds one twice or not at all. Here
all candidates of a film are named together: they are put in order from the head down, and of all namings that rise
level by level and step by step downwards the most probable is taken, with each name's posterior probability.

Naming vertebrae together by a probabilistic chain is established (Glocker 2012, MICCAI; Buergin 2023, MICCAI, LNCS
14228:483, has a hidden Markov model as its baseline), and so are T11, T13 and L6 as parts of the sequence (VERIDAH,
Moeller 2026, arXiv:2601.14066). ``docs/explanation/vertebra-order.md`` tells how it is done here.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from spine.config import LEVELS
from spine.order_constants import FILM
from spine.order_curve import along_spine
from spine.order_lattice import Decoded, decode
from spine.order_model import STATES, OrderModel

ODD = ("T11", "T13", "L6")
NOTHING = 1e-3
"""Prior probability that a film with candidates shows no vertebra."""
SIZE_SD = 0.35
"""Spread of the logarithm of a vertebra's size around its neighbours' median."""
STEEPEST_DEGREES = 80.0
"""No step down the spine leans more: 75 at most between the vertebrae of 597 AP films (AASCE), 79 of 1,947 CT (VID)."""
_L5 = STATES.index("L5")
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
        centres_px: Centres, ``x y`` in pixels (or ``x y z`` in mm, with ``model=ct()``); no order is asked for.
        sizes_px: Square root of each one's area, or None.
        scores: Non-negative, one column for each of LEVELS, or three for C, T and L.
        confidences: That there is a vertebra, 0 to 1; the highest score where None.
        picture_px: Height and width of the film; a spine that ends well inside it ends for an anatomical reason.
        head: Which way the head lies, roughly; None where that is not known and is to be told from the scores.
        model: What is known of spines beforehand: ``FILM``, or ``ct()`` of ``spine.order_constants``.

    Raises:
        ValueError: If shapes differ or something is not finite.
    """
    centres, scores, sure, sizes = _checked(centres_px, sizes_px, scores, confidences)
    if not len(centres):
        none = np.zeros(0)
        return Naming((), none, np.zeros((0, len(LEVELS))), (), (), (), dict.fromkeys(ODD, 0.0), none.astype(np.int64))
    order, away, axis = along_spine(centres, sure)
    ways = [(order, axis), (order[::-1], -axis)]
    if head is not None:
        ways = [_from_head(centres, np.asarray(head, dtype=np.float64))]
    tried = []
    for way, down in ways:
        evidence = model.scores.evidence(scores, sure) - _unlike(sizes, way)[:, None]
        ends = _ends(centres[way], down, picture_px)
        tried.append((_decode(centres[way], down, evidence[:, way], away[way], ends, model), way))
    found, order = max(tried, key=lambda one: one[0].log_evidence)
    return _naming(found, order, centres, scores)


def _from_head(
    centres: Float64[np.ndarray, "n d"], head: Float64[np.ndarray, " d"]
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " d"]]:
    """The candidates from the head's side on, and the direction of that order; other coordinates settle ties."""
    down = -head / np.linalg.norm(head)
    return np.lexsort((*centres.T, centres @ down)), down


def _follows(centres: Float64[np.ndarray, "n d"], down: Float64[np.ndarray, " d"]) -> Bool[np.ndarray, "n n"]:
    """Whether a spine may go on from one candidate (row) to another: downwards, not across the picture."""
    step = centres[None] - centres[:, None]
    steepest = np.cos(np.deg2rad(STEEPEST_DEGREES))
    return np.asarray(step @ down > steepest * np.linalg.norm(step, axis=-1))


def _checked(
    centres_px: Float64[np.ndarray, "n d"],
    sizes_px: Float64[np.ndarray, " n"] | None,
    scores: Float64[np.ndarray, "n classes"],
    confidences: Float64[np.ndarray, " n"] | None,
) -> tuple[
    Float64[np.ndarray, "n d"], Float64[np.ndarray, "n classes"], Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]
]:
    """Centres, scores, confidences and sizes as float64; other shapes and what is not finite are refused."""
    centres, given = np.asarray(centres_px, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    if not len(centres):
        return centres, given, np.zeros(0), np.zeros(0)
    if centres.ndim != 2 or given.ndim != 2 or len(given) != len(centres):
        raise ValueError(f"centres n x d, scores n x classes expected; {centres.shape}, {given.shape} given")
    sure = np.asarray(given.max(axis=1) if confidences is None else confidences, dtype=np.float64)
    sizes = np.asarray(np.ones(len(centres)) if sizes_px is None else sizes_px, dtype=np.float64)
    if sure.shape != (len(centres),) or sizes.shape != sure.shape:
        raise ValueError(f"{len(centres)} confidences and sizes expected; {sure.shape}, {sizes.shape} given")
    if not all(np.isfinite(x).all() for x in (centres, given, sure, sizes)) or (given < 0).any():
        raise ValueError("centres, sizes, scores and confidences must be finite, scores not negative")
    return centres, given, np.clip(sure, 1e-3, 1 - 1e-3), sizes


def _unlike(sizes: Float64[np.ndarray, " n"], order: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """What a size unlike that of the candidates around it counts against being a vertebra."""
    sizes = np.log(np.maximum(sizes, 1e-6))
    wide = np.pad(sizes[order], 2, constant_values=np.nan)
    around = _medians(np.lib.stride_tricks.sliding_window_view(wide, 5))
    penalty = np.empty(len(order))
    penalty[order] = np.minimum(0.5 * ((sizes[order] - around) / SIZE_SD) ** 2, 5.0)
    return penalty


def _medians(rows: Float64[np.ndarray, "n k"]) -> Float64[np.ndarray, " n"]:
    """``np.nanmedian`` of each row, without its way over masked arrays, which is long for so few."""
    rising, row = np.sort(rows, axis=1), np.arange(len(rows))  # NaN last
    count = np.isfinite(rows).sum(axis=1)
    return np.asarray((rising[row, (count - 1) // 2] + rising[row, count // 2]) / 2)


def _ends(
    centres: Float64[np.ndarray, "n d"], down: Float64[np.ndarray, " d"], picture_px: tuple[int, int] | None
) -> Float64[np.ndarray, " n"]:
    """How far the picture reaches below each candidate, in the spine's direction; 0 where that is not known."""
    if picture_px is None or not down.any():
        return np.zeros(len(centres))
    border = np.where(down > 0, np.array(picture_px[::-1], dtype=np.float64), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = np.where(np.abs(down) > 1e-6, (border - centres) / down, np.inf)
    return np.asarray(np.maximum(room.min(axis=1), 0.0))


def _decode(
    centres: Float64[np.ndarray, "n d"],
    down: Float64[np.ndarray, " d"],
    evidence: Float64[np.ndarray, "v n k"],
    away: Float64[np.ndarray, " n"],
    room: Float64[np.ndarray, " n"],
    model: OrderModel,
) -> Decoded:
    """Weigh the namings of candidates that stand in order, under every size and view."""
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
    size = 1.0 if model.known_scale else _rough_scale(distance, evidence[0], model)
    spread = np.linspace(-1.7, 1.7, model.scales) if model.scales > 1 else np.zeros(1)
    likely = np.exp(-0.5 * spread**2)
    stray = np.minimum(0.5 * (away / size / float(np.mean(model.spacing_mm)) / model.stray) ** 2, 6.0)
    ratio = evidence - stray[:, None] - np.log(model.clutter)
    fits = np.minimum(room[:, None] / size / model.state_spacing_mm, np.maximum(_L5 - np.arange(len(STATES)), 0))
    end = model.end[:, None] * model.inside ** np.floor(fits)
    start = np.broadcast_to(model.start[:, None], end.shape)
    scale = np.repeat(size * np.exp(spread * model.scale_sd), len(model.views))
    prior = np.outer(likely / likely.sum(), model.views).ravel()
    ratio, start, end = (np.tile(x, (model.scales, 1, 1)) for x in (ratio, start, end))
    return decode(distance, _follows(centres, down), ratio, scale, prior, model.steps, start, end, NOTHING)


def _rough_scale(
    distance: Float64[np.ndarray, "n n"], evidence: Float64[np.ndarray, "n k"], model: OrderModel
) -> float:
    """Picture units a mm, from the distances of neighbours and what levels their scores say they are."""
    if len(distance) < 2:
        return 1.0
    weight = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    expected = weight @ np.log(model.state_spacing_mm) / weight.sum(axis=1)
    steps = np.log(np.maximum(np.diagonal(distance, 1), 1e-6)) - 0.5 * (expected[1:] + expected[:-1])
    return float(np.exp(np.median(steps)))


def _naming(
    found: Decoded,
    order: Int64[np.ndarray, " n"],
    centres: Float64[np.ndarray, "n d"],
    scores: Float64[np.ndarray, "n classes"],
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
    for above, below in pairwise(named):
        first, last = LEVELS.index(STATES[path[above]]), LEVELS.index(STATES[path[below]])
        for level in range(first + 1, last):
            part = (level - first) / (last - first)
            place = (1 - part) * centres[above] + part * centres[below]
            gone.append(Missing(LEVELS[level], tuple(float(x) for x in place)))
    return tuple(gone)
