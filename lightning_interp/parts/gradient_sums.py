"""What gradients of sources and queries add up to, on one rank or over all, and how they compare."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sums
from lightning_interp.functional.optimizer_step import first_order_change
from lightning_interp.parts.loss_gradients import Sketches

__all__ = ["GradientSums"]


@dataclass(frozen=True, eq=False)
class GradientSums:
    """Of S sources, in two kinds each, and Q queries.

    Example:
        >>> ones = torch.ones(1, 2, dtype=torch.float64)
        >>> sources, queries = torch.tensor([3.0, 4.0]).expand(1, 2, 2, 2), torch.tensor([[[6.0, 8.0]]])
        >>> sums = GradientSums(sources, ones, queries, 2 * ones[0, :1], scaled=True)
        >>> sums.cosine(0, 0, 0), sums.effect(0, 0, 0)
        (1.0, -25.0)

    """

    sources: Tensor
    """Plain and with labels dealt, as they are and as a step takes them, (S, 2, 2, length)."""
    source_counts: Tensor
    """How many losses were summed for it, (S, 2)."""
    queries: Tensor
    """(Q, 1, length)."""
    query_counts: Tensor
    """(Q,)."""
    scaled: bool
    """Whether it is known how a step takes them."""

    @classmethod
    def zeros(cls, sketches: Sketches, sources: int, queries: int, scaled: bool) -> GradientSums:
        """Sums to add to, in place."""
        counts = torch.zeros(sources, 2, dtype=torch.float64), torch.zeros(queries, dtype=torch.float64)
        return cls(sketches.zeros(sources, 2, 2), counts[0], sketches.zeros(queries, 1), counts[1], scaled)

    def merged(self) -> Collective[GradientSums]:
        """Over all ranks, float64 on the CPU."""
        own = (self.sources, self.source_counts, self.queries, self.query_counts)
        found: list[Tensor] = yield Sums([one.cpu().double() for one in own])
        return GradientSums(found[0], found[1], found[2], found[3], self.scaled)

    def nonfinite(self) -> float:
        """How many gradients are not finite."""
        rows = torch.cat([self.sources[:, :, 0].flatten(0, 1), self.queries[:, 0]])
        return float((~rows.isfinite().all(-1)).sum())

    def cosine(self, source: int, kind: int, query: int) -> float:
        """Of a source's gradient with a query's; NaN where one is 0 or not finite."""
        mine, other = self.sources[source, kind, 0], self.queries[query, 0]
        size = float(mine.norm() * other.norm())
        return float(mine @ other) / size if size > 0 and math.isfinite(size) else math.nan

    def effect(self, source: int, kind: int, query: int) -> float:
        """Change of a query's mean loss for each unit of learning rate on a source's mean gradient; NaN if unknown."""
        counts = float(self.source_counts[source, kind]), float(self.query_counts[query])
        if not self.scaled or not all(counts):
            return math.nan
        found = first_order_change(self.queries[query, 0] / counts[1], self.sources[source, kind, 1] / counts[0])
        return found if math.isfinite(found) else math.nan
