"""Sentences of unequal length as padded batches under a budget of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["Share", "dealt", "length_batches", "pad_right"]

Share = tuple[int, int]
"""(r, n): part r of n."""
T = TypeVar("T")


def dealt(batches: Sequence[T], share: Share) -> Sequence[T]:
    """Every n-th batch from batch r on, of a share (r, n): whole batches, so that each is computed as by one process.

    Example:
        >>> dealt("abcde", (1, 2))
        'bd'

    """
    return batches[share[0] :: share[1]]


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group items of similar length, so that a padded batch has at most so many tokens.

    Args:
        lengths: Padded tokens that each item needs.
        batch_tokens: The budget, number of items × longest of them. An item that exceeds it goes alone.

    Returns:
        Positions of the items, batch by batch, from short to long; equal lengths keep their order.

    Raises:
        ValueError: If the budget is below 1.

    Example:
        >>> length_batches([5, 2, 3, 2], batch_tokens=6)
        [[1, 3], [2], [0]]

    """
    if batch_tokens < 1:
        raise ValueError(f"`batch_tokens` must be at least 1, got {batch_tokens}.")
    batches: list[list[int]] = []
    for item in sorted(range(len(lengths)), key=lengths.__getitem__):
        # Lengths rise, so this item is the longest of the batch it would join.
        if batches and (len(batches[-1]) + 1) * lengths[item] <= batch_tokens:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def pad_right(
    sequences: Sequence[Tensor], pad_token_id: int = 0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Sequences of ids side by side, padding on the right.

    Args:
        sequences: B vectors of ids.
        pad_token_id: The id in the padding. A causal model never sees it from a position that counts.
        device: Where the result lives.

    Returns:
        Ids and attention mask (1 at tokens, 0 at padding), int64 (B, T) with T the longest length.

    Example:
        >>> pad_right([torch.tensor([5]), torch.tensor([6, 7])])
        (tensor([[5, 0],
                [6, 7]]), tensor([[1, 0],
                [1, 1]]))

    """
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids.to(device), mask.to(device)
