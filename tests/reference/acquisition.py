"""Acquisition, forgetting, agreement of orders and ranks of answers, each in the most obvious way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise, permutations
from statistics import NormalDist


def first_stay(steps: Sequence[int], values: Sequence[float], level: float, stays: bool) -> float:
    """The first reading at the level from which on no reading is below it."""
    for place, step in enumerate(steps):
        later = values[place:] if stays else values[place : place + 1]
        if all(value >= level for value in later):
            return float(step)
    return math.nan


def as_bad_as(hits: int, count: int, best_hits: int, best_count: int) -> float:
    """The chance of so few right now among all ways to spread the right answers over both readings."""
    total = hits + best_hits
    ways = {
        now: math.comb(count, now) * math.comb(best_count, total - now)
        for now in range(count + 1)
        if 0 <= total - now <= best_count
    }
    return sum(number for now, number in ways.items() if now <= hits) / sum(ways.values())


def alike(samples: Sequence[Sequence[bool]]) -> float:
    """The design effect of the answers of some samples: analysis of variance, row by row."""
    samples = [rows for rows in samples if rows]
    rows = [hit for sample in samples for hit in sample]
    of = [len(sample) for sample in samples for _ in sample]
    size = sum(of) / len(of)
    if size == 1:
        return 1.0
    if len(samples) == 1 or len(set(rows)) == 1:
        return size
    mean = sum(rows) / len(rows)
    means = [sum(sample) / len(sample) for sample in samples]
    freedom = len(samples) - 1
    apart = sum((one - mean) ** 2 for one, sample in zip(means, samples, strict=True) for _ in sample) / freedom
    within = sum((hit - one) ** 2 for one, sample in zip(means, samples, strict=True) for hit in sample)
    within /= len(rows) - len(samples)
    # The share of chi-square over its freedom that .2 lie below, by Wilson and Hilferty.
    lowest = (1 - 2 / (9 * freedom) + NormalDist().inv_cdf(0.2) * math.sqrt(2 / (9 * freedom))) ** 3
    usual = (len(rows) - size) / freedom
    correlation = (apart / lowest - within) / (apart / lowest + (usual - 1) * within)
    return 1 + (size - 1) * min(1.0, max(0.0, correlation))


def concordance(values: Sequence[Sequence[float]]) -> float:
    """Kendall's W from its definition, with the correction for ties written out."""
    m, n = len(values), len(values[0])
    ranks = [[_rank(value, row) for value in row] for row in values]
    sums = [sum(row[thing] for row in ranks) for thing in range(n)]
    mean = sum(sums) / n
    spread = sum((one - mean) ** 2 for one in sums)
    ties = sum(row.count(value) ** 3 - row.count(value) for row in values for value in set(row))
    return 12 * spread / (m**2 * (n**3 - n) - m * ties)


def _rank(value: float, row: Sequence[float]) -> float:
    return sum(other < value for other in row) + (sum(other == value for other in row) + 1) / 2


def ranked(scores: Sequence[float], answer: int) -> tuple[float, float, float]:
    """P@1, reciprocal rank and margin, as means over every order of the candidates that the scores allow."""
    first, reciprocal = [], []
    for order in permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in pairwise(order)):
            place = order.index(answer)
            first.append(float(place == 0))
            reciprocal.append(1 / (place + 1))
    others = [score for place, score in enumerate(scores) if place != answer]
    return sum(first) / len(first), sum(reciprocal) / len(reciprocal), scores[answer] - max(others)
