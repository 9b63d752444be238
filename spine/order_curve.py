"""The spine as a curve through vertebra candidates: in which order they lie along it, and how far beside it."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

DEGREE = 5
ROUNDS = 6


def along_spine(
    centres: Float64[np.ndarray, "n d"], weights: Float64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"], Float64[np.ndarray, " d"]]:
    """Order of the candidates along the spine, each one's distance from its curve, and the direction of that order.

    The curve is a polynomial over the principal axis, fitted to the coordinates across it; what lies far from it counts
    little (Cauchy weights). Mirroring, turning and the order of the candidates change nothing.
    """
    n, d = centres.shape
    if n < 2:
        return np.arange(n), np.zeros(n), np.zeros(d)
    centre = np.median(centres, axis=0)
    span = np.median(np.linalg.norm(centres - centre, axis=1)) + 1e-9
    points = (centres - centre) / span
    trust = weights / (1 + (np.linalg.norm(points, axis=1) / 4) ** 4)
    away = np.zeros(n)
    for _ in range(ROUNDS):
        weight = trust / (1 + (away / 0.15) ** 2)
        middle = weight @ points / weight.sum()
        apart = points - middle
        axes = np.linalg.eigh((apart * weight[:, None]).T @ apart)[1].T[::-1]  # the longest first
        turned = apart @ axes.T
        place, across = turned[:, 0], turned[:, 1:]
        extent = np.abs(place).max() + 1e-9
        powers = np.polynomial.legendre.legvander(place / extent, min(DEGREE, max(1, n // 2)))
        root = np.sqrt(weight)[:, None]
        penalty = 1e-2 * np.diag(np.arange(powers.shape[1], dtype=float) ** 2)
        fit = np.linalg.solve(
            (powers * root).T @ (powers * root) + penalty * weight.sum() / n, (powers * weight[:, None]).T @ across
        )
        beside = across - powers @ fit
        away = np.linalg.norm(beside, axis=1)
    slope = _slope(place / extent, fit) / extent
    place = place + (slope * beside).sum(axis=1) / (1 + (slope**2).sum(axis=1))
    order = np.lexsort((*centres.T, place))
    return order, away * span, axes[0]


def _slope(place: Float64[np.ndarray, " n"], fit: Float64[np.ndarray, "c a"]) -> Float64[np.ndarray, "n a"]:
    derivative = np.polynomial.legendre.legder(fit, axis=0)
    slope = np.asarray(np.polynomial.legendre.legval(place, derivative))
    return slope.T.reshape(len(place), fit.shape[1])
