"""The lattice against every naming written out one by one."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spine.order_lattice import REACH, Steps, decode

STATES, GAPS = 5, 2


def _steps(rng: np.random.Generator) -> Steps:
    far = np.triu(rng.uniform(1e-4, 1e-2, (STATES, STATES)), 1)
    weight = rng.uniform(0.1, 1, (GAPS, STATES))
    for k in range(STATES):
        for g in range(GAPS):
            weight[g, k] *= k - (GAPS - g) >= 0
    length = rng.uniform(0.5, 2, (GAPS, STATES))
    return Steps(weight, np.log(length), rng.uniform(0.1, 0.5, (GAPS, STATES)), far, 0, 3, 0.2, 0.1, 0.2)


def _density(length: float, log_length: float, sd: float) -> float:
    z = (np.log(length) - log_length) / sd
    return float(np.exp(-0.5 * z * z) / (sd * np.sqrt(2 * np.pi) * length))


def _namings(n: int):
    for count in range(1, min(n, STATES) + 1):
        for who in combinations(range(n), count):
            for what in combinations(range(STATES), count):
                yield who, what


def _step(steps: Steps, distance: np.ndarray, scale: float, a: int, b: int, low: int, high: int) -> tuple[float, float]:
    """A step's own weight (near, odd included) and that of its far twin."""
    near, g = 0.0, GAPS - (high - low)
    length = distance[a, b] / scale
    if b - a <= REACH and g >= 0:
        near = steps.weight[g, high] * _density(length, steps.log_length[g, high], steps.sd[g, high])
        if (g, high) == (steps.odd_g, steps.odd_k):
            near += steps.odd_weight * _density(length, steps.odd_log_length, steps.odd_sd)
    return near, float(steps.far[low, high])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_sums_and_maxima_are_those_over_all_namings(seed, n):
    rng = np.random.default_rng(seed)
    steps, points = _steps(rng), np.cumsum(rng.uniform(0.3, 2, n))
    distance = np.abs(points[:, None] - points)
    follows = rng.random((n, n)) < rng.choice([0.4, 1.0])
    ratio = rng.normal(0, 2, (2, n, STATES))
    scale, prior = np.array([0.8, 1.3]), np.array([0.3, 0.7])
    start, end = rng.uniform(0.01, 1, (2, n, STATES)), rng.uniform(0.01, 1, (2, n, STATES))
    found = decode(distance, follows, ratio, scale, prior, steps, start, end, 0.01)

    total, posterior, shares, best = 0.01, np.zeros((n, STATES)), 0.01 * prior, (0.01, np.full(n, -1))
    for s in range(2):
        for who, what in _namings(n):
            if not all(follows[a, b] for a, b in pairwise(who)):
                continue
            both = prior[s] * start[s, who[0], what[0]] * end[s, who[-1], what[-1]]
            both *= np.exp(sum(ratio[s, i, k] for i, k in zip(who, what, strict=True)))
            one = both
            for a, b, low, high in zip(who, who[1:], what, what[1:], strict=False):
                near, far = _step(steps, distance, scale[s], a, b, low, high)
                both, one = both * (near + far), one * max(near, far)
            total += both
            shares[s] += both
            posterior[list(who), list(what)] += both
            if one > best[0]:
                path = np.full(n, -1)
                path[list(who)] = what
                best = (one, path)
    assert found.log_evidence == pytest.approx(np.log(total), abs=1e-9)
    np.testing.assert_allclose(found.posterior, posterior / total, atol=1e-9)
    np.testing.assert_allclose(found.hypothesis, shares / total, atol=1e-9)
    np.testing.assert_array_equal(found.path, best[1])


def test_the_odd_step_is_weighed_apart():
    rng = np.random.default_rng(1)
    steps = _steps(rng)
    distance = np.abs(np.subtract.outer([0.0, 1.1], [0.0, 1.1]))
    ratio = np.full((1, 2, STATES), -30.0)
    ratio[0, 0, 1], ratio[0, 1, 3] = 10.0, 10.0
    flat = np.full((1, 2, STATES), 0.2)
    found = decode(distance, np.ones((2, 2), bool), ratio, np.ones(1), np.ones(1), steps, flat, flat, 1e-3)
    near, far = _step(steps, distance, 1.0, 0, 1, 1, 3)
    odd = steps.odd_weight * _density(1.1, steps.odd_log_length, steps.odd_sd)
    assert found.odd == pytest.approx(odd / (near + far), rel=1e-3)


@pytest.mark.parametrize(("n", "sure"), [(300, 40.0), (STATES, 300.0)])  # their product is beyond any float
def test_however_many_and_sure_candidates_are_nothing_overflows(n, sure):
    steps = _steps(np.random.default_rng(2))
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n))).astype(float)
    flat = np.full((1, n, STATES), 0.2)
    always = np.ones((n, n), bool)
    found = decode(distance, always, np.full((1, n, STATES), sure), np.ones(1), np.ones(1), steps, flat, flat, 1e-3)
    assert np.isfinite(found.posterior).all()
    assert found.posterior.sum() == pytest.approx(STATES, abs=1e-6)  # so sure that no level is left out
    assert list(found.path[found.path >= 0]) == list(range(STATES))
