"""A few representations to look at: the same ones at every reading, on any number of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, Maximum
from lightning_interp.functional._numerics import finite_rows
from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["FixedSample", "Sample"]

_PLACE_BITS = 20
_NEVER = torch.iinfo(torch.int64).max


class Sample(NamedTuple):
    """Some representations, in the order of the data."""

    vectors: Tensor
    """float32 (N, D), on the CPU."""
    labels: Tensor
    """Label of each in each label set, int64 (N, L); -1 where there is none."""
    samples: Tensor
    """Which sample of the data set each belongs to, int64 (N,)."""
    places: Tensor
    """Its position within the sample, int64 (N,)."""


class FixedSample:
    """Keeps so many representations, chosen by where they stand in the data and by nothing else.

    Every position has a number that is a hash of its sample and its place in it; those with the smallest numbers are
    kept. So the choice is random, does not depend on batches, ranks or what the vectors are, and is the same each time.

    Args:
        size: How many are kept over all ranks.
        seed: Another seed chooses others.
        labels: The label sets that are kept with them.

    Cost:
        A ``topk`` a batch; memory ``size`` vectors. Between ranks: ``size`` numbers of each, then the vectors chosen.

    Example:
        >>> from lightning_interp.distributed import over_ranks
        >>> sample = FixedSample(2, labels=["kind"])
        >>> z = torch.arange(6.0).view(2, 3, 1)
        >>> labels = {"kind": torch.tensor([7, 8])}
        >>> sample.update(z, mask=z[..., 0] != 1, labels=labels, positions=torch.tensor([0, 1]))
        >>> chosen = over_ranks(sample.merge())
        >>> chosen.vectors.shape, (chosen.samples * 3 + chosen.places == chosen.vectors[:, 0]).all()
        (torch.Size([2, 1]), tensor(True))

    """

    def __init__(self, size: int, seed: int = 0, labels: Sequence[str] = ()) -> None:
        self.size = size
        self.seed = seed
        self.labels = tuple(labels)
        self._kept: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def update(self, z: Tensor, mask: Tensor, labels: Mapping[str, Tensor], positions: Tensor) -> None:
        """Take in a batch.

        Args:
            z: Representations, (B, T, D).
            mask: Which of them count, bool (B, T); those that are not finite do not.
            labels: By label set (B,), (B, T), or (B, T, M), of which the first of each is shown; a set that is not
                there has none.
            positions: Place of each sample in the data set, (B,).

        """
        batch, length, dim = z.shape
        place = torch.arange(length, device=z.device)
        keys = (positions.to(z.device).long()[:, None] << _PLACE_BITS) + place
        ids = torch.full((batch, length, len(self.labels)), -1, device=z.device)
        for column, name in enumerate(self.labels):
            if name in labels:
                first = labels[name][..., 0] if labels[name].ndim == 3 else labels[name]
                ids[..., column] = (first[:, None] if first.ndim == 1 else first).to(z.device).long()
        keys, ids, flat = keys.flatten(), ids.flatten(0, 1), z.detach().reshape(-1, dim)
        order = counter_hash(keys, self.seed).masked_fill(~(mask.to(z.device) & finite_rows(z)).flatten(), _NEVER)
        order, chosen = order.topk(min(self.size, len(order)), largest=False)
        new = (order, keys[chosen], ids[chosen], flat[chosen].float())
        if self._kept is not None:
            joined = tuple(torch.cat(pair) for pair in zip(self._kept, new, strict=True))
            _, chosen = joined[0].topk(min(self.size, len(joined[0])), largest=False)
            new = tuple(one[chosen] for one in joined)  # type: ignore[assignment]
        self._kept = new

    def merge(self) -> Collective[Sample]:
        """The choice over all ranks, as a generator for :func:`lightning_interp.distributed.over_ranks`."""
        if self._kept is None:
            none = torch.empty(0, dtype=torch.int64)
            ids = torch.empty(0, len(self.labels), dtype=torch.int64)
            order, keys, vectors = none, none, torch.empty(0, 0)
        else:
            order, keys, ids, vectors = (one.cpu() for one in self._kept)
        width: Tensor = yield Maximum(torch.tensor(vectors.shape[1]))
        if not len(vectors):
            vectors = torch.empty(0, int(width))
        real = order < _NEVER
        orders: list[Tensor] = yield Gather(order[real])
        best = torch.cat(orders).sort().values[: self.size]
        mine = real & torch.isin(order, best)
        facts: list[Tensor] = yield Gather(torch.cat([keys[mine, None], ids[mine]], 1))
        clouds: list[Tensor] = yield Gather(vectors[mine])
        told = torch.cat(facts)
        by_key = told[:, 0].argsort()
        key, ids = told[by_key, 0], told[by_key, 1:]
        return Sample(torch.cat(clouds)[by_key], ids, key >> _PLACE_BITS, key & ((1 << _PLACE_BITS) - 1))
