"""A bounded number of rows of a stream, chosen by their keys alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Gather, Maximum
from lightning_interp.functional.counter_noise import counter_hash

__all__ = ["KeyedRows"]

_NEVER = torch.iinfo(torch.int64).max


class KeyedRows:
    """Keeps at most so many rows, those whose keys hash lowest: the same ones on any number of ranks, at every reading.

    Nothing is read back from the device. Up to twice as many rows are held before those with the highest hashes go.

    Args:
        size: How many rows are kept over all ranks.
        dtypes: Of the columns that belong to a row: float32, float64 or int64.
        seed: Another seed keeps others.

    Cost: a ``topk`` for every ``size`` rows that come; memory 2 · ``size`` rows and a batch. Between ranks: a number
        for every row that a rank holds, then the rows that are kept.

    Example:
        >>> from lightning_interp.distributed import over_ranks
        >>> rows = KeyedRows(3, [torch.float32])
        >>> rows.add(torch.arange(10), torch.arange(10) > 4, [torch.arange(10.0)[:, None]])
        >>> keys, (values,) = over_ranks(rows.merge())
        >>> len(keys), torch.equal(keys[:, None].float(), values), bool((keys > 4).all())
        (3, True, True)

    """

    def __init__(self, size: int, dtypes: Sequence[torch.dtype], seed: int = 0) -> None:
        self.size = size
        self.dtypes = tuple(dtypes)
        self.seed = seed
        self._parts: list[tuple[Tensor, ...]] = []

    def add(self, keys: Tensor, counted: Tensor, columns: Sequence[Tensor]) -> None:
        """Take in rows.

        Args:
            keys: A number for each row that no other has, int64 (R,).
            counted: Which rows there are, bool (R,); the others are as if they were not given.
            columns: What belongs to each row, (R, W) each, with always the same widths.

        """
        order = counter_hash(keys, self.seed).masked_fill(~counted, _NEVER)
        given = [column.detach().to(dtype) for column, dtype in zip(columns, self.dtypes, strict=True)]
        self._parts.append(self._fewest((order, keys, *given)))
        if sum(len(part[0]) for part in self._parts) > 2 * self.size:
            self._compact()

    def clear(self) -> None:
        """Forget all rows."""
        self._parts = []

    def merge(self) -> Collective[tuple[Tensor, list[Tensor]]]:
        """Keys, rising, and columns of the rows kept over all ranks, on the CPU."""
        self._compact()
        if self._parts:
            order, keys, *columns = (one.cpu() for one in self._parts[0])
        else:
            order = keys = torch.zeros(0, dtype=torch.int64)
            columns = []
        widths = [column.shape[1] for column in columns] or [0] * len(self.dtypes)
        merged: Tensor = yield Maximum(torch.tensor(widths))
        if columns and merged.tolist() != widths:
            raise ValueError(f"Rows have {widths} columns here and {merged.tolist()} on another rank.")
        if not columns:
            shapes = zip(merged.tolist(), self.dtypes, strict=True)
            columns = [torch.zeros(0, width, dtype=dtype) for width, dtype in shapes]
        real = order < _NEVER
        orders: list[Tensor] = yield Gather(order[real])
        fewest = torch.cat(orders).sort().values[: self.size]
        mine = real & (order <= fewest[-1]) if len(fewest) else real
        found = []
        for own in (keys, *columns):
            parts: list[Tensor] = yield Gather(own[mine])
            found.append(torch.cat(parts))
        rising = found[0].argsort()
        return found[0][rising], [column[rising] for column in found[1:]]

    def _compact(self) -> None:
        if len(self._parts) > 1:
            self._parts = [self._fewest(tuple(map(torch.cat, zip(*self._parts, strict=True))))]

    def _fewest(self, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if len(rows[0]) <= self.size:
            return rows
        order, chosen = rows[0].topk(self.size, largest=False)
        return (order, *(one[chosen] for one in rows[1:]))
