"""What every metric on representations shares: shapes, positions, omissions, and merging over ranks."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.distributed import Collective, Maximum, Sum, over_ranks, rank_in, world_size
from lightning_interp.functional._numerics import norms
from lightning_interp.metrics.measure import FULL, SUMMARY, Axes, Measure, as_measures, expanded, fallbacks, keys_of

__all__ = ["SUMMARY", "FULL", "RepresentationMetric", "Rows"]

_POSITION_BITS = 20


class Rows(NamedTuple):
    """One batch, a row per position."""

    z: Tensor
    """Representations, (R, D); rows that are left out hold zeros or are gone."""
    valid: Tensor
    """Which rows count, bool (R,)."""
    context: Tensor
    """Which rows the mask names, whether finite or not, bool (R,)."""
    norm: Tensor
    """Length of each row as it came, finite or not, (R,)."""
    key: Tensor
    """Sample and place within it in one number, int64 (R,): the same on any number of ranks."""


class RepresentationMetric(Metric):
    """Base of the metrics in this package.

    ``update(representations, mask, labels, positions)`` takes one batch and reads nothing back from the device.
    ``compute`` merges ranks through :mod:`lightning_interp.distributed` and returns a flat dict of scalars, whose keys
    are ``measure`` or ``measure/label set``. What torchmetrics would do to merge, gathering whole states, is off.

    A subclass says its measures in :meth:`declares` and the values of their axes in :attr:`axes`; or, without any
    words, its keys in :attr:`measures`.

    A metric of labels names those that ``update`` cannot do without in ``needs``, and those that are of use where a
    batch has them in ``needs_if_there``.

    Args:
        kwargs: Further arguments of ``torchmetrics.Metric``, such as ``process_group``.

    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    nonfinite: Tensor

    def __init__(self, **kwargs: Any) -> None:
        # A cached value would let ranks that saw nothing new stay away while the others merge.
        super().__init__(**{"sync_on_compute": False, "compute_with_cache": False, **kwargs})
        self.add_state("nonfinite", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self._sequences = 0
        self._dim: int | None = None

    def declares(self) -> Sequence[Measure]:
        """The measures of ``compute``, of ``"site"`` and further axes; the site is no part of a key here.

        Raises:
            NotImplementedError: If a subclass says neither these nor its keys.

        """
        if type(self).measures is RepresentationMetric.measures:
            raise NotImplementedError(f"{type(self).__name__} says neither `declares()` nor `measures`.")
        return as_measures(self.measures, self.conditional, ("site",))

    @property
    def axes(self) -> Axes:
        """The values of the axes beside the site, such as the names of label sets."""
        return {}

    def _of_one_site(self) -> list[Measure]:
        return [one.at(*(axis for axis in one.of if axis != "site"), end=one.end) for one in self.declares()]

    def measures_at(self, site: str = "site") -> list[Measure]:
        """The measures as a callback logs them, with the axis of the sites in front of the others.

        A subclass may say its keys in ``measures`` and ``conditional``; then these count.
        """
        of_one = self._of_one_site()
        kind, base = type(self), RepresentationMetric
        if kind.measures is not base.measures or kind.conditional is not base.conditional:
            return as_measures(self.measures, self.conditional, (site,), expanded(of_one, self.axes))
        return [one.at(site, *one.of, end=one.end) for one in of_one]

    @property
    def measures(self) -> dict[str, str]:
        """Every key of ``compute``, with its level: ``"summary"`` or ``"full"``."""
        return keys_of(self._of_one_site(), self.axes)

    @property
    def conditional(self) -> dict[str, str]:
        """Measures that may be undefined at a reading, each with one to monitor instead."""
        if type(self).declares is RepresentationMetric.declares:
            return {}
        return fallbacks(self._of_one_site(), self.axes)

    @abstractmethod
    def merge(self) -> Collective[dict[str, Tensor]]:
        """The computation, a generator that :func:`lightning_interp.distributed.over_ranks` carries out."""

    def compute(self) -> dict[str, Tensor]:
        """Merge what all ranks have seen and return the measures."""
        return over_ranks(self.merge(), self.process_group)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Take in a batch and return its own measures, as torchmetrics' ``forward`` does."""
        alone = copy.deepcopy(self)
        alone.reset()
        alone.update(*args, **kwargs)
        self.update(*args, **kwargs)
        return alone.compute()

    def reset(self) -> None:
        """Forget all batches."""
        super().reset()
        self._sequences = 0
        self._dim = None

    def _merged_nonfinite(self) -> Collective[Tensor]:
        """How many vectors were left out, once all ranks are known to read vectors of the same dimension."""
        merged: Tensor = yield Sum(self.nonfinite)
        width: Tensor = yield Maximum(torch.tensor(self._dim or 0))
        if self._dim not in (None, int(width)):
            raise ValueError(f"Representations have {self._dim} dimensions here and {int(width)} on another rank.")
        return merged

    def _rows(self, representations: Tensor, mask: Tensor | None, positions: Tensor | None) -> Rows:
        """Check shapes, leave out masked and non-finite vectors, number the rows."""
        z = representations.detach()
        if z.ndim == 2:
            z = z.unsqueeze(1)
        if z.ndim != 3 or not z.is_floating_point():
            raise ValueError(
                "`representations` must be floating point of shape (N, D) or (B, T, D), got "
                f"{tuple(representations.shape)} of {representations.dtype}."
            )
        batch, length, dim = z.shape
        if self._dim not in (None, dim):
            raise ValueError(f"`representations` have {dim} dimensions, earlier batches {self._dim}.")
        device = z.device
        if mask is None:
            valid = torch.ones(batch, length, dtype=torch.bool, device=device)
        else:
            valid = mask.to(device=device, dtype=torch.bool)
            valid = valid.unsqueeze(1) if valid.ndim == 1 else valid
            if valid.shape != (batch, length):
                raise ValueError(
                    f"`mask` {tuple(mask.shape)} does not fit `representations` {tuple(representations.shape)}."
                )
        if positions is None:
            step, rank = world_size(self.process_group), rank_in(self.process_group)
            positions = (torch.arange(batch, device=device) + self._sequences) * step + rank
        elif positions.shape != (batch,):
            raise ValueError(f"`positions` {tuple(positions.shape)} must have one entry per sample, {batch} here.")
        self._sequences += batch
        self._dim = dim
        key = row_keys(positions.to(device), length)
        flat, counted = z.reshape(batch * length, dim), valid.flatten()
        norm = norms(flat)
        # Finite are vectors that can also be squared and summed.
        finite = norm.isfinite()
        # Not in place: a state made under inference mode could not be written to outside it.
        self.nonfinite = self.nonfinite.to(device) + (counted & ~finite).sum()
        return Rows(flat, counted & finite, counted, norm, key.flatten())


def row_keys(positions: Tensor, length: int) -> Tensor:
    """Sample and place within it in one number, int64 (B, length)."""
    return (positions.long()[:, None] << _POSITION_BITS) + torch.arange(length, device=positions.device)


def sample_of(key: Tensor) -> Tensor:
    """The sample that a row's key belongs to."""
    return key >> _POSITION_BITS


def label_columns(name: str, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """Labels as (B·T, M) whatever way they came: per sample (B,), per position (B, T), several a position (B, T, M)."""
    batch, length = shape
    if value.is_floating_point() or value.is_complex():
        raise ValueError(f"`labels[{name!r}]` must hold integers, got {value.dtype}.")
    if value.ndim == 1 and value.shape == (batch,):
        value = value[:, None].expand(batch, length)
    if value.ndim == 2:
        value = value.unsqueeze(-1)
    if value.ndim != 3 or value.shape[:2] != (batch, length):
        raise ValueError(
            f"`labels[{name!r}]` {tuple(value.shape)} fits neither {batch} samples nor positions ({batch}, {length})."
        )
    return value.reshape(batch * length, value.shape[2]).long()


def tokens_if_there(given: Mapping[str, Tensor], key: Tensor, shape: tuple[int, int]) -> Tensor:
    """Token ids of rows, (B·T, 1), -1 where they are not known: not given, or not one for each position."""
    tokens = given.get("token")
    if tokens is None or tokens.is_floating_point() or tokens.shape[:2] != shape or tokens.numel() != len(key):
        return torch.full_like(key, -1)[:, None]
    return tokens.reshape(-1, 1).to(key)


def as_mapping(labels: Tensor | Mapping[str, Tensor] | None, names: tuple[str, ...]) -> Mapping[str, Tensor]:
    """A single tensor stands for the only label set there is."""
    if labels is None:
        return {}
    if isinstance(labels, Tensor):
        if len(names) != 1:
            raise ValueError(
                f"`labels` is one tensor, but there are {len(names)} label sets {list(names)}: pass a dict."
            )
        return {names[0]: labels}
    return labels


def batch_shape(representations: Tensor) -> tuple[int, int]:
    """Samples and positions of representations (B, T, D) or (N, D)."""
    return representations.shape[0], 1 if representations.ndim == 2 else representations.shape[1]


def joined(parts: list[Tensor]) -> Tensor:
    """All parts as one tensor, which takes their place in the list: each is let go as soon as it is copied."""
    whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
    parts.reverse()
    start = 0
    while parts:
        part = parts.pop()
        whole[start : start + len(part)] = part
        start += len(part)
    parts.append(whole)
    return whole
