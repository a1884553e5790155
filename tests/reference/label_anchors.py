"""What label words gather and what is read from them, edge by edge, from nested lists."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean


def saliency(products) -> list[list[float]]:
    """Absolute value of the sum over heads, one edge after another."""
    length = len(products[0])
    return [
        [0.0 if i == j else abs(math.fsum(head[i][j] for head in products)) for j in range(length)]
        for i in range(length)
    ]


def importance(products) -> list[float]:
    return [abs(math.fsum(value for row in head for value in row)) for head in products]


def flow(table, labels: Sequence[int]) -> dict[str, float]:
    """The published means, and what rows and columns that match have."""
    last = len(table) - 1
    into, read, rest = [], [], []
    for i in range(last + 1):
        for j in range(i):
            if i in labels:
                into.append(table[i][j])
            elif i == last and j in labels:
                read.append(table[i][j])
            else:
                rest.append(table[i][j])
    # The counts that the text gives.
    assert len(into) == sum(labels)
    assert len(read) == len(labels)
    assert len(rest) == last * (last + 1) // 2 - sum(labels) - len(labels)
    words = [table[last][j] for j in range(1, last) if j not in labels]
    own, others = [], []
    for label in labels:
        rows = [row for row in (label - 1, label - 2) if row > 0 and row not in labels]
        columns = range(1, min(rows)) if rows else range(0)
        if columns:
            own.append(fmean(table[label][j] for j in columns))
            others.append(fmean(fmean(table[row][j] for j in columns) for row in rows))
    return {
        "wp": fmean(into or [0.0]),
        "pq": fmean(read),
        "ww": fmean(rest or [0.0]),
        "read_rest": fmean(words or [0.0]),
        "write": fmean(own or [0.0]),
        "write_rest": fmean(others or [0.0]),
    }


def match(attention: Sequence[float], labels: Sequence[int], right: Sequence[bool]) -> float:
    paid = [attention[label] for label in labels]
    return math.fsum(one for one, yes in zip(paid, right, strict=True) if yes) / math.fsum(paid)
