"""Tests and measures of matrices over tasks, with loops over pairs and sets."""

from __future__ import annotations

import numpy as np
from scipy import stats

from reference.counter_noise import mixed
from reference.entropy import Array


def upper(matrix: Array) -> list[float]:
    return [matrix[i, j] for i in range(len(matrix)) for j in range(i + 1, len(matrix))]


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
    """For symmetric matrices: correlate residuals of ranks on a spline of the control, permute those of a."""
    x = np.array(upper(control))
    both = np.concatenate([x, x])  # quartiles and the spread over both triangles
    powers = [x, x**2, x**3, *(np.maximum(x - q, 0) ** 3 for q in np.quantile(both, [0.25, 0.5, 0.75]))]
    columns = max(1, min(6, len(x) // 20))
    design = np.stack([np.ones_like(x), *((one - one.mean()) / one.std() for one in powers[:columns])], 1)

    def rest(values: Array) -> Array:
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    residuals, fixed = (rest(stats.rankdata(upper(matrix))) for matrix in (a, b))
    square = np.zeros_like(a)
    square[np.triu_indices(len(a), 1)] = residuals
    square += square.T
    found = np.corrcoef(residuals, fixed)[0, 1]
    reached = 0
    for order in orders(len(a), permutations, seed):
        moved = rest(np.array(upper(square[order][:, order])))
        reached += np.corrcoef(moved, fixed)[0, 1] >= found - 1e-12
    return found, (1 + reached) / (1 + permutations)


def overlap(values: Array, size: int) -> Array:
    """Shared members of the sets of largest values, as sets."""
    sets = [set(np.argsort(-np.abs(row))[:size].tolist()) for row in values]
    return np.array([[len(one & other) / size for other in sets] for one in sets])
