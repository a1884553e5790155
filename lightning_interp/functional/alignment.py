"""How much two tasks' gradients point the same way, and how much they would without noise."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import check_matrix, full_precision, wide_dtype

__all__ = ["WithinBetween", "cosine_matrix", "disattenuate", "reliability", "same_group", "within_between"]


class WithinBetween(NamedTuple):
    """Means of the off-diagonal entries of a matrix over tasks."""

    within: float
    """Over pairs of different tasks of one group; NaN where there are none."""
    between: float
    """Over pairs of tasks of two groups; NaN where there are none."""


def cosine_matrix(vectors: Tensor, centred: bool = False) -> Tensor:
    r"""Cosine of every two tasks, :math:`C_{ij} = \langle v_i, v_j \rangle / (\|v_i\| \|v_j\|)`.

    Args:
        vectors: A gradient or its sketch each, shape (tasks, dim).
        centred: Remove the mean over tasks first: what all tasks share, such as being language at all. Cosines of T
            unrelated tasks are then −1/(T − 1) on average instead of 0.

    Returns:
        Symmetric (tasks, tasks), float64 (float32 where a device has none). A task without length, or with a value that
        is not finite, has NaN in its row and column; centred, a value that is not finite spreads to all tasks. Sketches
        of 65,536 buckets add an error of about .004.

    Raises:
        ValueError: If the shape is another one.

    Example:
        >>> vectors = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> cosine_matrix(vectors)
        tensor([[1.0000, 0.7071],
                [0.7071, 1.0000]], dtype=torch.float64)

    """
    unit = _unit("vectors", vectors, centred)
    with full_precision(unit.device):
        product = unit @ unit.T
    return (product + product.T) / 2


def reliability(first: Tensor, second: Tensor, centred: bool = False) -> Tensor:
    r"""How much of each task's vector is signal, from two halves of its examples: :math:`r_i = 2 h_i / (1 + h_i)`.

    h is the cosine of the two halves, the reliability of one half. The vector that is compared averages both, so that
    its noise has half the variance, which the formula of Spearman (1910) and Brown (1910) accounts for.
    Dividing by h itself would give 2/(1 + h) times the truth: where that is .5, .61 at h = .64 and .84 at h = .19.

    Args:
        first: Each task's vector or sketch from one half of its pairs, (tasks, dim).
        second: The same from the other half; no pair may be in both.
        centred: For centred cosines. Each half is then centred with its own mean over tasks: a common mean would carry
            the noise of both halves into both and feign reliability. As centring is linear, the average of two centred
            halves is the centred average.

    Returns:
        r, shape (tasks,), float64 (float32 where a device has none): 1 without noise, about 0 where there is nothing
        else, unbounded below as h nears −1. Sketches add an error of up to 2/√buckets.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> first, second = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 1.0]])
        >>> reliability(first, second)
        tensor([0.8284], dtype=torch.float64)

    """
    if first.shape != second.shape:
        raise ValueError(
            f"`first` and `second` must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}."
        )
    half = (_unit("first", first, centred) * _unit("second", second, centred)).sum(dim=1)
    return 2 * half / (1 + half)


def disattenuate(cosines: Tensor, reliability: Tensor, floor: float = 0.1) -> Tensor:
    r"""What cosines would be without noise, :math:`C_{ij} / \sqrt{r_i r_j}` (Spearman 1904).

    Without it a rise of alignment during training may be nothing but a fall of gradient noise. In centred cosines a
    bias of :math:`-(1 - r) / (r (T - 1))` remains, since the mean over T tasks shares its noise with each of them.

    Args:
        cosines: Shape (tasks, tasks).
        reliability: r of each task, shape (tasks,).
        floor: Where r is at or below it, or not above 0, a task has too little signal for an estimate: its row and
            column are NaN. The error of the result is that of the cosines divided by r, ten times at the default.

    Returns:
        Shape (tasks, tasks), not clipped: noise may carry it beyond ±1. The diagonal is 1 by definition.

    Raises:
        ValueError: If the shapes do not fit or the floor is not within [0, 1).

    Example:
        >>> cosines = torch.tensor([[1.0, 0.4], [0.4, 1.0]])
        >>> disattenuate(cosines, torch.tensor([0.8, 0.8]))
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])

    """
    if cosines.shape != (len(reliability), len(reliability)) or reliability.ndim != 1:
        raise ValueError(
            "`cosines` and `reliability` must be (tasks, tasks) and (tasks,), got shapes "
            f"{tuple(cosines.shape)} and {tuple(reliability.shape)}."
        )
    if not 0 <= floor < 1:
        raise ValueError(f"`floor` must be at least 0 and below 1, got {floor}.")
    scale = torch.where(reliability > floor, reliability, math.nan).sqrt()
    corrected = cosines / (scale[:, None] * scale)
    corrected.diagonal().copy_(scale / scale)
    return corrected


def same_group(groups: Sequence[Hashable]) -> Tensor:
    """1 where two tasks belong to one group, such as a linguistic phenomenon, else 0.

    Args:
        groups: The group of each task.

    Returns:
        float64 (tasks, tasks): the space as hypothesised, for :func:`mantel`.

    Example:
        >>> same_group(["islands", "islands", "binding"])
        tensor([[1., 1., 0.],
                [1., 1., 0.],
                [0., 0., 1.]], dtype=torch.float64)

    """
    known = {group: index for index, group in enumerate(dict.fromkeys(groups))}
    index = torch.tensor([known[group] for group in groups], dtype=torch.long)
    return (index[:, None] == index).double()


def within_between(matrix: Tensor, groups: Sequence[Hashable]) -> WithinBetween:
    """Mean of a matrix over pairs of tasks within a group and between groups, without the diagonal.

    Args:
        matrix: Shape (tasks, tasks), symmetric or not; NaN entries are left out.
        groups: The group of each task.

    Returns:
        :class:`WithinBetween`. Every pair weighs the same, so large groups count most within.

    Raises:
        ValueError: If there is not one group a task.

    Example:
        >>> matrix = torch.tensor([[1.0, 0.8, 0.1], [0.8, 1.0, 0.3], [0.1, 0.3, 1.0]])
        >>> within, between = within_between(matrix, ["islands", "islands", "binding"])
        >>> round(within, 3), round(between, 3)
        (0.8, 0.2)

    """
    if matrix.shape != (len(groups), len(groups)):
        raise ValueError(
            f"`matrix` must be ({len(groups)}, {len(groups)}) for {len(groups)} `groups`, got {tuple(matrix.shape)}."
        )
    values = matrix.detach().cpu().double()
    same = same_group(groups).bool()
    apart = ~torch.eye(len(groups), dtype=torch.bool)
    return WithinBetween(float(values[same & apart].nanmean()), float(values[~same].nanmean()))


def _unit(name: str, vectors: Tensor, centred: bool) -> Tensor:
    check_matrix(name, vectors)
    wide = vectors.detach().to(wide_dtype(vectors.device))
    size = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    if centred:
        wide = wide - wide.mean(dim=0)
    length: Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    # What centring leaves of equal tasks is rounding, which has a direction but means nothing.
    return wide / torch.where(length > 16 * torch.finfo(wide.dtype).eps * size, length, math.nan)
