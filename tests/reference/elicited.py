"""Confidence that is asked for, one question after another; chance by writing down every sequence of answers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import exp, fsum, isnan, nan
from statistics import fmean


def consistency(answers: Sequence[int]) -> tuple[int, float]:
    read = [answer for answer in answers if answer >= 0]
    if not read:
        return -1, nan
    most = max(read.count(answer) for answer in read)
    first = next(answer for answer in read if read.count(answer) == most)
    return first, most / len(answers)


def average_confidence(answers: Sequence[int], confidences: Sequence[float]) -> dict[int, float]:
    """C(y) of each answer that was read with a confidence."""
    pairs = [(y, c) for y, c in zip(answers, confidences, strict=True) if y >= 0 and not isnan(c)]
    total = fsum(c for _, c in pairs)
    return {y: fsum(c for other, c in pairs if other == y) / total if total else nan for y, _ in pairs}


def consistency_of_chance(options: int, answers: int) -> float:
    every = product(range(options), repeat=answers)
    return fmean(max(one.count(option) for option in one) / answers for one in every)


def softmax(scores: Sequence[float]) -> list[float]:
    total = fsum(exp(score) for score in scores)
    return [exp(score) / total for score in scores]
