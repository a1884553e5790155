"""A fixed sample of the items of a data set, as batches that are the same each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.isolation import seed_all

__all__ = ["DrawnItems", "drawn_places"]

T = TypeVar("T")

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
        return [len(one) for one in self._cut(self.places.tolist())]

    def __iter__(self) -> Iterator[Any]:
        return (self.collate(items) for _, items in self._loaded())

    def by_group(self, group: Callable[[Any], Tensor]) -> tuple[list[Any], Tensor, list[int]]:
        """All batches, each of items of one group, the groups in order.

        Args:
            group: Gives the group of each item of a batch, integers (B,).

        Returns:
            The batches; the place of each item in the data set, as they stand there; and how many make each batch.

        Example:
            >>> items = DrawnItems(DataLoader(range(10), batch_size=4), None)
            >>> [batch.tolist() for batch in items.by_group(lambda batch: batch % 2)[0]]
            [[0, 2, 4, 6], [8], [1, 3, 5, 7], [9]]

        """
        groups: dict[int, list[tuple[int, Any]]] = {}
        for places, items in self._loaded():
            for number, *one in zip(group(self.collate(items)).tolist(), places, items, strict=True):
                groups.setdefault(number, []).append((one[0], one[1]))
        cut = [some for number in sorted(groups) for some in self._cut(groups[number])]
        seed_all(self.seed)  # a collate function may draw, too
        batches = [self.collate([item for _, item in some]) for some in cut]
        return batches, torch.tensor([place for some in cut for place, _ in some]), [len(some) for some in cut]

    def _loaded(self) -> Iterator[tuple[list[int], list[Any]]]:
        for places in self._cut(self.places.tolist()):
            seed_all(self.seed + places[0])
            yield places, [self.dataset[place] for place in places]

    def _cut(self, things: list[T]) -> list[list[T]]:
        return [things[start : start + self.batch_size] for start in range(0, len(things), self.batch_size)]


def _why_not(loader: Any) -> str:
    if not isinstance(loader, DataLoader):
        return f"its loader is a {type(loader).__name__}, not a DataLoader"
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return f"{type(dataset).__name__} is a stream, whose items have no place"
    if loader.batch_sampler is None:
        return "items of its data set are batches"
    return "" if len(dataset) else "its data set is empty"
