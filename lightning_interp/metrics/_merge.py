"""The measures of one label set over all ranks, for each of several ways to deal its labels out to rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sums, world_size
from lightning_interp.functional.structure import Families, LabelTerms, StructureMeasures
from lightning_interp.metrics._codes import Codes
from lightning_interp.metrics._plan import LabelPlan

__all__ = ["Deal", "merged_measures"]

# Entries of all tables that travel in one exchange: 16 MB in float32.
_EXCHANGE = 1 << 22
# Entries that one rank alone makes at a time: they are still in its cache when they are compared.
_ALONE = 1 << 18
# Readings so small are compared in the widest dtype throughout: that costs nothing there.
_SMALL = 1 << 18


class Deal(NamedTuple):
    """One way to deal labels out to rows."""

    ids: Tensor
    """Label of each row of this rank and column, ``num_labels`` where there is none: int64 (n, M)."""
    sizes: Tensor
    """Rows per label over all ranks, int64 (L,)."""


def merged_measures(
    codes: Codes, plan: LabelPlan, deals: Sequence[Deal], average: str, correction: str | None, group: object = None
) -> Collective[list[StructureMeasures]]:
    """Measures of every deal of a plan's labels, summed over ranks; scalars in float64 on the CPU.

    Tables are made, exchanged and compared in blocks of labels, so that none is ever there as a whole.
    """
    number, total = plan.num_labels, len(plan.ids)
    chunks = codes.chunks(number, total)
    widths = [chunk.stop - chunk.start for chunk in chunks]
    found = torch.zeros(len(deals), len(StructureMeasures._fields), dtype=torch.float64)
    for chunk, width in zip(chunks, widths, strict=True):
        entries = width * codes.bins
        for batch in _batches(len(deals), number * entries):
            some = [deals[place] for place in batch]
            measures = yield from _measures(codes, plan, some, chunk, entries, average, correction, group)
            for place, one in zip(batch, measures, strict=True):
                found[place] += width / sum(widths) * torch.stack(one).to("cpu", torch.float64)
    return [StructureMeasures(*row) for row in found]


def _measures(
    codes: Codes,
    plan: LabelPlan,
    deals: Sequence[Deal],
    chunk: slice,
    entries: int,
    average: str,
    correction: str | None,
    group: object,
) -> Collective[list[StructureMeasures]]:
    number, small = plan.num_labels, len(plan.ids) * entries <= _SMALL
    families = yield from _families(codes, plan, deals, chunk, average, correction)
    tables = [codes.tables(deal.ids, number, chunk) for deal in deals]
    terms: list[list[LabelTerms]] = [[] for _ in deals]
    limit = _ALONE if world_size(group) == 1 else _EXCHANGE // len(deals)
    wide = families[0].counts.dtype
    singles = plan.kinds["single"]
    known = [one.single(singles, wide if small else torch.float32) for one in tables]
    for kind, labels in _blocks(plan, max(1, limit // entries)):
        dtype = wide if kind == "heavy" or small else torch.float32
        parts = [one.block(labels, dtype) for one in tables]
        if kind == "single":
            parts += [one[labels.start - singles.start : labels.stop - singles.start] for one in known]
        merged: list[Tensor] = yield Sums(parts)
        for place, (mine, family) in enumerate(zip(terms, families, strict=True)):
            p_log_p = merged[len(deals) + place] if kind == "single" else None
            mine.append(family.terms(merged[place], labels, p_log_p))
    nested = plan.parents is not None
    return [
        family.measures(LabelTerms(*map(torch.cat, zip(*mine, strict=True))), nested=nested)
        for family, mine in zip(families, terms, strict=True)
    ]


def _families(
    codes: Codes, plan: LabelPlan, deals: Sequence[Deal], chunk: slice, average: str, correction: str | None
) -> Collective[list[Families]]:
    """What all labels of a parent hold together, in every deal."""
    number = plan.num_labels
    parents = torch.zeros(number, dtype=torch.long) if plan.parents is None else plan.parents
    most = int(parents.max()) + 1
    # All labels of a row have one parent, which stays the same however they are dealt out: only their number changes.
    first = reduce(torch.minimum, (column for deal in deals for column in deal.ids.unbind(1)))
    owner = torch.cat([parents, parents.new_tensor([most])])[first]
    weights = [(deal.ids < number).sum(1) for deal in deals]
    same = [torch.equal(weight, weights[0]) for weight in weights]
    distinct = [weight for weight, twin in zip(weights, same, strict=True) if not twin]
    base, *others = codes.weighted(owner, most, chunk, [weights[0], *distinct])
    rest = iter(others)
    counts = [base if twin else next(rest) for twin in same]
    merged: list[Tensor] = yield Sums(counts)
    return [
        Families(table, deal.sizes.to(table.device, table.dtype), parents.to(table.device), average, correction)
        for table, deal in zip(merged, deals, strict=True)
    ]


def _blocks(plan: LabelPlan, rows: int) -> Iterator[tuple[str, slice]]:
    """Runs of labels of one kind."""
    for kind, labels in plan.kinds.items():
        for start in range(labels.start, labels.stop, rows):
            yield kind, slice(start, min(start + rows, labels.stop))


def _batches(number: int, entries: int) -> Iterator[range]:
    """Deals that exchange their tables together: as many as fit the bound, at least one."""
    size = max(1, _EXCHANGE // max(1, entries))
    for start in range(0, number, size):
        yield range(start, min(start + size, number))
