"""Entropies and divergences of distributions over bins or reference points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

Array = np.ndarray


def entropy(p: Sequence[float]) -> float:
    """−Σ p log p in nats."""
    return -math.fsum(x * math.log(x) for x in map(float, p) if x > 0)


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """Σ p log p/q in nats."""
    return math.fsum(x * math.log(x / y) for x, y in zip(map(float, p), map(float, q), strict=True) if x > 0)


def js(p: Sequence[float], q: Sequence[float]) -> float:
    """½ KL(p‖m) + ½ KL(q‖m), m = (p + q)/2, in nats."""
    middle = [(float(x) + float(y)) / 2 for x, y in zip(p, q, strict=True)]
    return kl(p, middle) / 2 + kl(q, middle) / 2


def bin_of(value: float, lower: float, upper: float, bins: int) -> int:
    """The bin of one value: exact arithmetic on the numbers as they are stored."""
    if lower == upper:
        return 0
    low, high = Fraction(float(lower)), Fraction(float(upper))
    return min(max((Fraction(float(value)) - low) * bins // (high - low), 0), bins - 1)


def binned_codes(z: Array, bins: int, bounds: tuple[Sequence[float], Sequence[float]] | None = None) -> Array:
    """One-hot bin of every coordinate, (N, D, bins); ranges are the minimum and maximum of each dimension."""
    rows, dim = z.shape
    codes = np.zeros((rows, dim, bins))
    for d in range(dim):
        lower = min(z[:, d]) if bounds is None else bounds[0][d]
        upper = max(z[:, d]) if bounds is None else bounds[1][d]
        for i in range(rows):
            codes[i, d, bin_of(z[i, d], lower, upper, bins)] = 1
    return codes


def soft_codes(z: Array, points: Array, temperature: float) -> Array:
    """Softmax of cosine over temperature for every row, (N, 1, points); a zero vector falls evenly."""
    codes = np.zeros((len(z), 1, len(points)))
    for i, row in enumerate(z):
        length = math.sqrt(math.fsum(x * x for x in row))
        scores = [math.fsum(row * point) / length / temperature if length > 0 else 0.0 for point in points]
        top = max(scores)
        weights = [math.exp(score - top) for score in scores]
        codes[i, 0] = np.array(weights) / math.fsum(weights)
    return codes


def spread(codes: Array, correction: str | None = None, rows: Sequence[int] | None = None) -> float:
    """Entropy in nats of the rows together, averaged over dimensions; rows may repeat."""
    rows = range(len(codes)) if rows is None else rows
    found = []
    for d in range(codes.shape[1]):
        p = distribution(codes, d, rows)
        value = entropy(p)
        if correction == "miller_madow":
            value += (sum(1 for x in p if x > 0) - 1) / (2 * len(rows))
        found.append(value)
    return math.fsum(found) / len(found)


def distribution(codes: Array, d: int, rows: Sequence[int]) -> Array:
    """Mean of the codes of some rows in one dimension."""
    return codes[list(rows), d].sum(0) / len(rows)


def binned_entropy(z: Array, bins: int, bounds=None, correction: str | None = None, normalize: bool = True) -> float:
    """Dimension-wise binned entropy."""
    value = spread(binned_codes(z, bins, bounds), correction)
    return value / math.log(bins) if normalize else value


def soft_entropy(
    z: Array, points: Array, temperature: float, normalize: bool = True, floor_corrected: bool = False
) -> float:
    """Entropy of the mean assignment, less the mean entropy of single assignments where asked."""
    codes = soft_codes(z, points, temperature)
    value = spread(codes)
    if floor_corrected:
        value -= math.fsum(entropy(row[0]) for row in codes) / len(codes)
    return value / math.log(len(points)) if normalize else value
