"""Which examples are held out together: folds that depend on a seed and on nothing that changes in training."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

__all__ = ["block_folds", "check_folds", "random_folds"]


def random_folds(number: int, folds: int = 5, seed: int = 0) -> Tensor:
    """Folds of nearly equal size at random.

    Args:
        number: Examples.
        folds: Folds, at least 3 and at most one an example.
        seed: Of the draw.

    Returns:
        The fold of each example, int64 (number,), on the CPU.

    Raises:
        ValueError: If the number of folds does not fit.

    Example:
        >>> random_folds(6, 3).bincount()
        tensor([2, 2, 2])

    """
    if not 3 <= folds <= number:
        raise ValueError(f"`folds` must be at least 3 and at most the number of examples, {number}; got {folds}.")
    order = torch.randperm(number, generator=torch.Generator().manual_seed(operator.index(seed)))
    found = torch.empty(number, dtype=torch.long)
    found[order] = torch.arange(number) % folds
    return found


def block_folds(blocks: Sequence[Hashable], folds: int = 5, seed: int = 0) -> Tensor:
    """Folds that never divide a block: whole countries, decades or topics are held out.

    Blocks go one by one, the largest first and equal ones in random order, to the fold that has the fewest examples.

    Args:
        blocks: The block of each example, of at least 3 blocks.
        folds: Folds, at least 3; as many as there are blocks where these are fewer.
        seed: Of the order of blocks of one size.

    Returns:
        The fold of each example, int64 (number,), on the CPU.

    Raises:
        ValueError: If there are fewer than three blocks or folds.

    Example:
        >>> block_folds(["fr", "fr", "it", "es", "es", "es"], folds=3)
        tensor([1, 1, 2, 0, 0, 0])

    """
    if folds < 3:
        raise ValueError(f"`folds` must be at least 3, got {folds}.")
    sizes = Counter(blocks)
    if len(sizes) < 3:
        raise ValueError(
            f"`blocks` must name at least 3 blocks, to fit, choose and test on; got {sorted(map(str, sizes))}."
        )
    names = list(sizes)
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(operator.index(seed))).tolist()
    filled = [0] * min(folds, len(names))
    place: dict[Hashable, int] = {}
    for name in sorted((names[index] for index in order), key=lambda name: -sizes[name]):
        place[name] = filled.index(min(filled))
        filled[place[name]] += sizes[name]
    return torch.tensor([place[name] for name in blocks])


def check_folds(folds: Tensor, number: int) -> int:
    """How many folds there are, or a ``ValueError`` where they are not 0, 1, 2 … for this many examples."""
    if folds.shape != (number,) or folds.is_floating_point():
        raise ValueError(
            f"`folds` must be integers of shape ({number},), one an example; got {folds.dtype} {tuple(folds.shape)}."
        )
    found = torch.unique(folds).tolist()
    if len(found) < 3 or found != list(range(len(found))):
        raise ValueError(f"`folds` must hold every number from 0 to at least 2, got {found[:10]}.")
    return len(found)
