"""Whether two matrices over the same tasks agree, tested by permuting the tasks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import _mixed
from lightning_interp.functional.rank_correlation import off_diagonal, unit_ranks

__all__ = ["MantelTest", "mantel", "partial_mantel"]

_ENTRIES = 1 << 22  # of permuted matrices held at a time: 32 MiB
_ROUNDING = 1e-12  # sums of equal products in another order


class MantelTest(NamedTuple):
    """A correlation of two matrices and how often chance does as well."""

    statistic: float
    """Spearman's correlation of the off-diagonal entries, −1 to 1; the partial one given a control."""
    p: float
    """One-sided: (1 + number of permutations with at least that statistic) / (1 + permutations)."""


def mantel(a: Tensor, b: Tensor, permutations: int = 9999, seed: int = 0) -> MantelTest:
    """Mantel's test (1967) with Spearman's correlation: are pairs that are near in one matrix near in the other?

    The n(n − 1)/2 pairs of n tasks are not independent, so the tasks are what is permuted: rows and columns of ``a``
    together. Asymmetric matrices (transfer from i to j) are compared over both triangles; for symmetric ones this is
    the correlation over the upper triangles.

    Args:
        a: Shape (tasks, tasks), at least 3 tasks; the diagonal is not read.
        b: The same shape and order of tasks; 0 and 1 for a hypothesis such as :func:`same_group`.
        permutations: How many; the smallest p is 1 / (1 + permutations). Few tasks have few orders: at 5 tasks p cannot
            reach below 1/120 whatever the number.
        seed: Fixes the permutations, on every machine; torch's random streams are not read.

    Returns:
        :class:`MantelTest`. A small p speaks for a positive correlation; for a negative one give −``a``.

    Raises:
        ValueError: If shapes do not fit, entries off the diagonal are NaN (with their number), or a matrix is constant
            there.

    Cost: 0.2 s for 67 tasks and 9,999 permutations on one core, as the square of the tasks; about 100 MiB.

    Example:
        >>> points = torch.arange(8.0)
        >>> distance = (points[:, None] - points).abs()
        >>> result = mantel(distance, distance.sqrt(), permutations=999)
        >>> round(result.statistic, 6), result.p < 0.01
        (1.0, True)

    """
    return _permutation_test(_rank_matrix("a", a, a), _rank_matrix("b", b, a), permutations, seed)


def partial_mantel(a: Tensor, b: Tensor, control: Tensor, permutations: int = 9999, seed: int = 0) -> MantelTest:
    r"""Mantel's test of what two matrices share beyond a third one (Smouse, Long & Sokal 1986), on ranks.

    The ranks of ``a`` and of ``b`` are each regressed on those of ``control``; the statistic is the correlation of the
    two residual matrices, which is the partial correlation

    .. math:: r_{ab \cdot c} = (r_{ab} - r_{ac} r_{bc}) / \sqrt{(1 - r_{ac}^2)(1 - r_{bc}^2)}

    and its distribution comes from permuting rows and columns of ``a``'s residual matrix together, the residuals held
    fixed (method 3 of Legendre 2000). Only the part that is linear in ranks is taken out. Where both matrices vary
    smoothly over the same hidden dimension p is too small, as it is for the plain test (Guillot & Rousset 2013).

    Args:
        a: Shape (tasks, tasks), at least 3 tasks; the diagonal is not read.
        b: The same shape and order of tasks.
        control: The same, such as the overlap of vocabularies.
        permutations: How many; the smallest p is 1 / (1 + permutations).
        seed: Fixes the permutations.

    Returns:
        :class:`MantelTest`.

    Raises:
        ValueError: As in :func:`mantel`, and where ``control`` orders the pairs exactly as ``a`` or ``b`` does, which
            leaves nothing to compare.

    Cost: as :func:`mantel`.

    Example:
        >>> points = torch.tensor([0.0, 5.0, 1.0, 7.0, 3.0, 2.0])
        >>> a = (points[:, None] - points).abs()
        >>> control = torch.outer(points, points)
        >>> round(partial_mantel(a, a + 0.1 * control, control, permutations=99).statistic, 3)
        0.96

    """
    given = _rank_matrix("control", control, a)
    residuals = []
    for name, matrix in (("a", a), ("b", b)):
        ranks = _rank_matrix(name, matrix, a)
        rest = ranks - (ranks * given).sum() * given
        size = rest.norm()
        if size < 1e-6:
            raise ValueError(f"`control` orders the pairs as `{name}` does, or in reverse: nothing is left of it.")
        residuals.append(rest / size)
    return _permutation_test(residuals[0], residuals[1], permutations, seed)


def _rank_matrix(name: str, matrix: Tensor, like: Tensor) -> Tensor:
    """Ranks off the diagonal with mean 0 and length 1, and 0 on it."""
    if matrix.shape != like.shape:
        raise ValueError(f"`{name}` must have the shape of `a`, {tuple(like.shape)}, got {tuple(matrix.shape)}.")
    entries = off_diagonal(matrix.detach().cpu(), name)
    tasks = len(matrix)
    if tasks < 3:
        raise ValueError(f"`{name}` must have at least 3 tasks to permute, got {tasks}.")
    if bool((entries == entries[0]).all()):
        raise ValueError(f"`{name}` is {entries[0].item()} everywhere off its diagonal: its pairs have no order.")
    ranks = torch.zeros(tasks, tasks, dtype=torch.float64)
    ranks[~torch.eye(tasks, dtype=torch.bool)] = unit_ranks(entries)
    return ranks


def _permutation_test(a: Tensor, b: Tensor, permutations: int, seed: int) -> MantelTest:
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, got {permutations}.")
    tasks = len(a)
    flat = b.flatten()
    statistic = float(a.flatten() @ flat)
    reached = 0
    step = max(1, _ENTRIES // tasks**2)
    for start in range(0, permutations, step):
        number = min(step, permutations - start)
        counters = torch.arange(start * tasks, (start + number) * tasks).view(number, tasks)
        orders = _mixed(counters, seed).argsort(dim=1)
        permuted = a[orders].gather(2, orders[:, None, :].expand(number, tasks, tasks))
        reached += int((permuted.flatten(1) @ flat >= statistic - _ROUNDING).sum())
    return MantelTest(max(-1.0, min(1.0, statistic)), (1 + reached) / (1 + permutations))
