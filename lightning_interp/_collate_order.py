"""Whether a collate function of one's own keeps the order of samples, which its type does not tell."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from lightning_interp._kept_readings import evenly_spread
from lightning_interp._same_data import sample_hashes
from lightning_interp.isolation import kept_random_state

__all__ = ["why_order_is_unknown"]

_ITEMS = 16


def why_order_is_unknown(loader: Any) -> str | None:
    """Why sample k of a batch need not be item k of it; ``None`` where it is.

    torch's own collate function keeps the order. One of one's own may sort (by length, for packing): it is called on a
    few items of the data set and on the same ones turned round, whose batch must be the first one turned round. Random
    state stays as it is.

    Example:
        >>> why_order_is_unknown(DataLoader(range(9), batch_size=3)) is None
        True
        >>> why_order_is_unknown(DataLoader(range(9), 3, collate_fn=lambda items: torch.tensor(sorted(items))))
        'its collate_fn does not keep the order of samples'

    """
    collate = getattr(loader, "collate_fn", None)
    if type(loader) is not DataLoader or collate is default_collate or loader.batch_size == 1:
        return None
    number = min(_ITEMS, len(loader.dataset))  # type: ignore[arg-type]
    chosen = evenly_spread(len(loader.dataset), number)  # type: ignore[arg-type]
    try:
        with kept_random_state(), torch.no_grad():
            items = [loader.dataset[index] for index in chosen]
            there, back = collate(list(items)), collate(items[::-1])  # type: ignore[misc]
            kept = torch.equal(sample_hashes(there, number), sample_hashes(back, number).flip(0))
    except Exception as error:
        return f"whether its collate_fn keeps their order cannot be tried: {type(error).__name__}: {error}"
    return None if kept else "its collate_fn does not keep the order of samples"
