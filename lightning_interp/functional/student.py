"""Student's distribution, for tests and intervals of a handful of values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import fmean, stdev
from typing import Any

import numpy as np

__all__ = ["mean_interval", "t_quantile", "t_upper_tail"]


def t_upper_tail(t: float, freedom: float) -> float:
    r"""P(T ≥ t), to 1e-9 for 1 to 1,000 degrees of freedom.

    With u = arctan(t / √f) the density is proportional to cos(u)^(f − 1), a smooth function on a finite interval.

    Args:
        t: The statistic, infinite values included; NaN gives 1.
        freedom: Degrees of freedom f, at least 1, not necessarily whole.

    Example:
        >>> round(t_upper_tail(2.0, 5), 6)
        0.05097

    """
    if not math.isfinite(t):
        return float(t < 0) if not math.isnan(t) else 1.0
    u = np.linspace(math.atan(abs(t) / math.sqrt(freedom)), math.pi / 2, 2001)
    half = np.linspace(0.0, math.pi / 2, 2001)
    upper = _area(np.cos(u) ** (freedom - 1), u) / (2 * _area(np.cos(half) ** (freedom - 1), half))
    return float(upper if t >= 0 else 1 - upper)


@lru_cache(maxsize=256)
def t_quantile(tail: float, freedom: float) -> float:
    """The t above which lies the given share of the distribution.

    Args:
        tail: The share, between 0 and 0.5; 0.025 for a two-sided interval of 95 %.
        freedom: Degrees of freedom, at least 1.

    Raises:
        ValueError: If ``tail`` is not between 0 and 0.5 or ``freedom`` below 1.

    Example:
        >>> round(t_quantile(0.025, 4), 3)
        2.776

    """
    if not 0 < tail < 0.5:
        raise ValueError(f"`tail` must lie between 0 and 0.5, got {tail}.")
    if not freedom >= 1:
        raise ValueError(f"`freedom` must be at least 1, got {freedom}.")
    low, high = 0.0, 1.0
    while t_upper_tail(high, freedom) > tail:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_upper_tail(middle, freedom) > tail else (low, middle)
    return (low + high) / 2


def mean_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    r"""Mean and half the width of its confidence interval, t · s / √n.

    Args:
        values: Independent values, such as one a seed; at least 2.
        level: Confidence.

    Raises:
        ValueError: If there are fewer than 2 values.

    Example:
        >>> mean, half = mean_interval([0.8, 0.9, 0.7])
        >>> f"{mean:.2f} ± {half:.2f}"
        '0.80 ± 0.25'

    """
    n = len(values)
    if n < 2:
        raise ValueError(f"`values` must be at least 2 for an interval, got {list(values)}.")
    return fmean(values), t_quantile((1 - level) / 2, n - 1) * stdev(values) / math.sqrt(n)


def _area(y: np.ndarray[Any, Any], x: np.ndarray[Any, Any]) -> float:
    # Simpson's rule on an odd number of equidistant points.
    return float((x[1] - x[0]) / 3 * (y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()))
