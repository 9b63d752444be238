from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from shared.metrics.bootstrap import Interval, bootstrap_interval

SCORES = np.random.default_rng(3).beta(9, 1, 20).tolist()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1, width=16), min_size=2, max_size=30), st.integers(0, 10))
def test_holds_the_estimate_and_stays_in_range(values: list[float], seed: int) -> None:
    found = bootstrap_interval(values, n=199, seed=seed)
    assert found.estimate == pytest.approx(np.mean(values))
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found == bootstrap_interval(values, n=199, seed=seed)


def test_is_scipys_bca() -> None:
    expected = bootstrap((SCORES,), np.mean, n_resamples=999, method="BCa", rng=np.random.default_rng(7))
    found = bootstrap_interval(SCORES, n=999, seed=7)
    assert found[1:] == pytest.approx(tuple(expected.confidence_interval))
    assert found != bootstrap_interval(SCORES, n=999, seed=8)


def test_higher_level_and_fewer_cases_are_wider() -> None:
    def width(interval: Interval) -> float:
        return interval.high - interval.low

    assert width(bootstrap_interval(SCORES, level=0.5)) < width(bootstrap_interval(SCORES, level=0.95))
    assert width(bootstrap_interval(SCORES * 9)) < width(bootstrap_interval(SCORES)) / 2


def test_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.beta(5, 2, 30), level=0.8, n=299) for _ in range(200)]
    covered = np.mean([found.low <= 5 / 7 <= found.high for found in intervals])
    # 200 draws at 0.8 have a standard error of 0.028; the bootstrap is a little short at n = 30.
    assert covered == pytest.approx(0.79, abs=0.085)


def test_equal_values_have_no_width() -> None:
    assert bootstrap_interval([0.9, 0.9, 0.9]) == Interval(0.9, 0.9, 0.9)


def test_median_over_ties_falls_back_to_percentiles() -> None:
    values = [1.0] * 9 + [2.0] * 3
    found = bootstrap_interval(values, np.median)
    expected = bootstrap((values,), np.median, n_resamples=9999, method="percentile", rng=np.random.default_rng(0))
    assert found == Interval(1.0, *expected.confidence_interval)
    assert all(math.isfinite(value) for value in found)


@pytest.mark.parametrize(
    ("values", "words"), [([0.5], "at least two"), ([0.5, math.inf, math.nan], "2 values are not")]
)
def test_what_has_no_interval(values: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        bootstrap_interval(values)
