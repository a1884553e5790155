"""Spearman's correlation within strata, and its permutation test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["RankTest", "rank_test", "stratified_spearman"]

_ENTRIES = 1 << 22  # of permuted values held at a time: 32 MiB
_ROUNDING = 1e-12  # sums of equal products in another order


class RankTest(NamedTuple):
    """A rank correlation and how often chance does as well."""

    statistic: float
    """Spearman's correlation, within strata where there are any; −1 to 1."""
    p: float
    """Two-sided: (1 + number of permutations with at least that absolute value) / (1 + permutations)."""


def stratified_spearman(
    x: Tensor, y: Tensor, strata: Sequence[object] | None = None, counts: Tensor | None = None
) -> Tensor:
    r"""Correlation of ranks that are taken within strata: what two lists share beyond the strata's own levels.

    .. math:: r = \frac{\sum_s \sum_{i \in s} u_i v_i}{\sqrt{\sum u_i^2 \sum v_i^2}}, \quad
        u_i = \frac{\mathrm{rank}_s(x_i) - (n_s + 1)/2}{n_s + 1}

    Equal values share the average of their ranks; the divisor lets strata of different size count alike (van Elteren
    1960). Without strata it is Spearman's correlation.

    Args:
        x: Values, shape (N,).
        y: Values, shape (N,).
        strata: The stratum of each; one for all by default.
        counts: How often each value is there, (R, N), whole numbers: R resamples at once.

    Returns:
        float64, a scalar or (R,); NaN where either list has no order within any stratum.

    Raises:
        ValueError: If lengths differ or values are NaN.

    Example:
        >>> x, y = torch.tensor([1.0, 2.0, 3.0, 11.0, 12.0, 13.0]), torch.tensor([3.0, 2.0, 1.0, 6.0, 5.0, 4.0])
        >>> round(float(stratified_spearman(x, y)), 3), round(float(stratified_spearman(x, y, "aaabbb")), 3)
        (0.543, -1.0)

    """
    same = _same_stratum(x, y, strata)
    times = torch.ones(1, len(x), dtype=torch.float64) if counts is None else counts.double()
    if times.ndim != 2 or times.shape[1] != len(x):
        raise ValueError(f"`counts` must have shape (R, {len(x)}), got {tuple(times.shape)}.")
    u, v = _ranks(x, same, times), _ranks(y, same, times)
    size = (times * u * u).sum(1) * (times * v * v).sum(1)
    found = torch.where(size > 0, (times * u * v).sum(1) / size.clamp_min(1e-300).sqrt(), math.nan)
    return found[0] if counts is None else found


def rank_test(
    x: Tensor,
    y: Tensor,
    strata: Sequence[object] | None = None,
    blocks: Sequence[object] | None = None,
    permutations: int = 9999,
    seed: int = 0,
) -> RankTest:
    """Are two lists related, within strata? By permuting one of them.

    Args:
        x: Values, shape (N,).
        y: Values, shape (N,).
        strata: The stratum of each value: correlation and permutations are within strata.
        blocks: What is permuted as a whole, with each block holding one value of every stratum: for values that depend
            on each other within a block (runs of all sizes from one seed). By default each stratum is permuted by
            itself, for which values must be independent.
        permutations: How many; the smallest p is 1 / (1 + permutations), and few blocks have few orders.
        seed: Fixes the permutations, on every machine.

    Returns:
        :class:`RankTest`; both NaN where either list has no order within any stratum.

    Raises:
        ValueError: If lengths differ, values are NaN, or a block does not hold one value of every stratum.

    Example:
        >>> x = torch.arange(10.0)
        >>> result = rank_test(x, x.exp(), permutations=999)
        >>> round(result.statistic, 6), result.p
        (1.0, 0.001)

    """
    if permutations < 1:
        raise ValueError(f"`permutations` must be at least 1, got {permutations}.")
    same = _same_stratum(x, y, strata)
    once = torch.ones(1, len(x), dtype=torch.float64)
    u, v = _ranks(x, same, once)[0], _ranks(y, same, once)[0]
    size = float((u @ u) * (v @ v))
    if size == 0:
        return RankTest(math.nan, math.nan)
    statistic = float(u @ v) / math.sqrt(size)
    reached = 0
    step = max(1, _ENTRIES // max(1, len(x)))
    for start in range(0, permutations, step):
        number = min(step, permutations - start)
        orders = _orders(start, number, same, strata, blocks, seed)
        reached += int(((v[orders] @ u).abs() / math.sqrt(size) >= abs(statistic) - _ROUNDING).sum())
    return RankTest(statistic, (1 + reached) / (1 + permutations))


def _orders(
    start: int, number: int, same: Tensor, strata: Sequence[object] | None, blocks: Sequence[object] | None, seed: int
) -> Tensor:
    """Random orders of the N values, (number, N)."""
    total = len(same)
    if blocks is None:
        noise = counter_hash(torch.arange(start * total, (start + number) * total).view(number, total), seed)
        orders = torch.empty(number, total, dtype=torch.long)
        # The first member of each stratum stands for it.
        for place in sorted(set(same.int().argmax(1).tolist())):
            members = same[place].nonzero()[:, 0]
            orders[:, members] = members[noise[:, members].argsort(dim=1)]
        return orders
    table = _table(total, strata, blocks)
    columns = table.shape[1]
    noise = counter_hash(torch.arange(start * columns, (start + number) * columns).view(number, columns), seed)
    orders = torch.empty(number, total, dtype=torch.long)
    orders[:, table.flatten()] = table[:, noise.argsort(dim=1)].transpose(0, 1).reshape(number, total)
    return orders


def _table(total: int, strata: Sequence[object] | None, blocks: Sequence[object]) -> Tensor:
    """Place of the value of each stratum and block, (strata, blocks)."""
    groups = list(strata) if strata is not None else [None] * total
    if len(blocks) != total:
        raise ValueError(f"`blocks` has {len(blocks)} entries for {total} values.")
    places = {(group, block): place for place, (group, block) in enumerate(zip(groups, blocks, strict=True))}
    rows, columns = list(dict.fromkeys(groups)), list(dict.fromkeys(blocks))
    if len(places) != total or len(rows) * len(columns) != total:
        raise ValueError(
            f"`blocks` must hold one value of every stratum each: {len(columns)} blocks of {len(rows)} strata for "
            f"{total} values."
        )
    return torch.tensor([[places[row, column] for column in columns] for row in rows])


def _same_stratum(x: Tensor, y: Tensor, strata: Sequence[object] | None) -> Tensor:
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"`x` and `y` must be of one length, got shapes {tuple(x.shape)} and {tuple(y.shape)}.")
    for name, values in (("x", x), ("y", y)):
        if values.is_floating_point() and bool(values.isnan().any()):
            raise ValueError(f"`{name}` has {int(values.isnan().sum())} NaN of {len(values)} values.")
    if strata is None:
        return torch.ones(len(x), len(x), dtype=torch.bool)
    if len(strata) != len(x):
        raise ValueError(f"`strata` has {len(strata)} entries for {len(x)} values.")
    names = list(dict.fromkeys(strata))
    place = torch.tensor([names.index(stratum) for stratum in strata])
    return place[:, None] == place


def _ranks(x: Tensor, same: Tensor, counts: Tensor) -> Tensor:
    """Centred ranks within strata, divided by the stratum's size plus one, (R, N)."""
    x = x.cpu()
    below = ((x[None, :] < x[:, None]) & same).double()
    equal = ((x[None, :] == x[:, None]) & same).double()
    number = counts @ same.double()
    return (counts @ below.T + (counts @ equal.T - number) / 2) / (number + 1)
