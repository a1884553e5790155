"""Any metric of this package on a fixed random projection of the representations."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_interp.distributed import Collective
from lightning_interp.functional._numerics import full_precision
from lightning_interp.functional.projection import random_projection
from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.derived import PROJECTED
from lightning_interp.metrics.measure import Axes, Measure

__all__ = ["Projected"]


class Projected(RepresentationMetric):
    """A metric on a random subspace of fixed dimension: the same view of models of different widths.

    Reference points in different dimensions are only roughly comparable, and bins along more dimensions are another
    average. Here every model is seen in ``dim`` dimensions: representations are multiplied by
    :func:`~lightning_interp.functional.random_projection`, one matrix for a width and a seed, the same at every
    reading, for every model of that width and on any number of ranks. A representation that uses few of its dimensions
    keeps its shape in a random subspace of more dimensions than that; beyond, the projection loses what the others
    hold. Where ``dim`` is the width itself it is a rotation: soft and spectral measures hardly change, binned ones do,
    since bins lie along the axes.

    Every key is that of the metric behind ``prefix``: ``projected_information``.

    Args:
        metric: A metric of this package, which is not changed: a copy is kept.
        dim: Dimension of the subspace, at most that of the representations.
        seed: Of the matrix.
        prefix: Put before every key; another one for each of several projections.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Raises:
        TypeError: If ``metric`` is none of this package.
        ValueError: If ``dim`` is below 1 or, at the first batch, above the dimension of the representations.

    Cost: one product (N, D) × (D, dim) a batch beside the metric itself.

    Example:
        >>> from lightning_interp.metrics import SpectralGeometry
        >>> metric = Projected(SpectralGeometry(), dim=4)
        >>> metric.update(torch.randn(100, 16, generator=torch.Generator().manual_seed(0)))
        >>> 1 <= float(metric.compute()["projected_effective_rank"]) <= 4
        True

    """

    metric: RepresentationMetric

    def __init__(
        self, metric: RepresentationMetric, dim: int, seed: int = 0, prefix: str = "projected_", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(metric, RepresentationMetric):
            raise TypeError(f"`metric` must be a metric of lightning_interp, got {type(metric).__name__}.")
        if dim < 1:
            raise ValueError(f"`dim` must be at least 1, got {dim}.")
        self.metric = copy.deepcopy(metric)
        self.dim = dim
        self.seed = seed
        self.prefix = prefix
        self._matrices: dict[tuple[int, torch.device], Tensor] = {}

    @property
    def needs(self) -> tuple[str, ...]:
        """Label sets that the metric asks for."""
        return tuple(getattr(self.metric, "needs", ()))

    @property
    def needs_if_there(self) -> tuple[str, ...]:
        """Label sets that are of use to the metric where a batch has them."""
        return tuple(getattr(self.metric, "needs_if_there", ()))

    @property
    def units_used(self) -> dict[str, str]:
        """What the labels of each set belong to, after ``compute``."""
        return dict(getattr(self.metric, "units_used", {}))

    def declares(self) -> list[Measure]:
        """Those of the metric, under other names."""
        name = PROJECTED.name if self.prefix == PROJECTED.prefix else self.prefix.strip("_/.-")
        named = replace(PROJECTED, prefix=self.prefix, name=name)
        return [named.of(one) for one in self.metric.measures_at("site")]

    @property
    def axes(self) -> Axes:
        """Those of the metric."""
        return self.metric.axes

    def update(
        self,
        representations: Tensor,
        mask: Tensor | None = None,
        labels: Tensor | Mapping[str, Tensor] | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take in one batch.

        Args:
            representations: Vectors, shape (B, T, D) or (N, D).
            mask: Which positions count, (B, T); all by default.
            labels: As the metric takes them.
            positions: Place of each sample in the data set, (B,).

        Raises:
            ValueError: If shapes do not fit, or the representations have fewer dimensions than the projection.

        """
        if not representations.is_floating_point():
            raise ValueError(f"`representations` must be floating point, got {representations.dtype}.")
        width = representations.shape[-1]
        if self._dim not in (None, width):
            raise ValueError(f"`representations` have {width} dimensions, earlier batches {self._dim}.")
        matrix = self._matrix(width, representations.device)
        z = representations.detach()
        z = z if z.dtype == torch.float64 else z.float()
        with full_precision(z.device):
            projected = z @ matrix.to(z.dtype)
        self.metric.process_group = self.process_group
        self.metric.update(projected, mask, labels, positions)
        self._dim = width

    def merge(self) -> Collective[dict[str, Tensor]]:
        """Those of the metric."""
        self.metric.process_group = self.process_group
        # Ranks of different widths would agree on the dimension of the subspace.
        yield from self._merged_nonfinite()
        found = yield from self.metric.merge()
        return {f"{self.prefix}{key}": value for key, value in found.items()}

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.metric.reset()

    def _matrix(self, width: int, device: torch.device) -> Tensor:
        place = (width, device)
        if place not in self._matrices:
            self._matrices[place] = random_projection(width, self.dim, self.seed).to(device)
        return self._matrices[place]
