"""How alike two inputs are by themselves, without any model: the level that influence of data is held against."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["input_products"]


def input_products(x: Tensor, y: Tensor, x_mask: Tensor | None = None, y_mask: Tensor | None = None) -> Tensor:
    r"""Inner products of inputs: of numbers as they are, of token ids by how often each occurs.

    .. math:: x_q \cdot y_z, \qquad \text{or for ids} \quad \sum_w n_q(w) \, n_z(w)

    Args:
        x: Inputs (Q, ...), floating point, or ids.
        y: Others of the same kind, (B, ...), of the same shape where they are numbers.
        x_mask: Which ids count, of the shape of ``x``; all by default.
        y_mask: The same for ``y``.

    Returns:
        At least float32, (Q, B).

    Raises:
        ValueError: If one is numbers and the other ids, or numbers have other shapes.

    Example:
        >>> input_products(torch.tensor([[5, 5, 7]]), torch.tensor([[5, 9], [9, 9]]))
        tensor([[2., 0.]])

    """
    if x.is_floating_point() != y.is_floating_point():
        raise ValueError(f"inputs must be of one kind, got {x.dtype} and {y.dtype}.")
    if x.is_floating_point():
        if x.shape[1:] != y.shape[1:]:
            raise ValueError(f"inputs must have one shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}.")
        return x.flatten(1) @ y.flatten(1).to(x).T
    words = torch.unique(x)
    return _counts(x, words, x_mask) @ _counts(y.to(x), words, y_mask).T


def _counts(ids: Tensor, words: Tensor, mask: Tensor | None) -> Tensor:
    """How often each of some words occurs, (rows, words)."""
    flat = ids.flatten(1)
    place = torch.searchsorted(words, flat).clamp_max(len(words) - 1)
    known = words[place] == flat
    if mask is not None:
        known &= mask.to(ids.device).flatten(1).bool()
    counts = torch.zeros(len(flat), len(words), device=ids.device)
    return counts.scatter_add_(1, place, known.to(counts))
