"""Which row counts for which label: decided from the labels of all ranks, the same on each of them."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["LabelPlan", "make_plan"]


# Labels of more rows than this are summed and compared in the widest dtype there is.
_HEAVY = 64


@dataclass(frozen=True)
class LabelPlan:
    """The kept labels of one set, over the rows of all ranks in a common order.

    Labels of many rows come first, those of a single row last.
    """

    ids: Tensor
    """Label of each row and column, 0 … L−1, or L where a row has no kept label: int64 (N, M)."""
    sizes: Tensor
    """Rows per label, int64 (L,)."""
    parents: Tensor | None
    """Parent of each label, int64 (L,)."""
    groups: Tensor | None
    """Parent of each row, within which labels are shuffled, int64 (N,)."""

    @property
    def num_labels(self) -> int:
        """How many labels are kept."""
        return len(self.sizes)

    @property
    def kinds(self) -> dict[str, slice]:
        """Labels of many rows (``"heavy"``), of a few (``"light"``) and of one (``"single"``)."""
        heavy, single = int((self.sizes > _HEAVY).sum()), self.num_labels - int((self.sizes == 1).sum())
        return {"heavy": slice(0, heavy), "light": slice(heavy, single), "single": slice(single, self.num_labels)}

    @property
    def pool(self) -> Tensor:
        """Rows that have a kept label, bool (N,)."""
        return (self.ids < self.num_labels).any(1)

    def shuffled(self, seed: int) -> Tensor:
        """``ids`` with rows exchanged at random within the pool, and within the parent where there is one.

        Rows keep all their labels together, so that a position never meets itself in a label it does not have.
        """
        generator = torch.Generator().manual_seed(seed)
        pool = self.pool.nonzero().squeeze(1)
        order = torch.randperm(len(pool), generator=generator)
        shuffled = self.ids.clone()
        if self.groups is None:
            shuffled[pool] = self.ids[pool[order]]
            return shuffled
        groups = self.groups[pool]
        here = groups.argsort(stable=True)
        there = order[groups[order].argsort(stable=True)]
        shuffled[pool[here]] = self.ids[pool[there]]
        return shuffled

    def restricted(self, rows: Tensor) -> LabelPlan:
        """The same labels over fewer rows; labels that lose all rows are dropped."""
        ids = self.ids.masked_fill(~rows[:, None], self.num_labels)
        sizes = torch.bincount(ids.flatten(), minlength=self.num_labels + 1)[: self.num_labels]
        return _compact(ids, sizes, sizes > 0, self.parents, self.groups)


def make_plan(labels: Tensor, parents: Tensor | None, min_count: int) -> LabelPlan:
    """Number the labels that occur often enough.

    Args:
        labels: Label of each row and column, negative where there is none: int64 (N, M).
        parents: Parent label of each row, negative where there is none: int64 (N,).
        min_count: Labels with fewer rows over all ranks are left out.

    """
    valid = labels >= 0
    groups = None
    if parents is not None:
        valid &= (parents >= 0)[:, None]
        _, groups = torch.unique(parents, return_inverse=True)
    distinct, index = torch.unique(labels[valid], return_inverse=True)
    parent_of_label = None
    if groups is not None:
        # A label is the pair of its parent and its own value.
        owner = groups[:, None].expand_as(labels)[valid]
        pairs, index = torch.unique(owner * len(distinct) + index, return_inverse=True)
        parent_of_label = pairs // max(1, len(distinct))
        sizes = torch.bincount(index, minlength=len(pairs))
    else:
        sizes = torch.bincount(index, minlength=len(distinct))
    ids = labels.new_full(labels.shape, len(sizes))
    ids[valid] = index
    return _compact(ids, sizes, sizes >= min_count, parent_of_label, groups)


def seed_of(seed: int, name: str, repeat: int) -> int:
    """A seed for one shuffle of one label set, the same in every run and on every rank."""
    return zlib.crc32(f"{seed}/{name}/{repeat}".encode())


def _compact(ids: Tensor, sizes: Tensor, keep: Tensor, parents: Tensor | None, groups: Tensor | None) -> LabelPlan:
    heavy, single = sizes > _HEAVY, sizes == 1
    kinds = (heavy, ~heavy & ~single, single)
    kept = torch.cat([(keep & kind).nonzero() for kind in kinds]).squeeze(1)
    renumber = torch.full((len(sizes) + 1,), len(kept), dtype=torch.long)
    renumber[kept] = torch.arange(len(kept))
    kept_parents = None
    if parents is not None:
        kept_parents = torch.unique(parents[kept], return_inverse=True)[1]
    return LabelPlan(renumber[ids], sizes[kept], kept_parents, groups)
