"""What the classes of a loader tell of the samples that it gives: which, in which order, how many a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

__all__ = ["SampleOrder", "sample_order"]

# Lightning is there under two names, and its wrappers with it.
_WRAPPERS = {
    f"{package}.{name}"
    for package, name in (
        ("lightning.fabric.utilities.distributed", "DistributedSamplerWrapper"),
        ("lightning_fabric.utilities.distributed", "DistributedSamplerWrapper"),
        ("lightning.pytorch.overrides.distributed", "UnrepeatedDistributedSamplerWrapper"),
        ("pytorch_lightning.overrides.distributed", "UnrepeatedDistributedSamplerWrapper"),
    )
}
_UNREPEATED = {
    f"{package}.overrides.distributed.UnrepeatedDistributedSampler"
    for package in ("lightning.pytorch", "pytorch_lightning")
}
_BATCH_WRAPPERS = {
    f"{package}.overrides.distributed._IndexBatchSamplerWrapper"
    for package in ("lightning.pytorch", "pytorch_lightning")
}


@dataclass(frozen=True)
class SampleOrder:
    """What is known of one rank's samples, which are numbered 0, 1, … as its sampler names them.

    Sample k stands in slot ``first`` + k · ``step`` of an order that all ranks share.
    """

    why: str | None
    """Why the place of a sample in the data set is not known; ``None`` where it is."""
    shuffles: bool = False
    """Whether the samples are known to come in another order each time."""
    first: int = 0
    step: int = 1
    order: Tensor | None = None
    """Place in the data set of each slot; ``None`` for the slot itself."""
    distinct: int | None = None
    """Slots from here on repeat earlier ones, to fill up the last round of ranks."""
    length: int | None = None
    """Number of samples of the data set; ``None`` where places are not known."""
    named: int | None = None
    """How many samples the sampler names on this rank, or says that it does."""
    size: int | None = None
    """How many of them make a batch; the last has what is left."""
    drop_last: bool = False
    sizes: Sequence[int] | None = None
    """How many make each batch, where that is listed."""
    batched: bool = False
    """Whether an item of the data set is a batch itself."""

    def size_of(self, batch: int) -> int | None:
        """How many samples the sampler names for a batch; ``None`` where that is not known."""
        if self.sizes is not None:
            return self.sizes[batch] if batch < len(self.sizes) else 0
        if self.size is None or self.named is None:
            return None
        return max(0, min(self.size, self.named - batch * self.size))

    def starts_at(self, batch: int) -> int:
        """Slot of the first sample of a batch."""
        before = sum(self.sizes[:batch]) if self.sizes is not None else batch * (self.size or 1)
        return self.first + before * self.step

    def read(self, batches: float | None) -> int | None:
        """How many samples the first so many batches have on this rank; ``None`` where that is not known."""
        limit = None if batches is None or batches == float("inf") else int(batches)
        if self.sizes is not None:
            return sum(self.sizes[:limit])
        if self.named is None:
            return None
        if self.size is None:
            return self.named
        whole = self.named - self.named % self.size if self.drop_last else self.named
        return whole if limit is None else min(whole, limit * self.size)


def sample_order(loader: Any, rank: int = 0, world: int = 1) -> SampleOrder:
    """What a loader tells, by its own type and those of its samplers; a subclass may do anything.

    No sampler is iterated: that may draw from the global random stream.

    Args:
        loader: The loader of this rank.
        rank: This rank.
        world: Number of ranks that share the data.

    Example:
        >>> sample_order(DataLoader(range(10), batch_size=4)).why is None
        True
        >>> sample_order(DataLoader(range(10), batch_size=4, shuffle=True)).why
        'its RandomSampler shuffles'

    """
    unknown = SampleOrder(None, first=rank, step=world)
    if type(loader) in (list, tuple):
        # Its batches are the data set, so that their samples are in order by definition.
        return unknown if world == 1 else replace(unknown, why=f"a {type(loader).__name__} of batches on each process")
    if type(loader) is not DataLoader:
        shuffles = _shuffles(getattr(loader, "sampler", None))
        return replace(unknown, why=f"it is a {type(loader).__name__}", shuffles=shuffles)
    if isinstance(loader.dataset, IterableDataset):
        return replace(unknown, why=f"its data set is a stream, {type(loader.dataset).__name__}")
    batches: Any = loader.batch_sampler
    if _name(batches) in _BATCH_WRAPPERS:
        batches = batches._batch_sampler
    length = _length(loader.dataset)
    if type(batches) is list:
        found = _listed(batches, length, unknown, world)
    elif batches is None:
        # A data set whose item is a batch: how many samples one has is seen when it comes.
        found = replace(_of_sampler(loader.sampler, length, unknown, world), size=1, batched=True)
        found = replace(found, why=found.why or "the items of its data set are batches", length=None)
    elif type(batches) is BatchSampler:
        found = _of_sampler(batches.sampler, length, unknown, world)
        found = replace(found, size=batches.batch_size, drop_last=batches.drop_last)
    else:
        shuffles = _shuffles(getattr(batches, "sampler", None))
        why = f"its batches come from a {type(batches).__name__}"
        found = replace(unknown, why=why, shuffles=shuffles, named=length)
    if loader.num_workers and not getattr(loader, "in_order", True):
        return replace(unknown, why="its workers hand out batches in any order", named=found.named)
    return found


def _of_sampler(sampler: Any, length: int | None, unknown: SampleOrder, world: int) -> SampleOrder:
    """What a sampler tells by its type."""
    name = _name(sampler)
    listed = type(sampler) in (range, list, tuple)
    order = _indices(sampler, length) if listed else None
    if type(sampler) is SequentialSampler or order is not None:
        if world > 1:
            return replace(unknown, why=f"its {type(sampler).__name__} deals nothing out to {world} processes")
        return replace(unknown, order=order, named=_length(sampler), length=length)
    if type(sampler) is DistributedSampler or name in _WRAPPERS | _UNREPEATED:
        return _distributed(sampler, name, length, unknown, world)
    if _shuffles(sampler):
        why = f"its {type(sampler).__name__} shuffles"
        return replace(unknown, why=why, shuffles=True, named=_length(sampler))
    claimed = _length(sampler)
    return replace(
        unknown, why=f"its sampler is a {type(sampler).__name__}", named=length if claimed is None else claimed
    )


def _distributed(sampler: Any, name: str, length: int | None, unknown: SampleOrder, world: int) -> SampleOrder:
    """What a sampler tells that deals out one order to ranks."""
    if world > 1 and (sampler.rank, sampler.num_replicas) != (unknown.first, world):
        why = (
            f"its {type(sampler).__name__} deals out to {sampler.num_replicas} processes, this one as "
            f"{sampler.rank}, where there are {world}, this one {unknown.first}"
        )
        return replace(unknown, why=why)
    total = len(sampler.dataset)  # a wrapped sampler stands here as the data set
    found = replace(
        unknown,
        first=sampler.rank,
        step=sampler.num_replicas,
        distinct=total,
        named=int(sampler.num_samples),
        length=length,
        order=_permutation(sampler, name, total) if sampler.shuffle else None,
    )
    if name not in _WRAPPERS:
        return found
    inner = _of_sampler(sampler.dataset._sampler, length, SampleOrder(None), 1)
    if inner.why is not None:
        return replace(found, why=inner.why, shuffles=inner.shuffles, order=None, length=None)
    if inner.order is not None:
        return replace(found, order=inner.order if found.order is None else inner.order[found.order])
    return found


def _permutation(sampler: Any, name: str, total: int) -> Tensor:
    # Drawn from the sampler's own seed and epoch, never from the global stream.
    seed = sampler.epoch if name in _UNREPEATED or "Unrepeated" in name else sampler.seed + sampler.epoch
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))


def _listed(batches: list[Any], length: int | None, unknown: SampleOrder, world: int) -> SampleOrder:
    """Batches that are written down as lists of indices."""
    plain = world == 1 and all(type(one) in (list, tuple) for one in batches)
    order = _indices([index for one in batches for index in one], length) if plain else None
    if order is None:
        return replace(unknown, why="its batches come from a list", named=length)
    return replace(unknown, order=order, sizes=[len(one) for one in batches], named=len(order), length=length)


def _indices(listed: Any, length: int | None) -> Tensor | None:
    """Indices that are written down, each a place in the data set and there once; ``None`` where they are not."""
    indices = list(listed)
    if not all(type(index) is int for index in indices) or len(set(indices)) < len(indices):
        return None
    inside = not indices or (min(indices) >= 0 and (length is None or max(indices) < length))
    return torch.tensor(indices, dtype=torch.int64) if inside else None


def _shuffles(sampler: Any) -> bool:
    return isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)


def _name(thing: Any) -> str:
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def _length(things: Any) -> int | None:
    try:
        return len(things)
    except (TypeError, NotImplementedError):
        return None
