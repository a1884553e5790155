"""Facts followed over readings, by loops over plain lists."""

from __future__ import annotations

import math
from collections.abc import Sequence


def kl(p: Sequence[float], q: Sequence[float]) -> float:
    """Divergence of probabilities, in nats."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def followed(steps: Sequence[int], log_probs: Sequence[float], least: float = 0.1) -> tuple[float, float, float]:
    """Of one fact's log-probability at several readings: the gain, what is left of it, and the decay."""
    first, best, at = log_probs[0], log_probs[0], 0
    for place, value in enumerate(log_probs):
        if value > best:
            best, at = value, place
    gain = best - first
    if gain < least:
        return gain, math.nan, math.nan
    left = [(value - first) / gain for value in log_probs]
    x = [math.log(step - steps[at]) for step in steps[at + 1 :]]
    y = left[at + 1 :]
    if len(set(x)) < 2:
        return gain, left[-1], math.nan
    middle, mean = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - middle) * (b - mean) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
    return gain, left[-1], -slope
