"""Where in the data set the samples of this rank come from, which of them are padding, and which are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed.sample_order import sample_order

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

    The place of a sample in the data set is known, and ``exact`` true, only for what is recognised by its very type: a
    ``torch.utils.data.DataLoader`` with torch's own ``BatchSampler`` over a ``SequentialSampler`` or a list of indices
    on one process, or over a ``DistributedSampler`` (torch's, or one that Lightning puts around these); and a list of
    batches. Local sample k of rank r is then sample r + k·world in the sampler's order, and a duplicate that only fills
    up the last round if that is beyond the data set's end.

    Anything else may give any samples: a sampler, batch sampler or loader class of one's own, a subclass of
    ``DistributedSampler``, a stream, what shuffles. Samples are then numbered r + k·world as they arrive, and ``why``
    says why. So are they from the first batch on whose number of samples is not that which its sampler named: items
    that are batches, several windows a document, a ``collate_fn`` that drops some. Nothing is a duplicate then but
    whole batches of duplicates.

    Args:
        loader: The validation loader of this rank.
        rank: This rank.
        world: Number of ranks that share the data.
        max_examples: How many samples to select over all ranks, as the batches have them: spread evenly over the data
            set where it is known how many of it are read, else the first ones; ``None`` for all.
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
        self._known = sample_order(loader, rank, world)
        self.why = self._known.why
        """Why places in the data set are not known; ``None`` where they are."""
        self.shuffled = self._known.shuffles
        """Whether samples are known to come in another order at each reading."""
        self._items = not self._known.batched
        self._num_batches = num_batches
        self._expected: int | None = None
        self._batches = 0
        self.seen = 0
        """How many samples came so far."""
        self.kept = 0
        """How many of them were selected."""

    @property
    def exact(self) -> bool:
        """Whether the numbers told are places in the data set."""
        return self.why is None

    @property
    def num_samples(self) -> int | None:
        """Number of samples of the data set, where places in it are known."""
        return self._known.length if self.exact else None

    @property
    def spread(self) -> bool:
        """Whether ``max_examples`` are spread over the data set; else they are the first ones."""
        return self._number_read(None) is not None

    @property
    def short(self) -> bool:
        """Whether fewer samples were selected so far than could be: more were expected than came."""
        most = self.max_examples
        return most is not None and not self.exact and self.world == 1 and self.kept < min(most, self.seen)

    def _number_read(self, size: int | None) -> int | None:
        """How many different samples one run of the loader reads over all ranks, if that is known.

        Args:
            size: Samples of the first batch.

        """
        known = self._known
        if not self._items or not (self.exact or self.world == 1):
            return None
        if known.size is None and known.sizes is None and known.named is not None and size and self._num_batches:
            # Batches of an unknown number of samples: about as many as in the first.
            return int(min(known.named, self._num_batches * size))
        mine = known.read(self._num_batches)
        if mine is None or known.distinct is None:
            return mine
        if known.step == self.world:
            return min(known.distinct, mine * self.world)
        return len(range(known.first, min(known.distinct, known.first + mine * known.step), known.step))

    def select(self, size: int) -> Selection:
        """The selected samples of the next batch of this many."""
        known = self._known
        named = known.size_of(self._batches)
        if self._items and named is not None and named != size:
            self._items = False
            of = f"where its sampler named {named}" if named else "after the last that its sampler named"
            self.why = self.why or f"batch {self._batches} has {size} samples {of}"
        if not self.seen:
            self._expected = self._number_read(size)
        local = self.seen + torch.arange(size)
        slots = known.first + local * known.step
        keep = torch.ones(size, dtype=torch.bool)
        places = slots
        if not self._items:
            if known.distinct is not None and known.starts_at(self._batches) >= known.distinct:
                keep &= False
            if known.order is not None:
                places = len(known.order) + slots  # apart from those that were told before
        elif known.distinct is not None:
            keep &= slots < known.distinct
            places = slots % known.distinct if known.distinct else slots
        if self._items and known.order is not None:
            places = known.order[places]
        if self.max_examples is not None:
            keep = self._thinned(local, slots, places, keep)
        self.seen += size
        self._batches += 1
        self.kept += int(keep.sum())
        if bool(keep.all()):
            return Selection(places, None, places)
        rows = keep.nonzero().squeeze(1)
        return Selection(places[rows], rows, places)

    def _thinned(self, local: Tensor, slots: Tensor, places: Tensor, keep: Tensor) -> Tensor:
        """At most ``max_examples`` of those to keep."""
        assert self.max_examples is not None
        most = self.max_examples
        if self._items and self._expected is not None:
            if self._expected > most:
                # By place where all of the data set is read, so that they are the same whatever the order.
                whole = self.exact and self._expected == self._known.length
                at = places if whole else slots if self._known.step == self.world else local
                keep = keep & ((at + 1) * most // self._expected > at * most // self._expected)
            if self.exact:
                return keep
        # The share of this rank; counted, since nothing is known of how many will come.
        share = len(range(self.rank, most, self.world)) - self.kept
        return keep & (keep.cumsum(0) <= share)
