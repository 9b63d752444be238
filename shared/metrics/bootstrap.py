"""How sure a mean over cases is: bootstrap intervals; and a share of cases: Wilson's."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Interval(NamedTuple):
    """An ``estimate`` and the interval from ``low`` to ``high`` around it."""

    estimate: float
    low: float
    high: float


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., Any] = np.mean,
    *,
    level: float = 0.95,
    n: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return ``statistic`` of the values and its bias-corrected, accelerated bootstrap interval.

    BCa (Efron, JASA 1987) as scipy has it: scores near 1 are skewed and cases are few, where percentile intervals
    sit too high. Where BCa is undefined (the statistic hardly moves when one case is left out, as a median over ties)
    the percentile interval is given. ``values`` holds one number per independent unit: a patient, not an image.

    Raises:
        ValueError: fewer than two values, or one that is not finite (count such cases apart).
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size < 2:
        raise ValueError(f"an interval needs at least two values, not {data.size}")
    if not np.isfinite(data).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(data))} values are not finite; count such cases apart")
    estimate = float(statistic(data))
    if np.ptp(data) == 0:
        return Interval(estimate, estimate, estimate)

    def interval(method: str) -> tuple[float, float]:
        found = bootstrap(
            (data,), statistic, confidence_level=level, n_resamples=n, method=method, rng=np.random.default_rng(seed)
        )
        return float(found.confidence_interval.low), float(found.confidence_interval.high)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="scipy")  # 0/0 in the acceleration
        low, high = interval("BCa")
        if not np.isfinite([low, high]).all():
            low, high = interval("percentile")
    return Interval(estimate, low, high)


def wilson_interval(successes: int, count: int, *, level: float = 0.95) -> Interval:
    """Return a share and its score interval (Wilson, JASA 1927), which holds up at few cases and near 0 and 1.

    Of no cases the share is NaN and the interval all of 0..1.

    Raises:
        ValueError: more successes than cases.
    """
    from scipy.stats import norm

    if not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count} is no share")
    if count == 0:
        return Interval(math.nan, 0.0, 1.0)
    share, z2 = successes / count, float(norm.ppf((1 + level) / 2)) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = math.sqrt(z2 * (share * (1 - share) / count + z2 / (4 * count**2))) / (1 + z2 / count)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))
