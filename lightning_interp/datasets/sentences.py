"""Sentences of unequal length as padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from lightning_interp.datasets.vocabulary import PAD_ID

__all__ = ["sentence_loader"]


def sentence_loader(
    sentences: Sequence[Sequence[int] | Tensor],
    batch_size: int = 32,
    shuffle: bool = False,
    pad_token_id: int = PAD_ID,
    **kwargs: Any,
) -> DataLoader[dict[str, Tensor]]:
    """Batches of a language model: ``input_ids`` and ``attention_mask``, int64 (B, T), padding on the right.

    Args:
        sentences: The ids of each, none of them empty.
        batch_size: Sentences in a batch.
        shuffle: Whether their order is drawn anew in every epoch.
        pad_token_id: What stands behind the shorter ones.
        kwargs: More of ``DataLoader``.

    Raises:
        ValueError: If there is no sentence, or one is empty.

    Example:
        >>> next(iter(sentence_loader([[1, 5, 2], [1, 2]])))
        {'input_ids': tensor([[1, 5, 2],
                [1, 2, 0]]), 'attention_mask': tensor([[1, 1, 1],
                [1, 1, 0]])}

    """
    ids = [torch.as_tensor(one, dtype=torch.long) for one in sentences]
    if not ids:
        raise ValueError("`sentences` is empty; expected the ids of one sentence or more.")
    if empty := [place for place, one in enumerate(ids) if not len(one)]:
        raise ValueError(f"`sentences` has no ids at {empty[:8]}.")

    def collate(some: Sequence[Tensor]) -> dict[str, Tensor]:
        mask = pad_sequence([torch.ones_like(one) for one in some], batch_first=True)
        return {
            "input_ids": pad_sequence([*some], batch_first=True, padding_value=pad_token_id),
            "attention_mask": mask,
        }

    return DataLoader(ids, batch_size=batch_size, shuffle=shuffle, collate_fn=collate, **kwargs)  # type: ignore[arg-type]
