"""Which coordinates matter most to two tasks, and how many of them are the same beyond what scale explains."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix, full_precision

__all__ = ["OverlapAboveNull", "overlap_above_null", "overlap_matrix"]

_COLUMNS = 1 << 16  # at a time as float32


class OverlapAboveNull(NamedTuple):
    """Overlap of the tasks' largest coordinates and what it would be without a common task; each (tasks, tasks)."""

    overlap: Tensor
    """O, 0 to 1."""
    null: Tensor
    """O_null, that of gradients which share the scale of coordinates only."""
    above: Tensor
    """O − O_null; its diagonal carries nothing."""


def overlap_matrix(values: Tensor, fraction: float = 0.01) -> Tensor:
    r"""Share of their largest coordinates that two tasks have in common, :math:`O_{ij} = |S_i \cap S_j| / |S|`.

    S holds the given fraction of the coordinates with the largest \|D\|. Chance is not the fraction: see
    :func:`overlap_above_null`.

    Args:
        values: Gradients at a sample of coordinates, the same for all tasks and from all shards: shape (tasks, sample).
            :func:`hashed_sample` selects them.
        fraction: Share of the coordinates in a set, between 0 and 1; at least one is taken.

    Returns:
        float32 (tasks, tasks), 1 on the diagonal. A task with fewer values other than 0 than a set holds, or with NaN
        or infinite ones, has no such set: NaN in its row and column. Of equal values at a set's edge any may be taken.
        Standard error from sampling coordinates: √(O(1 − O)/|S|), .005 at most for a million and 1 %.

    Raises:
        ValueError: If the shape is another one or the fraction is not within (0, 1].

    Cost: a partial sort of each row and tasks² · sample products: 1 s for 67 tasks and a million coordinates on one
    core; memory of one byte a value.

    Example:
        >>> values = torch.tensor([[9.0, -8.0, 1.0, 0.1], [0.3, 7.0, -6.0, 0.2]])
        >>> overlap_matrix(values, fraction=0.5)
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])

    """
    sets, size = _top_sets("values", values, fraction)
    return _shared(sets, sets, size)


def overlap_above_null(values: Tensor, null: Tensor, fraction: float = 0.01, matched: bool = False) -> OverlapAboveNull:
    r"""Overlap of the tasks' largest coordinates beyond that of gradients without a task in common.

    Some coordinates have large gradients whatever the text. Two gradients with independent signs that share nothing but
    the scale of each coordinate overlap by .41 in their top 1 % where scales are log-normal with a standard deviation
    of 1.5 in natural log units, and by .29 and .50 at 1 and 2, while naive chance says .01. The null has to come from
    gradients.

    Args:
        values: The tasks' gradients at a sample of coordinates, (tasks, sample).
        null: Gradients without a task at the same coordinates. Not matched: of general text, any number of them
            (draws, sample), and O_null[i, j] = (o_i + o_j)/2 with o_i the mean overlap of task i's set with the null's.
            Matched: row i from task i's own pairs with the two sentences swapped at random, (tasks, sample), and
            O_null[i, j] is the overlap of null i with null j; this also accounts for words that both tasks use.
        fraction: Share of the coordinates in a set.
        matched: Whether row i of the null belongs to task i.

    Returns:
        :class:`OverlapAboveNull`, NaN as in :func:`overlap_matrix`; null gradients without a set are left out of o_i.

    Raises:
        ValueError: If the shapes do not fit or the fraction is not within (0, 1].

    Cost: as :func:`overlap_matrix` for the rows of both.

    Example:
        >>> scale = torch.tensor([100.0, 10.0, 1.0, 1.0])
        >>> values = scale * torch.tensor([[1.0, 1.0, 2.0, 1.0], [-1.0, 1.0, 1.0, 2.0]])
        >>> result = overlap_above_null(values, null=scale[None], fraction=0.5)
        >>> result.overlap[0, 1].item(), result.above[0, 1].item()
        (1.0, 0.0)

    """
    sets, size = _top_sets("values", values, fraction)
    if null.ndim != 2 or null.shape[1] != values.shape[1] or (matched and null.shape != values.shape):
        rows = values.shape[0] if matched else "draws"
        raise ValueError(f"`null` must have shape ({rows}, {values.shape[1]}), got {tuple(null.shape)}.")
    null_sets, _ = _top_sets("null", null, fraction)
    overlap = _shared(sets, sets, size)
    if matched:
        level = _shared(null_sets, null_sets, size)
    else:
        own = _shared(sets, null_sets, size).nanmean(dim=1)
        level = (own[:, None] + own) / 2
    return OverlapAboveNull(overlap, level, overlap - level)


def _top_sets(name: str, values: Tensor, fraction: float) -> tuple[Tensor, int]:
    """Membership (rows, sample), bool, all False for a row that has no set; and how many a set holds."""
    check_matrix(name, values)
    if not 0 < fraction <= 1:
        raise ValueError(f"`fraction` must lie above 0 and not above 1, got {fraction}.")
    size = max(1, round(fraction * values.shape[1]))
    sets = torch.zeros(values.shape, dtype=torch.bool, device=values.device)
    for row, members in zip(values.detach(), sets, strict=True):
        top = row.abs().topk(size)
        # NaN counts as largest, so that none escapes.
        members[top.indices] = (top.values.isfinite() & (top.values > 0)).all()
    return sets, size


def _shared(one: Tensor, other: Tensor, size: int) -> Tensor:
    """|S_i ∩ S_j| / |S| for rows of two memberships; NaN where a row has no set."""
    counts = torch.zeros(len(one), len(other), device=one.device)
    with full_precision(one.device):
        for start in range(0, one.shape[1], _COLUMNS):
            stop = start + _COLUMNS
            counts += one[:, start:stop].float() @ other[:, start:stop].float().T
    known = one.any(dim=1)[:, None] & other.any(dim=1)
    return torch.where(known, counts / size, math.nan)
