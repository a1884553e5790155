"""What layers of a language model say of the next token, added up over batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.distributed import Collective, Maximum, Sums
from lightning_interp.functional._numerics import wide_dtype
from lightning_interp.functional.lens import agreement_by_chance, constant_loss
from lightning_interp.parts.lens_sites import LensBatch, LensSites

__all__ = ["LensMeans", "LensSums", "LensValues"]


@dataclass(frozen=True)
class LensValues:
    """What a layer says of the next token: means over positions, NaN where there are none."""

    loss: float
    """Nats."""
    entropy: float
    """Nats."""
    agreement: float
    """Share of positions where its top token is the model's own."""
    by_chance: float
    """The same of top tokens dealt to other positions."""
    nonfinite: float
    """Positions left out."""


@dataclass(frozen=True)
class LensMeans:
    """What the layers say, and what that is compared with."""

    sites: Mapping[str, LensValues]
    own: float
    """The model's own loss."""
    constant: float
    """The loss of token frequencies."""


class LensSums:
    """Sums over the batches of a reading.

    Args:
        sites: The layers, attached to a model.

    """

    def __init__(self, sites: LensSites) -> None:
        self.sites = sites
        self._sums: dict[str, Tensor] = {}
        self._tops: dict[str, Tensor] = {}
        self._model: dict[str, Tensor] = {}

    def take(self, site: str, rows: SiteRows) -> None:
        """Take in what a site put out for a batch; nothing is read back from the device."""
        batch = self.sites.read(site, rows)
        lens, known = batch.lens, batch.counted & (batch.targets < batch.vocabulary)
        finite = lens.losses.isfinite() & lens.entropies.isfinite()
        agrees = (lens.tops == batch.own.tops).float()
        columns = torch.stack([lens.losses, lens.entropies, agrees, torch.ones_like(agrees)])
        sums = _sums(columns, known & finite, (known & ~finite).sum())
        tops = _histogram(lens.tops, known & finite, batch.vocabulary)
        _add(self._sums, site, sums)
        _add(self._tops, site, tops)
        if site == next(iter(self.sites.names)):
            self._take_own(batch, known)

    def _take_own(self, batch: LensBatch, known: Tensor) -> None:
        """What does not hang on the layer, once a batch."""
        finite = batch.own.losses.isfinite()
        columns = torch.stack([batch.own.losses, torch.ones_like(batch.own.losses)])
        own = _sums(columns, known & finite, (batch.counted & ~known).sum())
        counts = torch.stack(
            [
                _histogram(batch.own.tops, known & finite, batch.vocabulary),
                _histogram(batch.targets, known, batch.vocabulary),
            ]
        )
        _add(self._model, "own", own)
        _add(self._model, "counts", counts)

    def means(self) -> Collective[LensMeans]:
        """Means over all ranks.

        Raises:
            ValueError: If labels are no tokens of the model, on all ranks.

        """
        names = list(self.sites.names)
        size = max((len(one) for one in self._tops.values()), default=0)
        largest: Tensor = yield Maximum(torch.tensor(size))
        vocabulary = int(largest)
        none, empty = torch.zeros(5, dtype=torch.float64), torch.zeros(vocabulary, dtype=torch.long)
        table = torch.stack([self._sums.get(site, none).double().cpu() for site in names])
        own = self._model.get("own", none[:3]).double().cpu()
        tops = torch.stack([self._tops.get(site, empty).cpu() for site in names])
        counts = self._model.get("counts", torch.stack([empty, empty])).cpu()
        table, own = yield Sums([table, own])
        tops, counts = yield Sums([tops, counts])
        loss, number, unknown = own.tolist()
        if unknown:
            raise ValueError(
                f"{int(unknown)} labels are none of the {vocabulary} tokens that the logits of "
                f"{self.sites.language_model or 'the module'!r} are of: name the language model with `model`, and what "
                "it is to predict with `target`."
            )
        found: dict[str, LensValues] = {}
        for site, row, of_site in zip(names, table, tops, strict=True):
            loss_of, entropy, agreement = (row[:3] / row[3]).tolist()
            by_chance = float(agreement_by_chance(of_site, counts[0]))
            found[site] = LensValues(loss_of, entropy, agreement, by_chance, float(row[4]))
        return LensMeans(found, loss / number if number else math.nan, float(constant_loss(counts[1])))


def _add(to: dict[str, Tensor], name: str, value: Tensor) -> None:
    # Not in place: what a validation run makes may belong to inference mode.
    to[name] = to[name] + value if name in to else value


def _sums(columns: Tensor, counted: Tensor, left_out: Tensor) -> Tensor:
    """Of columns (C, N) the sums over what counts, and behind them how many are left out: (C + 1,)."""
    wide = wide_dtype(columns.device)
    return torch.cat([torch.where(counted, columns, 0.0).sum(1, dtype=wide), left_out.to(wide)[None]])


def _histogram(values: Tensor, counted: Tensor, size: int) -> Tensor:
    """How often each value is there, int64 (size,)."""
    found = torch.zeros(size, dtype=torch.long, device=values.device)
    return found.scatter_add(0, values.clamp(0, size - 1), counted.long())
