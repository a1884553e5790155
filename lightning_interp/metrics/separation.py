"""How far labelled classes lie apart, on a fixed sample of the representations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Steps, Sum
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.separation import euclidean_distances, knn_purity, knn_purity_chance, silhouette
from lightning_interp.metrics._names import check_names
from lightning_interp.metrics.base import (
    FULL,
    SUMMARY,
    RepresentationMetric,
    as_mapping,
    batch_shape,
    label_columns,
)
from lightning_interp.metrics.keyed_rows import KeyedRows

__all__ = ["ClassSeparation", "SampledRows"]


class SampledRows(NamedTuple):
    """The rows that were kept of a reading, the same on every rank."""

    key: Tensor
    """Sample and place within it in one number, rising: int64 (N,)."""
    z: Tensor
    """Representations, float32 (N, D) on the CPU."""
    labels: Tensor
    """A column for each label set, -1 where there is none: int64 (N, L)."""


class ClassSeparation(RepresentationMetric):
    r"""Silhouette and nearest neighbours' purity of labelled classes.

    Formulas and sources: :func:`~lightning_interp.functional.silhouette`,
    :func:`~lightning_interp.functional.knn_purity`. Both are of at most ``max_rows`` positions, which are chosen by a
    hash of their place in the data, so that they are the same on any number of ranks and at every reading. After
    ``compute`` they are in :attr:`sample`.

    Args:
        labels: Names of label sets, of one class a position.
        max_rows: Positions that are kept.
        neighbors: Neighbours k that purity looks at.
        min_count: Classes with fewer of these positions are left out.
        shuffles: Random exchanges of labels for the chance level of the silhouette; 0 leaves it out. That of the purity
            is known exactly.
        seed: Of the choice of positions and of the shuffles.
        kwargs: Further arguments of ``torchmetrics.Metric``.

    Raises:
        ValueError: If an argument is out of range.

    Cost: one product, ``max_rows``² · D multiplications, if there are labels, and 8 · ``max_rows``² bytes; while
        reading, 2 · ``max_rows`` vectors.

    Example:
        >>> metric = ClassSeparation(labels=["class"], neighbors=1)
        >>> metric.update(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), labels=torch.tensor([0, 0, 1, 1]))
        >>> found = metric.compute()
        >>> round(float(found["silhouette/class"]), 3), float(found["knn_purity/class"])
        (0.9, 1.0)

    """

    seen: Tensor

    def __init__(
        self,
        labels: Sequence[str] = (),
        max_rows: int = 2000,
        neighbors: int = 10,
        min_count: int = 2,
        shuffles: int = 3,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least in (
            ("max_rows", max_rows, 4),
            ("neighbors", neighbors, 1),
            ("min_count", min_count, 1),
            ("shuffles", shuffles, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        self.needs = check_names(labels)
        self.max_rows = max_rows
        self.neighbors = neighbors
        self.min_count = min_count
        self.shuffles = shuffles
        self.seed = seed
        self.sample: SampledRows | None = None
        self._rows_kept = KeyedRows(max_rows, (torch.float32, torch.int64), seed)
        self.add_state("seen", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    @property
    def measures(self) -> dict[str, str]:
        """Every key of ``compute`` with its level."""
        keys: dict[str, str] = {}
        for name in self.needs:
            keys[f"silhouette/{name}"] = SUMMARY
            keys[f"knn_purity/{name}"] = SUMMARY
            if self.shuffles:
                keys[f"silhouette_chance/{name}"] = FULL
            keys[f"knn_purity_chance/{name}"] = FULL
        return {**keys, "rows": FULL, "sampled_rows": FULL, "nonfinite": FULL}

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
            labels: Integer labels by name, each per sample (B,) or per position (B, T); negative where there is none.
            positions: Place of each sample in the data set, (B,), by which positions are chosen; order of arrival by
                default.

        Raises:
            ValueError: If shapes do not fit or a label set is missing.

        """
        rows = self._rows(representations, mask, positions)
        shape = batch_shape(representations)
        given = as_mapping(labels, self.needs)
        columns: list[Tensor] = []
        for name in self.needs:
            if name not in given:
                raise ValueError(f"Label set {name!r} needs `labels[{name!r}]`, got {sorted(given) or 'no labels'}.")
            value = label_columns(name, given[name], shape)
            if value.shape[1] != 1:
                raise ValueError(f"`labels[{name!r}]` has {value.shape[1]} classes a position; expected one.")
            columns.append(value.to(rows.key.device))
        # What is not finite keeps its place, so that the choice of the others does not depend on it.
        columns.append(rows.valid[:, None].long())
        self._rows_kept.add(rows.key, rows.context, (as_float(rows.z), torch.cat(columns, dim=1)))
        self.seen = self.seen.to(rows.key.device) + rows.valid.sum()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.sample = None
        self._rows_kept.clear()

    def steps(self) -> Steps[dict[str, Tensor]]:
        """The rows of all ranks, then every measure of them."""
        nonfinite = yield from self._nonfinite_steps()
        seen: Tensor = yield Sum(self.seen)
        key, (z, columns) = yield from self._rows_kept.steps()
        finite = columns[:, -1:].sum(1) > 0
        self.sample = SampledRows(key[finite], z[finite], columns[finite, :-1])
        values = {key: torch.tensor(math.nan) for key in self.measures}
        values |= {
            "rows": seen.double().cpu(),
            "sampled_rows": torch.tensor(float(finite.sum())),
            "nonfinite": nonfinite.double().cpu(),
        }
        if self.needs and len(self.sample.key):
            distances = euclidean_distances(self.sample.z)
            for place, name in enumerate(self.needs):
                values |= self._separation(distances, self.sample.labels[:, place], name)
        return values

    def _separation(self, distances: Tensor, labels: Tensor, name: str) -> dict[str, Tensor]:
        classes, ids, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        keep = ((classes >= 0) & (counts >= self.min_count))[ids]
        number = int(keep.sum())
        if not bool(keep.all()):
            distances, ids = distances[keep][:, keep], ids[keep]
        values: dict[str, Tensor] = {}
        if number > self.neighbors:
            values[f"knn_purity/{name}"] = knn_purity(distances, ids, self.neighbors)
            values[f"knn_purity_chance/{name}"] = knn_purity_chance(ids)
        if 2 <= len(ids.unique()) < number:
            generator = torch.Generator().manual_seed(self.seed)
            dealt = [ids[torch.randperm(number, generator=generator)] for _ in range(self.shuffles)]
            own, *chance = silhouette(distances, torch.stack([ids, *dealt])).unbind()
            values[f"silhouette/{name}"] = own
            if chance:
                values[f"silhouette_chance/{name}"] = torch.stack(chance).mean()
        return values
