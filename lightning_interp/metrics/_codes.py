"""What an estimator made of the rows of this rank, and how it sums them by label."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from lightning_interp.distributed import Maximum, Steps
from lightning_interp.functional._numerics import plogp

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

    def floors(self) -> Tensor | None:
        """Entropy that each single row has by itself, (N,); ``None`` for estimators without such a floor."""
        return None


class SoftCodes(Codes):
    """Rows of soft assignments, (N, K)."""

    def __init__(self, assignment: Tensor) -> None:
        self.assignment = assignment
        self.bins, self.device = assignment.shape[1], assignment.device
        self._floors: Tensor | None = None

    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """One: there is a single distribution."""
        return [slice(0, 1)]

    def tables(self, ids: Tensor, num_labels: int, chunk: slice) -> Tables:
        """Sums of assignments by label."""
        return _SoftTables(self.assignment, ids.to(self.assignment.device), num_labels)

    def floors(self) -> Tensor:
        """Entropy of each assignment, in units of log K."""
        if self._floors is None:
            rows = max(1, _CACHED // self.bins)
            parts = [self.assignment[start : start + rows] for start in range(0, len(self.assignment), rows)]
            nats = [-plogp(part).sum(-1) for part in parts] or [self.assignment.sum(-1)]
            self._floors = torch.cat(nats) / math.log(self.bins)
        return self._floors


class _SoftTables(Tables):
    """Rows in the order of their labels, so that each label's are next to each other."""

    def __init__(self, assignment: Tensor, ids: Tensor, num_labels: int) -> None:
        flat = ids.flatten()
        sizes = torch.bincount(flat, minlength=num_labels + 1)[:num_labels]
        self.starts = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
        self.rows = flat.argsort(stable=True)[: int(self.starts[-1])]
        if ids.shape[1] > 1:
            self.rows //= ids.shape[1]
        self.assignment = assignment

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
        codes = self.indices[:, chunk].long()
        groups = codes.shape[1]
        codes += torch.arange(groups, device=codes.device) * self.bins
        cells = groups * self.bins
        out = torch.zeros(num_labels * cells, dtype=torch.long, device=codes.device)
        for column in ids.to(codes.device).unbind(1):
            kept = column < num_labels
            place = (column[kept, None] * cells + codes[kept]).flatten()
            out += torch.bincount(place, minlength=len(out))
        return _BinTables(out.view(num_labels, groups, self.bins))


class _BinTables(Tables):
    def __init__(self, histograms: Tensor) -> None:
        self.histograms = histograms

    def block(self, labels: slice, dtype: torch.dtype) -> Tensor:
        return self.histograms[labels].to(dtype)


def settle_width(payload: Tensor) -> Steps[Tensor]:
    """Give a rank that saw no rows the width of the others."""
    width: Tensor = yield Maximum(torch.tensor(payload.shape[1]))
    return payload if payload.shape[1] else payload.new_zeros(0, int(width))
