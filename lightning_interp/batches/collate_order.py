"""Whether a collate function of one's own keeps the order of samples, which its type does not tell."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from lightning_interp.batches.same_data import sample_hashes
from lightning_interp.functional.evenly_spread import evenly_spread
from lightning_interp.isolation import preserved_rng

__all__ = ["why_order_is_unknown"]

_ITEMS = 16


def why_order_is_unknown(loader: Any) -> str | None:
    """Why sample k of a batch need not be item k of it; ``None`` where it is.

    torch's own collate function keeps the order. One of one's own may sort (by length, for packing) or reverse: it is
    called on a few items of the data set, and on the same ones moved on by one and with the first two exchanged, whose
    batches must be the first one moved and exchanged alike. From these two every order can be made, so that nothing but
    a function that keeps the order passes. Random state stays as it is.

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
    if number < 2:
        return None
    chosen = evenly_spread(len(loader.dataset), number)  # type: ignore[arg-type]
    try:
        with preserved_rng(), torch.no_grad():
            items = [loader.dataset[index] for index in chosen]
            orders = [[*range(1, number), 0], [1, 0, *range(2, number)][:number]]
            there, again, *others = (
                sample_hashes(collate([items[place] for place in order]), number)  # type: ignore[misc]
                for order in (range(number), range(number), *orders)
            )
            kept = all(torch.equal(there[order], other) for order, other in zip(orders, others, strict=True))
    except Exception as error:
        return f"whether its collate_fn keeps their order cannot be tried: {type(error).__name__}: {error}"
    if not torch.equal(there, again):
        return "its collate_fn draws at random, so whether it keeps their order cannot be tried"
    return None if kept else "its collate_fn does not keep the order of samples"
