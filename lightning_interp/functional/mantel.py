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
_PAIRS_A_COLUMN = 20  # of the spline that takes a control out
_NOTHING = 1e-6  # of ranks of length 1


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

    From the ranks of ``a`` and of ``b`` a smooth function of ``control`` is taken out: least squares on a cubic spline
    in the control's own units, :math:`1, x, x^2, x^3` and :math:`(x - q)_+^3` at its quartiles q. With
    :math:`M` the projection on what is left, and :math:`P` a permutation of the tasks,

    .. math:: r = \frac{\langle M a, M b \rangle}{\|M a\| \|M b\|}, \qquad
              r_P = \frac{\langle M P M a, M b \rangle}{\|M P M a\| \|M b\|}

    (residuals are permuted and the control is taken out again: Freedman & Lane 1983, method 3 of Legendre 2000). One
    column of the spline is used for each 20 pairs of tasks, up to six: below 9 tasks it is a line, from 16 on all of
    it. A line in the ranks of the control is not enough: where the space is the overlap of words and noise, it leaves
    a part of the overlap in it, and p ≤ .05 in 65 % of such spaces instead of 5 %.

    Measured on spaces that are a function of the control and noise (its own units, exponential, logistic, vectors that
    are sums of word vectors, overlaps of the grammar's and of BLiMP's vocabularies; 16 to 67 tasks): p ≤ .05 in 0 to
    9 %, mean statistic within .015 of 0. What remains: a control that is measured with error, as where some words
    matter more to the space than others and the control counts them alike, is not fully taken out by this or any
    other regression. Where both matrices vary smoothly over the same hidden dimension p is too small, as it is for the
    plain test (Guillot & Rousset 2013).

    Args:
        a: Shape (tasks, tasks), at least 3 tasks; the diagonal is not read.
        b: The same shape and order of tasks.
        control: The same, such as the overlap of vocabularies; finite.
        permutations: How many; the smallest p is 1 / (1 + permutations).
        seed: Fixes the permutations.

    Returns:
        :class:`MantelTest`.

    Raises:
        ValueError: As in :func:`mantel`, where ``control`` is not finite, and where it says all there is to ``a`` or
            ``b``, which leaves nothing to compare.

    Cost: as :func:`mantel`, and a third more.

    Example:
        >>> points = torch.tensor([0.0, 5.0, 1.0, 7.0, 3.0, 2.0])
        >>> a = (points[:, None] - points).abs()
        >>> control = torch.outer(points, points)
        >>> round(partial_mantel(a, a + 0.1 * control, control, permutations=99).statistic, 3)
        0.981

    """
    smooth = _smooth_functions(control, a)
    residuals = []
    for name, matrix in (("a", a), ("b", b)):
        rest = _rest(_rank_matrix(name, matrix, a), smooth)
        size = rest.norm()
        if size < _NOTHING:
            raise ValueError(f"`control` explains the order of the pairs in `{name}`: nothing is left of it.")
        residuals.append(rest / size)
    return _permutation_test(residuals[0], residuals[1], permutations, seed, smooth)


def beyond_control(matrix: Tensor, control: Tensor) -> bool:
    """Whether anything of the order of a matrix's pairs is left where :func:`partial_mantel` takes the control out."""
    return float(_rest(_rank_matrix("matrix", matrix, matrix), _smooth_functions(control, matrix)).norm()) >= _NOTHING


def _rest(matrix: Tensor, smooth: Tensor) -> Tensor:
    """What orthonormal functions (tasks², k) leave of a matrix (tasks, tasks)."""
    flat = matrix.flatten()
    return (flat - smooth @ (smooth.T @ flat)).view_as(matrix)


def _smooth_functions(control: Tensor, like: Tensor) -> Tensor:
    """An orthonormal basis of the splines in a control, 0 on the diagonal: (tasks², k), the constant among them."""
    _rank_matrix("control", control, like)  # its errors
    x = off_diagonal(control.detach().cpu().double(), "control")
    if not bool(x.isfinite().all()):
        raise ValueError(
            f"`control` must be finite off its diagonal, got {int((~x.isfinite()).sum())} infinite values."
        )
    x = (x - x.mean()) / x.std()
    columns = max(1, min(6, len(x) // 2 // _PAIRS_A_COLUMN))
    knots = x.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)).tolist()
    powers = [x, x**2, x**3, *((x - knot).clamp_min(0) ** 3 for knot in knots)][:columns]
    design = torch.stack([torch.ones_like(x), *powers], 1)
    # Scaled to one length; what few distinct values of the control leave equal to other columns is dropped.
    left, size, _ = torch.linalg.svd(design / design.norm(dim=0).clamp_min(1e-300), full_matrices=False)
    kept = left[:, size > 1e-9 * size[0]]
    basis = torch.zeros(len(control) ** 2, kept.shape[1], dtype=torch.float64)
    basis[~torch.eye(len(control), dtype=torch.bool).flatten()] = kept
    return basis


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


def _permutation_test(a: Tensor, b: Tensor, permutations: int, seed: int, smooth: Tensor | None = None) -> MantelTest:
    """Of matrices of length 1; ``smooth``, of which ``b`` has nothing, is taken out of each permuted ``a``."""
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
        found = permuted.flatten(1) @ flat
        if smooth is not None:
            left = 1 - (permuted.flatten(1) @ smooth).square().sum(1)
            found = torch.where(left > _NOTHING**2, found / left.clamp_min(_NOTHING**2).sqrt(), 0.0)
        reached += int((found >= statistic - _ROUNDING).sum())
    return MantelTest(max(-1.0, min(1.0, statistic)), (1 + reached) / (1 + permutations))
