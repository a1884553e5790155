"""Where in the data set the samples of this rank come from, which of them are padding, and which are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, RandomSampler

__all__ = ["Selection", "SamplePositions"]


@dataclass(frozen=True)
class Selection:
    """The samples of one batch."""

    positions: Tensor
    """Place in the data set of each selected sample, int64 on the CPU."""
    rows: Tensor | None
    """Which samples of the batch are selected, int64 on the CPU; ``None`` for all of them."""
    batch: Tensor
    """Place in the data set of every sample of the batch."""

    def __len__(self) -> int:
        return len(self.positions)

    def of(self, tensor: Tensor) -> Tensor:
        """The selected samples of a tensor whose first dimension is the batch."""
        return tensor if self.rows is None else tensor[self.rows.to(tensor.device)]


class SamplePositions:
    """Counts through the batches of one loader on one rank.

    Under a ``DistributedSampler`` local sample k of rank r is sample r + k·world in the sampler's order, and a
    duplicate that only fills up the last round if that is beyond the data set's end. On one process samples come in
    order. A loader that shuffles from the global stream, or any other sampler on several ranks, hides the positions:
    samples are then numbered r + k·world as they arrive, and ``exact`` is false.

    Args:
        loader: The validation loader of this rank.
        rank: This rank.
        world: Number of ranks that share the data.
        max_examples: How many samples to select over all ranks, spread evenly over the data set where its length is
            known, else the first ones; ``None`` for all.
        num_batches: How many batches of the loader are run, where that is limited.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> positions = SamplePositions(DataLoader(range(10), batch_size=4), max_examples=5)
        >>> positions.select(4).positions.tolist(), positions.select(4).positions.tolist()
        ([1, 3], [5, 7])

    """

    def __init__(
        self,
        loader: Any,
        rank: int = 0,
        world: int = 1,
        max_examples: int | None = None,
        num_batches: float | None = None,
    ) -> None:
        self.rank, self.world, self.max_examples = rank, world, max_examples
        sampler = getattr(loader, "sampler", None)
        batches = getattr(loader, "batch_sampler", None)
        plain = batches is None or type(batches) is BatchSampler
        self._order: Tensor | None = None
        self.num_samples: int | None = _length(getattr(loader, "dataset", None))
        self.shuffled = isinstance(sampler, RandomSampler)
        distributed = False
        if isinstance(sampler, DistributedSampler) and plain:
            distributed = True
            self.num_samples = _length(sampler.dataset)  # a wrapped sampler stands here as the data set
            if sampler.shuffle:
                # Drawn from the sampler's own seed and epoch, never from the global stream.
                generator = torch.Generator().manual_seed(sampler.seed + sampler.epoch)
                self._order = torch.randperm(self.num_samples or 0, generator=generator)
        self.exact = distributed or (world == 1 and not self.shuffled)
        self._padded = distributed
        self._expected = self._number_read(loader, num_batches)
        self._seen = 0

    def _number_read(self, loader: Any, num_batches: float | None) -> int | None:
        """How many different samples one run of the loader reads over all ranks, if that is known."""
        if self.num_samples is None or not (self.exact or self.world == 1):
            return None
        size = getattr(loader, "batch_size", None)
        if num_batches is None or num_batches == float("inf") or size is None:
            return self.num_samples
        return min(self.num_samples, int(num_batches) * int(size) * self.world)

    def select(self, size: int) -> Selection:
        """The selected samples of the next batch of this many."""
        slots = self.rank + (self._seen + torch.arange(size)) * self.world
        self._seen += size
        keep = torch.ones(size, dtype=torch.bool)
        if self._padded and self.num_samples is not None:
            keep &= slots < self.num_samples
        if self.max_examples is not None:
            if self._expected is None:
                keep &= slots < self.max_examples
            elif self._expected > self.max_examples:
                share = slots * self.max_examples // self._expected
                keep &= (slots + 1) * self.max_examples // self._expected > share
        places = slots
        if self._padded and self.num_samples:
            places = slots % self.num_samples
        if self._order is not None:
            places = self._order[places]
        if bool(keep.all()):
            return Selection(places, None, places)
        rows = keep.nonzero().squeeze(1)
        return Selection(places[rows], rows, places)


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):
        return None
