"""Agreement of ranks: of two lists or matrices (Spearman), and of several judges (Kendall's W)."""

from __future__ import annotations

import math
import operator
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Concordance", "average_ranks", "kendall_w", "matrix_correlation", "off_diagonal", "spearman"]


def average_ranks(x: Tensor) -> Tensor:
    """Ranks from 1 in rising order; equal values share the average of theirs.

    Args:
        x: Values, shape (N,), without NaN.

    Returns:
        float64 (N,).

    Raises:
        ValueError: If the shape is another one or values are NaN.

    Example:
        >>> average_ranks(torch.tensor([3.0, 1.0, 3.0, 2.0]))
        tensor([3.5000, 1.0000, 3.5000, 2.0000], dtype=torch.float64)

    """
    if x.ndim != 1:
        raise ValueError(f"`x` must have one dimension, got shape {tuple(x.shape)}.")
    _refuse_nan("x", x)
    _, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    counts = counts.double()
    ranks: Tensor = (counts.cumsum(0) - (counts - 1) / 2)[inverse]
    return ranks


def spearman(x: Tensor, y: Tensor) -> float:
    """Correlation of the ranks of two lists (Spearman 1904), with average ranks for equal values.

    Args:
        x: Values, shape (N,).
        y: Values, shape (N,).

    Returns:
        −1 to 1; NaN where either list is constant or has fewer than two values, since it then has no order.

    Raises:
        ValueError: If the lengths differ or values are NaN.

    Example:
        >>> round(spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 4.0, 9.0, 2.0])), 6)
        0.4

    """
    if x.shape != y.shape:
        raise ValueError(f"`x` and `y` must be of one length, got shapes {tuple(x.shape)} and {tuple(y.shape)}.")
    return float(unit_ranks(x.cpu()) @ unit_ranks(y.cpu()))


def unit_ranks(x: Tensor) -> Tensor:
    """Ranks with mean 0 and length 1, whose inner product is Spearman's correlation; NaN where all are equal."""
    ranks = average_ranks(x)
    ranks = ranks - (len(ranks) + 1) / 2  # ranks are multiples of 1/2: their mean is exact
    size = float(ranks.norm())
    return ranks / size if size > 0 else torch.full_like(ranks, math.nan)


class Concordance(NamedTuple):
    """How far several orders of the same things agree."""

    w: float
    """Kendall's W: 1 where all orders are the same, 1 / judges on average where they have nothing to do with each
    other, 0 where no thing comes earlier than another over all judges."""
    p: float
    """How often independent orders agree as well: (1 + such permutations) / (1 + permutations)."""


def kendall_w(values: Tensor, permutations: int = 999, seed: int = 0) -> Concordance:
    r"""Kendall's coefficient of concordance (Kendall & Babington Smith 1939), corrected for ties.

    With R_i the sum over m judges of the ranks of thing i of n, and t the sizes of groups of equal values

    .. math:: W = \frac{12 \sum_i (R_i - \bar R)^2}{m^2 (n^3 - n) - m \sum (t^3 - t)}

    Without ties it is (1 + (m − 1) ρ̄) / m with ρ̄ the mean of Spearman's correlations of all pairs of judges.

    Args:
        values: What each judge orders things by, such as the step at which each seed acquired each class: (judges,
            things), at least 2 of each. ``inf`` for what never came: last, and tied. No NaN.
        permutations: For p, each judge's order is shuffled so often.
        seed: Of the permutations; torch's random streams are not read.

    Returns:
        :class:`Concordance`; NaN where no judge orders anything.

    Raises:
        ValueError: If the shape is another, values are NaN, or ``permutations`` is below 1.

    Example:
        >>> kendall_w(torch.tensor([[10.0, 50.0, 90.0, 200.0], [12.0, 40.0, 99.0, 150.0]])).w
        1.0

    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"`values` must be (judges, things), at least 2 of each, got shape {tuple(values.shape)}.")
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, got {permutations}.")
    _refuse_nan("values", values)
    judges, things = values.shape
    ranks = torch.stack([average_ranks(row) for row in values.cpu()])
    ties = sum(float((count**3 - count).sum()) for count in (row.unique(return_counts=True)[1] for row in ranks))
    scale = judges**2 * (things**3 - things) - judges * ties
    if scale <= 0:
        return Concordance(math.nan, math.nan)
    generator = torch.Generator().manual_seed(operator.index(seed))
    orders = torch.rand(permutations, judges, things, generator=generator).argsort(-1)
    shuffled = ranks.expand(permutations, -1, -1).gather(-1, orders).sum(1)
    by_chance = (shuffled - judges * (things + 1) / 2).square().sum(-1)
    # Ranks are multiples of 1/2: their sums and squares are exact.
    found = (ranks.sum(0) - judges * (things + 1) / 2).square().sum()
    return Concordance(float(12 * found / scale), float((1 + (by_chance >= found).sum()) / (1 + permutations)))


def off_diagonal(matrix: Tensor, name: str = "matrix") -> Tensor:
    """The entries off the diagonal of a square matrix, row by row.

    Args:
        matrix: Shape (n, n).
        name: What errors call it.

    Returns:
        Shape (n(n − 1),).

    Raises:
        ValueError: If it is not square or an entry off the diagonal is NaN.

    Example:
        >>> off_diagonal(torch.tensor([[0, 1, 2], [3, 0, 4], [5, 6, 0]]))
        tensor([1, 2, 3, 4, 5, 6])

    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"`{name}` must be square (tasks, tasks), got shape {tuple(matrix.shape)}.")
    entries = matrix[~torch.eye(len(matrix), dtype=torch.bool, device=matrix.device)]
    _refuse_nan(name, entries, " off its diagonal; select the tasks that have all values first")
    return entries


def matrix_correlation(a: Tensor, b: Tensor) -> float:
    """Spearman's correlation of two matrices over their off-diagonal entries.

    Between two readings of one task space it says how stable the space is: 1 where the order of all pairs was kept. For
    symmetric matrices it is the correlation over the upper triangles. The pairs are not independent: for a test see
    :func:`mantel`.

    Args:
        a: Shape (tasks, tasks), symmetric or not; its diagonal is not read.
        b: The same shape, with tasks in the same order.

    Returns:
        −1 to 1; NaN where either matrix is constant off its diagonal.

    Raises:
        ValueError: If the shapes differ, are not square, or entries off the diagonal are NaN.

    Example:
        >>> a = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.2], [0.1, 0.2, 1.0]])
        >>> round(matrix_correlation(a, a**3), 6)
        1.0

    """
    if a.shape != b.shape:
        raise ValueError(f"`a` and `b` must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}.")
    return spearman(off_diagonal(a, "a"), off_diagonal(b, "b"))


def _refuse_nan(name: str, values: Tensor, where: str = "") -> None:
    number = int(values.isnan().sum()) if values.is_floating_point() else 0
    if number:
        raise ValueError(f"`{name}` has {number} NaN of {values.numel()} values{where}.")
