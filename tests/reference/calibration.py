"""Calibration by the definitions, one prediction after another."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import ceil
from statistics import fmean


def ece(confidence: Sequence[float], correct: Sequence[float], bins: int) -> float:
    """Guo et al. 2017: bins ((m - 1) / M, m / M]."""
    total = 0.0
    for m in range(bins):
        low, high = m / bins, (m + 1) / bins
        here = [i for i, c in enumerate(confidence) if (low < c or m == 0) and (c <= high or m == bins - 1)]
        if here:
            gap = fmean(correct[i] for i in here) - fmean(confidence[i] for i in here)
            total += len(here) / len(confidence) * abs(gap)
    return total


def adaptive_ece(confidence: Sequence[float], correct: Sequence[float], bins: int) -> float:
    """For a number of predictions that the bins divide, without ties."""
    order = sorted(range(len(confidence)), key=confidence.__getitem__)
    size = len(order) // bins
    runs = [order[start : start + size] for start in range(0, len(order), size)]
    return fmean(abs(fmean(correct[i] for i in run) - fmean(confidence[i] for i in run)) for run in runs)


def selective_accuracy(confidence: Sequence[float], correct: Sequence[float], coverage: float) -> float:
    """The mean over all orders of predictions of equal confidence; few predictions only."""
    number = ceil(round(coverage * len(confidence), 9))
    found = []
    for order in permutations(range(len(confidence))):
        ranked = sorted(order, key=lambda i: -confidence[i])
        found.append(fmean(correct[i] for i in ranked[:number]))
    return fmean(found)


def aurc(confidence: Sequence[float], correct: Sequence[float]) -> float:
    n = len(confidence)
    return fmean(1 - selective_accuracy(confidence, correct, k / n) for k in range(1, n + 1))
