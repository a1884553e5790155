"""Projections on directions, from lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

Vector = Sequence[float]


def unit(v: Vector) -> list[float]:
    length = math.sqrt(math.fsum(x * x for x in v))
    return [x / length for x in v]


def difference(a: Sequence[Vector], b: Sequence[Vector]) -> list[float]:
    """From the mean of the second kind to that of the first."""
    return unit([fmean(x) - fmean(y) for x, y in zip(zip(*a, strict=True), zip(*b, strict=True), strict=True)])


def projection(h: Vector, v: Vector) -> float:
    """In units of the root mean square."""
    rms = math.sqrt(fmean(x * x for x in h))
    return math.fsum(x * y for x, y in zip(h, v, strict=True)) / rms if rms else 0.0


def area(positive: Sequence[float], negative: Sequence[float]) -> float:
    return fmean((p > n) + 0.5 * (p == n) for p in positive for n in negative)
