"""A fixed sample of the items of a data set, as batches that are the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.isolation import seed_all

__all__ = ["DrawnItems", "drawn_places"]

_BATCH = 32  # where the loader does not say


def drawn_places(number: int, most: int | None, seed: int = 0) -> Tensor:
    """Places in a data set, rising: those with the smallest hashes, so that a larger sample holds a smaller one.

    Args:
        number: How many items there are.
        most: How many are drawn; ``None`` for all.
        seed: Of the hash.

    Example:
        >>> few, more = (set(drawn_places(1000, most).tolist()) for most in (5, 50))
        >>> len(few), len(more), few < more
        (5, 50, True)

    """
    everything = torch.arange(number)
    if most is None or most >= number:
        return everything
    return counter_hash(everything, seed).topk(most, largest=False, sorted=False).indices.sort().values


class DrawnItems:
    """Batches of a sample of a loader's data set, by its own ``collate_fn``, in the main process.

    Before each batch random streams are set by its place, so that what items draw (crops, masks) is the same each time:
    to be iterated where they are put back.

    Args:
        loader: A ``DataLoader`` over a data set whose items can be had by their place.
        most: How many items are drawn.
        seed: Of the sample, and of what items draw.

    Raises:
        ValueError: If items cannot be drawn from it.

    Example:
        >>> items = DrawnItems(DataLoader(range(100), batch_size=2), 3)
        >>> items.places.tolist(), [batch.tolist() for batch in items]
        ([14, 25, 86], [[14, 25], [86]])

    """

    def __init__(self, loader: Any, most: int | None, seed: int = 0) -> None:
        why = _why_not(loader)
        if why:
            raise ValueError(f"No sample can be drawn from the training data: {why}. Give the examples with `data=`.")
        self.dataset: Any = loader.dataset
        self.collate: Callable[[list[Any]], Any] = loader.collate_fn
        self.batch_size = int(loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _BATCH)
        self.seed = seed
        self.places = drawn_places(len(self.dataset), most, seed)
        """Place in the data set of each item drawn, rising."""

    @property
    def sizes(self) -> list[int]:
        """How many items make each batch."""
        return [len(one) for one in self._batches()]

    def __iter__(self) -> Iterator[Any]:
        for places in self._batches():
            seed_all(self.seed + places[0])
            yield self.collate([self.dataset[place] for place in places])

    def _batches(self) -> list[list[int]]:
        places = self.places.tolist()
        return [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]


def _why_not(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return f"its loader is a {type(loader).__name__}, not a DataLoader"
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return f"{type(dataset).__name__} is a stream, whose items have no place"
    if loader.batch_sampler is None:
        return "items of its data set are batches"
    return "" if len(dataset) else "its data set is empty"
