"""What an estimator made of the rows of this rank, and how it sums them by label."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from lightning_interp.distributed import Maximum, Steps
from lightning_interp.functional._numerics import plogp, wide_dtype

__all__ = ["BinCodes", "Codes", "SoftCodes", "settle_width"]

# Entries of a table or an index that one chunk of dimensions may take.
_STEP = 1 << 22


class Codes(ABC):
    """The coded rows of this rank."""

    bins: int

    @abstractmethod
    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """Parts of the groups (dimensions) to work on one after the other; the same on every rank."""

    @abstractmethod
    def table(self, ids: Tensor, num_labels: int, chunk: slice) -> Tensor:
        """Counts (num_labels, groups in the chunk, bins) of rows by label; ids ≥ num_labels are left out."""

    def floors(self) -> Tensor | None:
        """Entropy that each single row has by itself, (N,); ``None`` for estimators without such a floor."""
        return None


class SoftCodes(Codes):
    """Rows of soft assignments, (N, K)."""

    def __init__(self, assignment: Tensor) -> None:
        self.assignment = assignment
        self.bins = assignment.shape[1]
        self._floors: Tensor | None = None

    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """One: there is a single distribution."""
        return [slice(0, 1)]

    def table(self, ids: Tensor, num_labels: int, chunk: slice) -> Tensor:
        """Sums of assignments by label."""
        # Sums in float64: in float32 a hundred thousand rows are off in the fourth digit, by an amount that depends on
        # their order.
        rows = self.assignment
        out = torch.zeros(num_labels + 1, self.bins, dtype=wide_dtype(rows.device), device=rows.device)
        ids = ids.to(rows.device)
        step = max(1, _STEP // self.bins)
        for start in range(0, len(rows), step):
            part = rows[start : start + step].to(out.dtype)
            for column in ids[start : start + step].unbind(1):
                out.index_add_(0, column, part)
        return out[:num_labels].unsqueeze(1)

    def floors(self) -> Tensor:
        """Entropy of each assignment, in units of log K."""
        if self._floors is None:
            self._floors = -plogp(self.assignment).sum(-1) / math.log(self.bins)
        return self._floors


class BinCodes(Codes):
    """Bin of every coordinate, uint8 (N, D)."""

    def __init__(self, indices: Tensor, bins: int) -> None:
        self.indices = indices
        self.bins = bins

    def chunks(self, num_labels: int, rows: int) -> list[slice]:
        """As many dimensions at a time as fit the memory bound."""
        dim = self.indices.shape[1]
        width = max(1, _STEP // max(rows, num_labels * self.bins, 1))
        return [slice(start, min(start + width, dim)) for start in range(0, dim, width)]

    def table(self, ids: Tensor, num_labels: int, chunk: slice) -> Tensor:
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
        return out.view(num_labels, groups, self.bins).to(wide_dtype(codes.device))


def settle_width(payload: Tensor) -> Steps[Tensor]:
    """Give a rank that saw no rows the width of the others."""
    width: Tensor = yield Maximum(torch.tensor(payload.shape[1]))
    return payload if payload.shape[1] else payload.new_zeros(0, int(width))
