"""Tests and measures of matrices over tasks, with loops over pairs and sets."""

from __future__ import annotations

import numpy as np
from scipy import stats

from reference.counter_noise import mixed
from reference.entropy import Array


def upper(matrix: Array) -> list[float]:
    return [matrix[i, j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))]


def partial(a: list[float], b: list[float], control: list[float]) -> float:
    """Partial rank correlation by its formula of three plain ones."""
    ab, ac, bc = (stats.spearmanr(x, y).statistic for x, y in ((a, b), (a, control), (b, control)))
    return float((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2)))


def orders(tasks: int, permutations: int, seed: int) -> list[list[int]]:
    """The permutations that a seed stands for: tasks in the order of their hashes."""
    hashes = [[signed(mixed(p * tasks + i, seed)) for i in range(tasks)] for p in range(permutations)]
    return [sorted(range(tasks), key=row.__getitem__) for row in hashes]


def signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


def mantel(a: Array, b: Array, permutations: int, seed: int) -> tuple[float, float]:
    """For symmetric matrices."""
    found = stats.spearmanr(upper(a), upper(b)).statistic
    reached = 0
    for order in orders(len(a), permutations, seed):
        reached += stats.spearmanr(upper(a[order][:, order]), upper(b)).statistic >= found - 1e-12
    return found, (1 + reached) / (1 + permutations)


def partial_mantel(a: Array, b: Array, control: Array, permutations: int, seed: int) -> tuple[float, float]:
    """For symmetric matrices: correlate residuals of ranks, permute those of a."""
    given = stats.rankdata(upper(control))
    rest = []
    for matrix in (a, b):
        ranks = stats.rankdata(upper(matrix))
        line = stats.linregress(given, ranks)
        rest.append(ranks - line.intercept - line.slope * given)
    square = np.zeros_like(a)
    square[np.triu_indices(len(a), 1)] = rest[0]
    square += square.T
    found = np.corrcoef(rest[0], rest[1])[0, 1]
    reached = 0
    for order in orders(len(a), permutations, seed):
        reached += np.corrcoef(upper(square[order][:, order]), rest[1])[0, 1] >= found - 1e-12
    return found, (1 + reached) / (1 + permutations)


def overlap(values: Array, size: int) -> Array:
    """Shared members of the sets of largest values, as sets."""
    sets = [set(np.argsort(-np.abs(row))[:size].tolist()) for row in values]
    return np.array([[len(one & other) / size for other in sets] for one in sets])
