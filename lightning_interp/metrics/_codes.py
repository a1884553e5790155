"""What an estimator made of the rows of this rank, and how it sums them by label."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lightning_interp.distributed import Collective, Maximum
from lightning_interp.functional._numerics import wide_dtype

__all__ = ["BinCodes", "Codes", "SoftCodes", "Tables", "settle_width"]

# Entries of a table or an index that one chunk of dimensions may take.
_STEP = 1 << 22
# Numbers that one step works on: few enough for a processor's cache.
_CACHED = 1 << 18
# So many rows at most are added up in the dtype of the rows before they go into a wider sum.
_BAG = 16


class Tables(ABC):
    """Counts of rows by label, for one way to deal labels out to rows."""

    @abstractmethod
    def block(self, labels: slice, dtype: torch.dtype) -> Tensor:
        """Counts (labels, groups, bins) of a run of labels."""

    @abstractmethod
    def single(self, labels: slice, dtype: torch.dtype) -> Tensor:
        """Σ p·log p (labels, groups) of a run of labels that have one row over all ranks; 0 where it is not here."""


class Codes(ABC):
    """The coded rows of this rank."""

    bins: int
    device: torch.device

    @abstractmethod
    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """Parts of the groups (dimensions) to work on one after the other; the same on every rank."""

    @abstractmethod
    def tables(self, ids: Tensor, num_labels: int, chunk: slice) -> Tables:
        """Rows by label, over the groups of a chunk; ``ids`` (N, M) ≥ num_labels are left out."""

    @abstractmethod
    def weighted(self, ids: Tensor, num_labels: int, chunk: slice, weights: Sequence[Tensor]) -> list[Tensor]:
        """Sums of rows by label (num_labels, groups, bins) in the widest dtype, once for each weighting.

        Args:
            ids: Label of each row, int64 (N,); those ≥ num_labels are left out.
            num_labels: How many labels there are.
            chunk: The groups to work on.
            weights: How often each row counts, int64 (N,).

        """

    def floors(self) -> Tensor | None:
        """Entropy that each single row has by itself, (N,); ``None`` for estimators without such a floor."""
        return None


class SoftCodes(Codes):
    """Rows of soft assignments, (N, K)."""

    def __init__(self, assignment: Tensor) -> None:
        self.assignment = assignment
        self.bins, self.device = assignment.shape[1], assignment.device
        self._plogp: Tensor | None = None

    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """One: there is a single distribution."""
        return [slice(0, 1)]

    def tables(self, ids: Tensor, num_labels: int, chunk: slice) -> Tables:
        """Sums of assignments by label."""
        return _SoftTables(self, ids.to(self.device), num_labels)

    def weighted(self, ids: Tensor, num_labels: int, chunk: slice, weights: Sequence[Tensor]) -> list[Tensor]:
        """Sums of assignments by label."""
        tables = _SoftTables(self, ids[:, None].to(self.device), num_labels)
        everything, wide = slice(0, num_labels), wide_dtype(self.device)
        return [tables.repeated(weight.to(self.device)).block(everything, wide) for weight in weights]

    def floors(self) -> Tensor:
        """Entropy of each assignment, in units of log K."""
        return -self.plogp() / math.log(self.bins)

    def plogp(self) -> Tensor:
        """Σ a·log a of each assignment."""
        if self._plogp is None:
            rows = max(1, _CACHED // self.bins)
            small = self.assignment.numel() <= _CACHED
            whole = self.assignment.to(wide_dtype(self.device)) if small else self.assignment
            parts = [whole[start : start + rows] for start in range(0, len(whole), rows)]
            tiny = torch.finfo(whole.dtype).tiny
            sums = [torch.linalg.vecdot(part, part.clamp_min(tiny).log_()) for part in parts]
            self._plogp = torch.cat(sums or [whole.sum(-1)])
        return self._plogp


class _SoftTables(Tables):
    """Rows in the order of their labels, so that each label's are next to each other."""

    def __init__(self, codes: SoftCodes, ids: Tensor, num_labels: int) -> None:
        flat = ids.flatten()
        sizes = torch.bincount(flat, minlength=num_labels + 1)[:num_labels]
        self.starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.rows = flat.argsort(stable=True)[: int(self.starts[-1])]
        if ids.shape[1] > 1:
            self.rows //= ids.shape[1]
        self.codes = codes
        self.assignment = codes.assignment

    def repeated(self, times: Tensor) -> _SoftTables:
        """The same with every row as often as told."""
        if bool((times[self.rows] == 1).all()):
            return self
        twin = copy.copy(self)
        # Repeated, since a weighted sum of rows is far slower than a plain one.
        twin.rows = torch.repeat_interleave(self.rows, times[self.rows])
        twin.starts = torch.cat([times.new_zeros(1), times[self.rows].cumsum(0)])[self.starts]
        return twin

    def block(self, labels: slice, dtype: torch.dtype) -> Tensor:
        """Sums of assignments; where a wider dtype than theirs is asked for, only few are added in their own."""
        start, stop = int(self.starts[labels.start]), int(self.starts[labels.stop])
        rows, starts = self.rows[start:stop], self.starts[labels.start : labels.stop] - start
        if not len(rows):
            return self.assignment.new_zeros(len(starts), 1, self.assignment.shape[1], dtype=dtype)
        if dtype == self.assignment.dtype:
            return _bags(self.assignment, rows, starts).unsqueeze(1)
        # Bags of a few rows each, none of which reaches over the end of a label.
        sizes = torch.diff(starts, append=starts.new_tensor([len(rows)]))
        number = (sizes + _BAG - 1) // _BAG
        first = number.cumsum(0) - number
        label = torch.repeat_interleave(torch.arange(len(starts), device=rows.device), number)
        within = torch.arange(len(label), device=rows.device) - first[label]
        few = _bags(self.assignment, rows, starts[label] + _BAG * within).to(dtype)
        return _bags(few, torch.arange(len(few), device=rows.device), first).unsqueeze(1)

    def single(self, labels: slice, dtype: torch.dtype) -> Tensor:
        """That of the row, which is known."""
        starts = self.starts[labels.start : labels.stop + 1]
        here = starts.diff() > 0
        found = torch.zeros(len(here), dtype=dtype, device=starts.device)
        found[here] = self.codes.plogp()[self.rows[starts[:-1][here]]].to(dtype)
        return found.unsqueeze(1)


def _bags(values: Tensor, rows: Tensor, starts: Tensor) -> Tensor:
    """Sums of runs of rows, of which each begins at a start and ends at the next."""
    return embedding_bag(rows, values, starts, mode="sum")


class BinCodes(Codes):
    """Bin of every coordinate, uint8 (N, D)."""

    def __init__(self, indices: Tensor, bins: int) -> None:
        self.indices = indices
        self.bins, self.device = bins, indices.device

    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """As many dimensions at a time as fit the memory bound."""
        dim = self.indices.shape[1]
        width = max(1, _STEP // max(rows, num_labels * self.bins, 1))
        return [slice(start, min(start + width, dim)) for start in range(0, dim, width)]

    def tables(self, ids: Tensor, num_labels: int, chunk: slice) -> Tables:
        """Histograms by label and dimension."""
        out = sum(self._histogram(column, num_labels, chunk) for column in ids.to(self.device).unbind(1))
        assert isinstance(out, Tensor)
        return _BinTables(out)

    def weighted(self, ids: Tensor, num_labels: int, chunk: slice, weights: Sequence[Tensor]) -> list[Tensor]:
        """Histograms by label and dimension."""
        wide, ids = wide_dtype(self.device), ids.to(self.device)
        return [self._histogram(ids, num_labels, chunk, weight.to(self.device, wide)).to(wide) for weight in weights]

    def _histogram(self, ids: Tensor, num_labels: int, chunk: slice, weights: Tensor | None = None) -> Tensor:
        kept = ids < num_labels
        codes = self.indices[:, chunk][kept].long()
        groups = codes.shape[1]
        codes += torch.arange(groups, device=codes.device) * self.bins
        codes += ids[kept, None] * (groups * self.bins)
        each = None if weights is None else weights[kept, None].expand_as(codes).flatten()
        counts = torch.bincount(codes.flatten(), each, minlength=num_labels * groups * self.bins)
        return counts.view(num_labels, groups, self.bins)


class _BinTables(Tables):
    def __init__(self, histograms: Tensor) -> None:
        self.histograms = histograms

    def block(self, labels: slice, dtype: torch.dtype) -> Tensor:
        return self.histograms[labels].to(dtype)

    def single(self, labels: slice, dtype: torch.dtype) -> Tensor:
        """Zero: one row lies in one bin."""
        return torch.zeros(self.histograms[labels].shape[:2], dtype=dtype, device=self.histograms.device)


def settle_width(payload: Tensor) -> Collective[Tensor]:
    """Give a rank that saw no rows the width of the others."""
    width: Tensor = yield Maximum(torch.tensor(payload.shape[1]))
    return payload if payload.shape[1] else payload.new_zeros(0, int(width))
