"""Which row counts for which label: decided from the labels of all ranks, the same on each of them."""

from __future__ import annotations

import operator
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.metrics._units import count_units, dealt_rows, is_constant

__all__ = ["LabelPlan", "make_plan", "seed_of"]


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
    units: Tensor | None = None
    """Sample or word of each row, to which its labels belong, int64 (N,); ``None`` where they are the row's own."""
    source: _Source | None = None
    """What labels were made of, where a unit has rows of several parents."""

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
        generator = torch.Generator().manual_seed(operator.index(seed))
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

    def dealt(self, seed: int) -> LabelPlan:
        """Labels of units exchanged at random among units, then copied to their rows.

        As many units as before have each label, but not as many rows. Where a parent is constant within units they are
        exchanged within it; else among all, and pairs of parent and label are formed and counted anew.
        """
        assert self.units is not None
        generator = torch.Generator().manual_seed(operator.index(seed))
        if self.source is not None:
            labels, parents, min_count = self.source
            rows = ((labels >= 0).any(1) & (parents >= 0)).nonzero().squeeze(1)
            new = labels.clone()
            new[rows] = labels[rows[dealt_rows(self.units[rows], len(rows), generator)]]
            return make_plan(new, parents, min_count, self.units)
        pool = self.pool.nonzero().squeeze(1)
        strata = None if self.groups is None else self.groups[pool]
        ids = self.ids.clone()
        ids[pool] = self.ids[pool[dealt_rows(self.units[pool], len(pool), generator, strata)]]
        return self._counted(ids)

    def restricted(self, rows: Tensor) -> LabelPlan:
        """The same labels over fewer rows; labels that lose all rows are dropped."""
        return self._counted(self.ids.masked_fill(~rows[:, None], self.num_labels))

    def _counted(self, ids: Tensor) -> LabelPlan:
        sizes = torch.bincount(ids.flatten(), minlength=self.num_labels + 1)[: self.num_labels]
        return _compact(ids, sizes, sizes > 0, self.parents, self.groups, self.units)


class _Source(NamedTuple):
    """Arguments of :func:`make_plan`."""

    labels: Tensor
    parents: Tensor
    min_count: int


def make_plan(labels: Tensor, parents: Tensor | None, min_count: int, units: Tensor | None = None) -> LabelPlan:
    """Number the labels that occur often enough.

    Args:
        labels: Label of each row and column, negative where there is none: int64 (N, M).
        parents: Parent label of each row, negative where there is none: int64 (N,).
        min_count: Labels of fewer units over all ranks are left out.
        units: Sample or word of each row, within which labels are constant, int64 (N,); ``None`` where each row is a
            unit of its own.

    """
    source = None
    valid = labels >= 0
    groups = None
    if parents is not None:
        valid &= (parents >= 0)[:, None]
        _, groups = torch.unique(parents, return_inverse=True)
        rows = valid.any(1)
        if units is not None and not is_constant(parents[rows], torch.unique(units[rows], return_inverse=True)[1]):
            source = _Source(labels, parents, min_count)
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
    counts = sizes if units is None else count_units(index, units[:, None].expand_as(labels)[valid], len(sizes))
    return _compact(ids, sizes, counts >= min_count, parent_of_label, groups, units, source)


def seed_of(seed: int, name: str, repeat: int) -> int:
    """A seed for one shuffle of one label set, the same in every run and on every rank."""
    return zlib.crc32(f"{seed}/{name}/{repeat}".encode())


def _compact(
    ids: Tensor,
    sizes: Tensor,
    keep: Tensor,
    parents: Tensor | None,
    groups: Tensor | None,
    units: Tensor | None = None,
    source: _Source | None = None,
) -> LabelPlan:
    heavy, single = sizes > _HEAVY, sizes == 1
    kinds = (heavy, ~heavy & ~single, single)
    kept = torch.cat([(keep & kind).nonzero() for kind in kinds]).squeeze(1)
    renumber = torch.full((len(sizes) + 1,), len(kept), dtype=torch.long)
    renumber[kept] = torch.arange(len(kept))
    kept_parents = None
    if parents is not None:
        kept_parents = torch.unique(parents[kept], return_inverse=True)[1]
    return LabelPlan(renumber[ids], sizes[kept], kept_parents, groups, units, source)
