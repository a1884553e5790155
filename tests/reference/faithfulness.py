"""Faithfulness of a ranking, one example and one token after another, from lists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from math import floor
from statistics import fmean


def order(scores: Sequence[float], real: Sequence[bool]) -> list[int]:
    """Highest first, the earlier of equal ones first; what cannot be removed last."""
    tokens = range(len(scores))
    return sorted((i for i in tokens if real[i]), key=lambda i: (-scores[i], i)) + [i for i in tokens if not real[i]]


def count(n: int, fraction: float) -> int:
    return max(1, floor(round(fraction * n, 6)))


def comprehensiveness(
    p: Callable[[set[int]], float], ranked: Sequence[int], n: int, fractions: Sequence[float]
) -> float:
    """With p of the tokens that are left, all n of them first in the order."""
    whole = set(ranked[:n])
    return fmean(p(whole) - p(whole - set(ranked[: count(n, q)])) for q in fractions)


def sufficiency(p: Callable[[set[int]], float], ranked: Sequence[int], n: int, fractions: Sequence[float]) -> float:
    return fmean(p(set(ranked[:n])) - p(set(ranked[: count(n, q)])) for q in fractions)


def random_comprehensiveness(p: Callable[[set[int]], float], n: int, fractions: Sequence[float]) -> float:
    """The mean over all sets of so many tokens that may be removed."""
    whole = set(range(n))
    return fmean(
        fmean(p(whole) - p(whole - set(removed)) for removed in combinations(range(n), count(n, q))) for q in fractions
    )


def flip_fraction(predictions: Sequence[int], n: int) -> float:
    for k in range(1, n + 1):
        if predictions[k] != predictions[0]:
            return k / n
    return 1.0
