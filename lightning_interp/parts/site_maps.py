"""A part: maps of sites' representations in two dimensions, of some readings of a fit, laid over one another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_interp.functional.counter_noise import counter_hash
from lightning_interp.functional.mds import procrustes
from lightning_interp.functional.principal import principal_axes
from lightning_interp.metrics.separation import SampledRows
from lightning_interp.parts.kept import Kept
from lightning_interp.reading.reading import Reading

__all__ = ["Map", "SiteMaps"]

_POINTS = 500
_READINGS = 9


class Map(NamedTuple):
    """The positions that a site's map shows, the same for a whole run."""

    key: Tensor
    """Sample and place within it in one number, int64 (M,)."""
    labels: Tensor
    """Label of each in the first label set, -1 where there is none, int64 (M,)."""


class SiteMaps(Kept):
    """Principal planes of the sampled rows of each site, of up to nine readings of a fit, evenly spread.

    :attr:`now` takes the rows of the reading by site; what is kept of it are coordinates of at most 500 of them, always
    the same ones, float32 (M, 2) on the CPU, NaN where a reading lacks one.

    Args:
        align: ``"procrustes"`` to move each plane onto the map before, ``"first"`` for the plane of the first reading.
        seed: Of the choice of positions.

    Example:
        >>> from torch import nn
        >>> maps = SiteMaps("first")
        >>> maps.now = {"enc": SampledRows(torch.arange(5), torch.eye(5), torch.zeros(5, 0, dtype=torch.int64))}
        >>> maps.commit(Reading(nn.Identity(), step=10))
        >>> maps.steps, maps.values[0]["enc"].shape
        ([10], torch.Size([5, 2]))

    """

    def __init__(self, align: str, seed: int = 0) -> None:
        self.align, self.seed = align, seed
        super().__init__(_READINGS)

    def clear(self) -> None:
        """A new fit."""
        super().clear()
        self._forget_places()

    def start_anew(self) -> None:
        """Later readings are of other samples."""
        super().start_anew()
        self._forget_places()

    def _forget_places(self) -> None:
        self.shown: dict[str, Map] = {}
        """Of each site the positions that its maps show."""
        self.planes: dict[str, tuple[Tensor, Tensor]] = {}
        """Of each site mean and axes of the first reading's plane, where all are laid into that."""

    def commit(self, reading: Reading) -> None:
        """Map what the reading found, and keep that."""
        rows = self.now
        with torch.inference_mode(False), torch.no_grad():
            if rows is not None:
                self.now = {site: self._mapped(site, of_site) for site, of_site in rows.items()}
            super().commit(reading)

    def _mapped(self, site: str, rows: SampledRows) -> Tensor:
        """Coordinates of the positions that are shown, float32 (M, 2), laid over the map before; NaN where missing."""
        if site not in self.shown and len(rows.key):
            chosen = counter_hash(rows.key, self.seed).argsort()[:_POINTS].sort().values
            labels = rows.labels[:, 0] if rows.labels.shape[1] else torch.full_like(rows.key, -1)
            self.shown[site] = Map(rows.key[chosen], labels[chosen])
        if site not in self.shown:
            return torch.zeros(0, 2)
        shown = self.shown[site].key
        there, here = torch.isin(shown, rows.key), torch.isin(rows.key, shown)
        points = torch.full((len(shown), 2), math.nan, dtype=torch.float64)
        if bool(there.any()):
            cloud = rows.z[here].double()
            if self.align == "first":
                mean, axes = self.planes.setdefault(site, principal_axes(cloud))
                points[there] = (cloud - mean) @ axes
            else:
                mean, axes = principal_axes(cloud)
                points[there] = (cloud - mean) @ axes
                points = _laid_over(points, self.values[-1].get(site) if len(self) else None)
        return points.float()

    def state_dict(self) -> dict[str, Any]:
        """What is kept, and which positions it is of."""
        return {
            **super().state_dict(),
            "shown": {site: {"key": one.key, "labels": one.labels} for site, one in self.shown.items()},
            "planes": {site: {"mean": mean, "axes": axes} for site, (mean, axes) in self.planes.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state)
        self.shown = {site: Map(one["key"], one["labels"]) for site, one in state["shown"].items()}
        self.planes = {site: (one["mean"], one["axes"]) for site, one in state["planes"].items()}


def _laid_over(points: Tensor, before: Tensor | None) -> Tensor:
    """All points, moved as those are that both maps have."""
    if before is None or len(before) != len(points):
        return points
    known = points[:, 0].isfinite()
    both = known & before[:, 0].isfinite()
    reference = before[both].double()
    if int(both.sum()) < 2 or float((reference - reference.mean(0)).square().sum()) <= 0:
        return points
    moved = procrustes(points[both], reference).points
    if bool((known == both).all()):
        return points.masked_scatter(known[:, None], moved)
    centre, turned = points[both].mean(0), moved - moved.mean(0)
    u, _, vh = torch.linalg.svd((points[both] - centre).T @ turned)
    whole: Tensor = (points - centre) @ u @ vh + moved.mean(0)
    return whole
