"""What the spines of VID that are still named wrongly have in common: is there anything left that could tell?

    uv run python recipes/spine_order_errors.py DATA

For each spine without L6 that is named one level too high or too low as a whole, by the cross-validation of
``recipes/spine_order.py``: whether the detector's scores contradict the truth where thorax and loins meet, and whether
its distances, all together, speak for the true place. For that every distance between neighbours and how they vary
together (mean and full covariance of logarithms, Student's t, fitted on the other folds) is asked, which is more than
the lattice uses.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tyro
from tyro.conf import Positional

sys.path.insert(0, str(Path(__file__).resolve().parent))
from spine_order import SAME_MM, Spine, fit, fold_of, read

from spine.order import name_vertebrae
from spine.order_constants import ct_model
from spine.order_model import COMMON, STATES, OrderModel

FREEDOM = 6.0  # degrees of freedom of Student's t: outliers among distances count little
PRIOR_SPINES, OWN_SD, COMMON_SD = 30.0, 0.045, 0.06  # what the covariance is drawn to: one size, and noise


class Shift(NamedTuple):
    """A spine and by how many levels its names are off: -1, 0 or 1."""

    spine: Spine
    by: int
    log_ratio: float
    """Of its distances' likelihood in the true place over that one level off: towards the error, or either way."""


def main(data: Positional[Path], /, folds: int = 5) -> None:
    """Name by cross-validation, and print what could have told."""
    spines = [one for one in read(data) if len(one.centres) and "L6" not in one.levels]
    lengths, fold = np.array([log_distances(one) for one in spines]), fold_of(spines, folds)
    found: list[Shift] = []
    for k in range(folds):
        model = ct_model(fit([one for one, where in zip(spines, fold, strict=True) if where != k]))
        mean, covariance = shape(lengths[fold != k])
        for i in np.flatnonzero(fold == k):
            by = shift(spines[i], model)
            ways = (by,) if by else (-1, 1)
            ratios = [ratio for way in ways if (ratio := told(lengths[i], way, mean, covariance)) is not None]
            found += [Shift(spines[i], by, ratio) for ratio in ratios]
    wrong, right = [one for one in found if one.by], [one for one in found if not one.by]
    against = sum(contradicted(one.spine) for one in wrong)
    print(f"{len(wrong)} spines one level off and {len({id(one.spine) for one in right})} that are not")
    print(f"scores contradict the truth where T12 meets L1: {against} of {len(wrong)}")
    for name, group in (("off", wrong), ("not off", right)):
        ratio = np.array([one.log_ratio for one in group])
        print(
            f"{name}: distances speak for the truth in {(ratio > 0).mean():.2f}, sevenfold in {(ratio > 2).mean():.2f}"
        )


def shift(one: Spine, model: OrderModel) -> int:
    """By how many levels most of a spine's names are off, at most one."""
    naming = name_vertebrae(one.centres, None, one.scores, head=(0, 0, 1), model=model)
    distance = np.linalg.norm(one.truth[:, None] - one.centres, axis=-1)
    away = [
        COMMON.index(label) - COMMON.index(level)
        for level, near, ok in zip(one.levels, distance.argmin(axis=1), distance.min(axis=1) <= SAME_MM, strict=True)
        if ok and (label := naming.labels[near]) is not None
        and level in COMMON
    ]  # fmt: skip
    return int(np.clip(np.median(away), -1, 1)) if away else 0


def log_distances(one: Spine) -> np.ndarray:
    """Logarithms of the distances between neighbouring levels that both have a candidate, NaN elsewhere."""
    place = {STATES[k]: one.centres[j] for j, k in enumerate(one.states) if k >= 0}
    return np.array(
        [
            np.log(np.linalg.norm(place[above] - place[below])) if above in place and below in place else np.nan
            for above, below in pairwise(COMMON)
        ]
    )


def shape(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Medians of the logarithms, and their covariance from all pairs that occur together."""
    mean = np.nanmedian(lengths, axis=0)
    rest = np.clip(lengths - mean, -0.35, 0.35)
    there = np.isfinite(rest)
    rest = np.where(there, rest, 0.0)
    prior = OWN_SD**2 * np.eye(len(mean)) + COMMON_SD**2
    covariance = (rest.T @ rest + PRIOR_SPINES * prior) / (there.T.astype(float) @ there + PRIOR_SPINES)
    values, vectors = np.linalg.eigh(covariance)
    return mean, (vectors * np.maximum(values, 2e-4)) @ vectors.T


def told(lengths: np.ndarray, way: int, mean: np.ndarray, covariance: np.ndarray) -> float | None:
    """Log likelihood ratio of the true place over one level off; None where too little is seen or nothing is there."""
    moved = np.full_like(lengths, np.nan)
    moved[max(way, 0) : len(moved) + min(way, 0)] = lengths[max(-way, 0) : len(moved) - max(way, 0)]
    if np.isfinite(lengths).sum() < 3 or np.isfinite(moved).sum() < np.isfinite(lengths).sum():
        return None
    return _log_likelihood(lengths, mean, covariance) - _log_likelihood(moved, mean, covariance)


def _log_likelihood(lengths: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> float:
    there = np.isfinite(lengths) & np.isfinite(mean)
    rest, own = (lengths - mean)[there], covariance[np.ix_(there, there)]
    squared = rest @ np.linalg.solve(own, rest) / FREEDOM
    return float(-0.5 * np.linalg.slogdet(own)[1] - 0.5 * (FREEDOM + there.sum()) * np.log1p(squared))


def contradicted(one: Spine) -> bool:
    """Whether T12's candidate scores higher as lumbar, or L1's as thoracic."""
    scores = {STATES[k]: one.scores[j] for j, k in enumerate(one.states) if k >= 0}
    over = [scores[level][wrong] > scores[level][right] for level, right, wrong in (("T12", 1, 2), ("L1", 2, 1))
            if level in scores]  # fmt: skip
    return any(over)


if __name__ == "__main__":
    tyro.cli(main)
