"""Patches of images and stretches of signals: the patch of each position, and which patches a mark touches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["marked_patches", "patch_edges", "patch_index"]


def patch_edges(size: int, patch: int) -> list[int]:
    """Where the patches of one axis begin, and where the last one ends; the last one is smaller where it has to be.

    Args:
        size: Positions of the axis.
        patch: Positions of a patch.

    Raises:
        ValueError: If either is below 1.

    Example:
        >>> patch_edges(7, 3)
        [0, 3, 6, 7]

    """
    if size < 1 or patch < 1:
        raise ValueError(f"`size` and `patch` must be at least 1, got {size} and {patch}.")
    return [*range(0, size, patch), size]


def patch_index(sizes: Sequence[int], patch: Sequence[int]) -> Tensor:
    """The patch that each position belongs to.

    Args:
        sizes: Positions along each axis, such as (H, W).
        patch: Positions of a patch along each; the last one of an axis is smaller where it does not divide it.

    Returns:
        int64 of the shape ``sizes``: 0 to n − 1, numbered as text is read.

    Raises:
        ValueError: If there are not as many of both, or one is below 1.

    Example:
        >>> patch_index((3, 4), (2, 2)).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3]]

    """
    if len(sizes) != len(patch) or not len(sizes):
        raise ValueError(f"`patch` must have a number for each of the sizes {tuple(sizes)}, got {tuple(patch)}.")
    found = torch.zeros((), dtype=torch.int64)
    for size, one in zip(sizes, patch, strict=True):
        number = len(patch_edges(size, one)) - 1
        found = found[..., None] * number + torch.arange(size) // one
    return found


def marked_patches(index: Tensor, marks: Tensor) -> Tensor:
    """Which patches have any position that is marked.

    Args:
        index: The patch of each position, int64 of any shape, 0 to n − 1.
        marks: Of each example the positions that are marked, (B, *shape); anything but 0 marks.

    Returns:
        bool (B, n).

    Raises:
        ValueError: If shapes do not fit together.

    Example:
        >>> marked_patches(torch.tensor([0, 0, 1]), torch.tensor([[False, True, False]]))
        tensor([[ True, False]])

    """
    if marks.shape[1:] != index.shape or not index.numel():
        raise ValueError(f"`marks` must be (B, *{tuple(index.shape)}), got {tuple(marks.shape)}.")
    found = torch.zeros(len(marks), int(index.max()) + 1, dtype=torch.int64, device=marks.device)
    found.index_add_(1, index.flatten().to(marks.device), (marks != 0).flatten(1).long())
    return found > 0
