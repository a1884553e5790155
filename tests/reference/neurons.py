"""A look-up that explains a neuron, contexts and churn, from lists, one token after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def correlation(x: Sequence[float], y: Sequence[float]) -> float:
    mx, my = fmean(x), fmean(y)
    sx = math.sqrt(math.fsum((a - mx) ** 2 for a in x))
    sy = math.sqrt(math.fsum((b - my) ** 2 for b in y))
    if sx == 0:
        return math.nan
    return math.fsum((a - mx) * (b - my) for a, b in zip(x, y, strict=True)) / (sx * sy) if sy else 0.0


def look_up(fit: Sequence[tuple[int, float]], held_out: Sequence[tuple[int, float]]) -> float:
    """Pairs of token and activation."""
    overall = fmean(a for _, a in fit)
    says = []
    for token, _ in held_out:
        seen = [a for other, a in fit if other == token]
        says.append(fmean(seen) if seen else overall)
    return correlation([a for _, a in held_out], says)


def contexts(activations: Sequence[float], number: int) -> list[int]:
    firing = [place for place, a in enumerate(activations) if a > 0]
    return sorted(firing, key=lambda place: (-activations[place], place))[:number]


def churn(before: Sequence[int], now: Sequence[int]) -> float:
    union = set(before) | set(now)
    return 1 - len(set(before) & set(now)) / len(union) if union else math.nan


def kurtosis(a: Sequence[float]) -> float:
    mean = fmean(a)
    return fmean((x - mean) ** 4 for x in a) / fmean((x - mean) ** 2 for x in a) ** 2
