"""What tells lists of encoded sentences apart, for those that share what a model makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ids_digest"]


def ids_digest(ids: Sequence[Tensor], numbers: Sequence[int] = ()) -> bytes:
    """A digest of encoded sentences: the same for the same ids in the same order, cut at the same places.

    Args:
        ids: The ids of each sentence, int64.
        numbers: Whole numbers that are to enter as well.

    Example:
        >>> one, two = torch.tensor([1, 2]), torch.tensor([3])
        >>> ids_digest([one, two]) == ids_digest([one.clone(), two.clone()])
        True
        >>> ids_digest([one, two]) == ids_digest([torch.tensor([1]), torch.tensor([2, 3])])
        False

    """
    told = torch.cat([torch.tensor([len(ids), *map(len, ids), *numbers]), *ids])
    return hashlib.blake2b(told.numpy().tobytes()).digest()
