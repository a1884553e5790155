"""How far labelled classes lie apart, on a fixed sample of the representations."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.distributed import Collective, Sum
from lightning_interp.functional._chance import chance_spread
from lightning_interp.functional._numerics import as_float
from lightning_interp.functional.label_sets import BUILT_IN_LABELS, check_names
from lightning_interp.functional.separation import euclidean_distances, knn_purity, knn_purity_chance, silhouette
from lightning_interp.metrics._units import Unit, check_units, count_units, dealt_rows, unit_of
from lightning_interp.metrics.base import (
    RepresentationMetric,
    as_mapping,
    batch_shape,
    label_columns,
    sample_of,
    tokens_if_there,
)
from lightning_interp.metrics.derived import ABOVE_CHANCE, CHANCE, SPREAD
from lightning_interp.metrics.keyed_rows import KeyedRows
from lightning_interp.metrics.measure import FULL, Axes, Measure
from lightning_interp.metrics.measures.geometry import NONFINITE, ROWS
from lightning_interp.metrics.measures.similarity import KNN_PURITY, SAMPLED_ROWS, SILHOUETTE

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

    Classes belong to samples, words or positions, as in :class:`~lightning_interp.metrics.StructureMetric`: labels are
    exchanged among these, and other positions of the same sample (word) are no neighbours. After ``compute`` the units
    are in :attr:`units_used`. ``knn_purity_chance`` is exact, :math:`\sum_c n_c (n_c - 1) / (U (U - 1))` over units;
    ``silhouette_chance`` is a mean over ``shuffles`` exchanges. ``/sd`` is the standard deviation of value − chance for
    labels that carry nothing, from as many exchanges.

    ======================================  =======  ==============================================================
    key                                     level    what it is
    ======================================  =======  ==============================================================
    ``silhouette/<labels>``                 summary  mean silhouette, −1 to 1
    ``knn_purity/<labels>``                 summary  share of nearest neighbours of the same class
    ``<measure>_above_chance/<labels>``     summary  value minus chance level
    ``<measure>_chance/<labels>``           full     what labels that carry nothing show; ``…/sd``
    ``rows``, ``sampled_rows``              full     positions read, and those that were kept
    ``nonfinite``                           full     positions left out as not finite
    ======================================  =======  ==============================================================

    Args:
        labels: Names of label sets, of one class a position.
        max_rows: Positions that are kept.
        neighbors: Neighbours k that purity looks at.
        min_count: Classes of fewer units (samples, word types, positions) among these are left out.
        units: ``{label set: "sample" | "word" | "position"}``: what its labels belong to; told from the data where it
            is not said.
        shuffles: Random exchanges of labels for the chance level of the silhouette and both spreads; 0 leaves them out.
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
        units: Mapping[str, str] | None = None,
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
        self.labels = check_names(labels)
        self.units = check_units(units, self.labels, BUILT_IN_LABELS)
        of_words = "word" in self.units.values() and "token" not in self.labels
        self.needs = (*self.labels, "token") if of_words else self.labels
        # Tokens tell whether labels belong to words.
        asked = [name for name in self.labels if name not in BUILT_IN_LABELS and name not in self.units]
        self.needs_if_there = ("token",) if asked and "token" not in self.needs else ()
        self.units_used: dict[str, str] = {}
        """After ``compute``: what the labels of each set belong to."""
        self.max_rows = max_rows
        self.neighbors = neighbors
        self.min_count = min_count
        self.shuffles = shuffles
        self.seed = seed
        self.sample: SampledRows | None = None
        self._rows_kept = KeyedRows(max_rows, (torch.float32, torch.int64), seed)
        self.add_state("seen", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def declares(self) -> list[Measure]:
        """What ``compute`` gives, of the site and of label sets."""
        found = [SILHOUETTE, KNN_PURITY.at("site", "labels", level=FULL)]
        for measure, known in ((SILHOUETTE, False), (KNN_PURITY, True)):
            if self.shuffles or known:
                found += [ABOVE_CHANCE.of(measure), CHANCE.of(measure)]
            if self.shuffles:
                found.append(SPREAD.of(CHANCE.of(measure)))
        return [*found, ROWS, SAMPLED_ROWS, NONFINITE]

    @property
    def axes(self) -> Axes:
        """The label sets."""
        return {"labels": self.labels}

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
        columns += [tokens_if_there(given, rows.key, shape) for _ in self.needs_if_there]
        # What is not finite keeps its place, so that the choice of the others does not depend on it.
        columns.append(rows.valid[:, None].long())
        self._rows_kept.add(rows.key, rows.context, (as_float(rows.z), torch.cat(columns, dim=1)))
        self.seen = self.seen.to(rows.key.device) + rows.valid.sum()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self.sample, self.units_used = None, {}
        self._rows_kept.clear()

    def merge(self) -> Collective[dict[str, Tensor]]:
        """The rows of all ranks, then every measure of them."""
        nonfinite = yield from self._merged_nonfinite()
        seen: Tensor = yield Sum(self.seen)
        key, (z, columns) = yield from self._rows_kept.merge()
        finite = columns[:, -1:].sum(1) > 0
        self.sample = SampledRows(key[finite], z[finite], columns[finite, : len(self.labels)])
        values = {key: torch.tensor(math.nan) for key in self.measures}
        values |= {
            "rows": seen.double().cpu(),
            "sampled_rows": torch.tensor(float(finite.sum())),
            "nonfinite": nonfinite.double().cpu(),
        }
        if self.labels and len(self.sample.key):
            distances = euclidean_distances(self.sample.z)
            words = self._words(columns[finite, :-1])
            for place, name in enumerate(self.labels):
                values |= self._separation(distances, self.sample.labels[:, place], words, name)
        return values

    def _words(self, columns: Tensor) -> Tensor | None:
        """Word of each row, where words are known."""
        names = (*self.needs, *self.needs_if_there)
        return columns[:, names.index("token")] if "token" in names else None

    def _unit(self, labels: Tensor, words: Tensor | None, name: str) -> Unit:
        """What the labels of a set belong to."""
        if name in BUILT_IN_LABELS:
            return Unit("position", None)
        assert self.sample is not None
        return unit_of(name, labels[:, None], labels >= 0, sample_of(self.sample.key), words, self.units.get(name))

    def _separation(self, distances: Tensor, labels: Tensor, words: Tensor | None, name: str) -> dict[str, Tensor]:
        unit = self._unit(labels, words, name)
        self.units_used[name] = unit.name
        classes, ids, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        if unit.of is not None:
            counts = count_units(ids, unit.of, len(classes))
        keep = ((classes >= 0) & (counts >= self.min_count))[ids]
        number, units = int(keep.sum()), unit.of
        if not bool(keep.all()):
            distances, ids = distances[keep][:, keep], ids[keep]
            units = None if units is None else units[keep]
        generator = torch.Generator().manual_seed(operator.index(self.seed))
        dealt = [ids[dealt_rows(units, number, generator)] for _ in range(self.shuffles)]
        ways = torch.stack([ids, *dealt])
        values: dict[str, Tensor] = {}
        largest = 1 if units is None or not number else int(torch.unique(units, return_counts=True)[1].max())
        if number - largest >= self.neighbors:
            own, *drawn = knn_purity(distances, ways, self.neighbors, units).unbind()
            values |= self._against("knn_purity", name, own, drawn, knn_purity_chance(ids, units))
        if 2 <= len(ids.unique()) < number:
            own, *drawn = silhouette(distances, ways).unbind()
            values |= self._against("silhouette", name, own, drawn)
        return values

    def _against(
        self, measure: str, name: str, own: Tensor, drawn: Sequence[Tensor], expected: Tensor | None = None
    ) -> dict[str, Tensor]:
        """A value beside its level of chance, which is known or the mean of some draws."""
        values = {f"{measure}/{name}": own}
        level = expected if expected is not None or not drawn else torch.stack([*drawn]).mean()
        if level is not None:
            values |= {f"{measure}_chance/{name}": level, f"{measure}_above_chance/{name}": own - level}
        if drawn:
            values[f"{measure}_chance/{name}/sd"] = chance_spread(torch.stack([*drawn]), expected)
        return values
