"""Means of groups of numbers, beside what they would be if the groups were drawn at random."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional._numerics import wide_dtype

__all__ = ["GroupMeans", "group_means"]


class GroupMeans(NamedTuple):
    """Means of the groups, with mean and spread of the same under permuted groups."""

    names: tuple[Hashable, ...]
    """The groups, in the order in which they first come."""
    counts: Tensor
    """Members of each, int64 (K,)."""
    means: Tensor
    """(..., K)"""
    chance: Tensor
    """Expected mean of a group under a random permutation of groups: that of all, (..., K)."""
    chance_sd: Tensor
    """Its standard deviation over permutations, (..., K); 0 for a group of all."""


def group_means(values: Tensor, groups: Sequence[Hashable]) -> GroupMeans:
    r"""Mean of each group, and mean and standard deviation of that mean over all permutations of the groups.

    .. math::
        \mathrm{E} = \bar x, \qquad
        \mathrm{sd} = \sqrt{\frac{\sigma^2}{n_k} \cdot \frac{N - n_k}{N - 1}}, \qquad
        \sigma^2 = \frac1N \sum_i (x_i - \bar x)^2

    which is sampling :math:`n_k` of N without replacement: what permutations would give, exactly and at once.

    Args:
        values: (..., N).
        groups: The group of each, of length N.

    Returns:
        :class:`GroupMeans`, float64 (float32 where there is none).

    Raises:
        ValueError: If there is not one group for each value, or there is no value.

    Example:
        >>> found = group_means(torch.tensor([1.0, 1.0, 4.0]), ["a", "a", "b"])
        >>> found.names, found.means.tolist(), found.chance.tolist()
        (('a', 'b'), [1.0, 4.0], [2.0, 2.0])

    """
    number = values.shape[-1] if values.ndim else 0
    if len(groups) != number or not number:
        raise ValueError(f"`groups` must name a group for each of {number} values, got {len(groups)}.")
    places = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    belongs = torch.tensor([places[name] for name in groups], device=values.device)
    x = values.to(wide_dtype(values.device))
    counts = torch.bincount(belongs, minlength=len(places))
    means = x.new_zeros(*x.shape[:-1], len(places)).index_add_(-1, belongs, x) / counts
    chance = x.mean(-1, keepdim=True)
    spread = (x - chance).square().mean(-1, keepdim=True)
    left = (number - counts) / max(number - 1, 1)
    return GroupMeans(tuple(places), counts, means, chance.expand_as(means), (spread / counts * left).sqrt())
