"""A part: copies of metrics of representations, one for each site."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.distributed import over_ranks
from lightning_interp.functional._numerics import finite_rows
from lightning_interp.metrics._synced import synced
from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.measure import SUMMARY, Measure, as_measures
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_settings import arguments
from lightning_interp.reporting.plain_values import Settings

__all__ = ["SiteMetrics", "site_key"]


def site_key(measure: str, site: str) -> str:
    """The key of a metric's value at a site: the site comes second.

    Example:
        >>> site_key("information", "encoder"), site_key("regularity_chance/token/sd", "encoder")
        ('information/encoder', 'regularity_chance/encoder/token/sd')

    """
    measure, *rest = measure.split("/")
    return "/".join([measure, site, *rest])


class SiteMetrics(Part):
    """A copy of each metric for each site: what rows go into, and what comes out when a reading ends.

    Args:
        metrics: By name; those of other packages are merged over ranks by their states, as each says.

    Raises:
        ValueError: If one is no metric, or there is none.

    Example:
        >>> from lightning_interp.metrics import SpectralGeometry
        >>> metrics = SiteMetrics({"geometry": SpectralGeometry()})
        >>> metrics.update("enc", SiteRows(torch.eye(4)[None], torch.ones(1, 4, dtype=torch.bool)))
        >>> float(metrics.compute(["enc"])["rows/enc"])
        4.0

    """

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self.metrics = dict(metrics)
        for name, metric in self.metrics.items():
            if not isinstance(metric, Metric):
                raise ValueError(f"`metrics[{name!r}]` must be a torchmetrics.Metric, got {type(metric).__name__}.")
        if not self.metrics:
            raise ValueError("`metrics` is empty.")
        self._wants = {name: _parameters(metric) for name, metric in self.metrics.items()}
        self._results: dict[str, list[str]] = {}
        self.clear()
        self.forget()

    # ------------------------------------------------- what they take

    @property
    def needs(self) -> list[str]:
        """The label sets that metrics of this package name."""
        return [name for metric in self.metrics.values() for name in getattr(metric, "needs", ())]

    @property
    def needs_if_there(self) -> list[str]:
        """Those that they take where a batch has them."""
        return [name for metric in self.metrics.values() for name in getattr(metric, "needs_if_there", ())]

    @property
    def takes_any_labels(self) -> bool:
        """Whether one may take label sets that it does not name: of this package each says which it takes."""
        return any(
            "labels" in self._wants[name] and not hasattr(metric, "needs") for name, metric in self.metrics.items()
        )

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The measures of every metric, of the sites and of what the metric names."""
        found: list[Measure] = []
        for name, metric in self.metrics.items():
            if isinstance(metric, RepresentationMetric):
                names = self._axis_names()[name]
                for one in metric.measures_at("site"):
                    found.append(one.at(*(names.get(axis, axis) for axis in one.of), end=one.end))
            else:
                keys = dict.fromkeys(self._results.get(name, [name]), SUMMARY)
                found += [*as_measures(keys, getattr(metric, "conditional", None), ("site",)), NONFINITE]
        return found

    def axes(self) -> dict[str, Sequence[str]]:
        """What metrics name: label sets, targets."""
        found: dict[str, Sequence[str]] = {}
        for name, metric in self.metrics.items():
            if isinstance(metric, RepresentationMetric):
                found |= {self._axis_names()[name][axis]: values for axis, values in metric.axes.items()}
        return found

    def _axis_names(self) -> dict[str, dict[str, str]]:
        """What the axes of each metric are called here: two metrics may have other label sets each."""
        found: dict[str, dict[str, str]] = {}
        taken: dict[str, Sequence[str]] = {}
        for name, metric in self.metrics.items():
            own = metric.axes if isinstance(metric, RepresentationMetric) else {}
            found[name] = {
                axis: axis if list(taken.setdefault(axis, values)) == list(values) else f"{axis} of {name}"
                for axis, values in own.items()
            }
        return found

    # ------------------------------------------------- reading

    def clear(self) -> None:
        """A new fit."""
        self._units: dict[str, dict[str, str]] = {}

    def begin(self, reading: Reading) -> None:
        """Start with empty metrics."""
        self.forget(reading.group)

    def forget(self, group: Any = None) -> None:
        """The reading is over, or given up; the next is of the ranks of a group."""
        self._copies: dict[tuple[str, str], Metric] = {}
        self._omitted: dict[str, Tensor] = {}
        self._group = group

    def at(self, site: str, name: str) -> Metric:
        """The copy of a metric that takes the rows of a site."""
        if (site, name) not in self._copies:
            copy = self.metrics[name].clone()
            copy.process_group = self._group
            self._copies[site, name] = copy
        return self._copies[site, name]

    def update(self, site: str, rows: SiteRows, labels: Sequence[str] = ()) -> None:
        """Take in the rows of a batch.

        Args:
            site: The site.
            rows: Its rows; vectors that are not finite are left out and counted.
            labels: The label sets to hand on, beside those that metrics take where there are any.

        Raises:
            ValueError: If there are rows that do not count and a metric takes no mask.

        """
        z, mask = rows.representations, rows.mask
        handed = {name: rows.labels[name] for name in (*labels, *self.needs_if_there) if name in rows.labels}
        for name, wants in self._wants.items():
            metric = self.at(site, name)
            if metric.device != z.device:
                metric = self._copies[site, name] = metric.to(z.device)
            vectors, counted = z, mask
            if not isinstance(metric, RepresentationMetric):
                finite = finite_rows(z)
                self._omitted[site] = self._omitted.get(site, torch.zeros((), device=z.device)) + (mask & ~finite).sum()
                vectors, counted = z.masked_fill(~finite[..., None], 0), mask & finite
            if "mask" not in wants and not bool(counted.all()):
                raise ValueError(
                    f"`update` of `metrics[{name!r}]` takes no `mask`, and {int((~counted).sum())} of {mask.numel()} "
                    f"vectors of a batch at site {site!r} do not count (padding, not finite): it would read them too."
                )
            given = {"mask": counted, "labels": handed, "positions": rows.positions}
            with torch.autocast(z.device.type, enabled=False):
                metric.update(vectors, **{key: value for key, value in given.items() if key in wants})

    def compute(self, sites: Sequence[str]) -> dict[str, Tensor | float]:
        """Merge ranks and compute every metric at these sites, by key; the copies are dropped. A collective."""
        values: dict[str, Tensor | float] = {}
        for site in sites:
            for name in self.metrics:
                metric = self.at(site, name)
                for measure, value in self._computed(name, metric).items():
                    key = site_key(measure, site)
                    if key in values and not isinstance(metric, RepresentationMetric):
                        raise ValueError(
                            f"two of `metrics` {list(self.metrics)} give {measure!r}: let one name it otherwise."
                        )
                    values[key] = value
                for labels, unit in getattr(metric, "units_used", {}).items():
                    self._units.setdefault(labels, {})[site] = unit
        values |= {site_key("nonfinite", site): count for site, count in self._omitted.items()}
        self.forget()
        return values

    def _computed(self, name: str, metric: Metric) -> Mapping[str, Tensor | float]:
        if isinstance(metric, RepresentationMetric):
            return metric.compute()
        over_ranks(synced(metric), self._group)
        found = metric.compute()
        if not isinstance(found, Mapping):
            return {name: found}
        self._results = {**self._results, name: list(map(str, found))}
        return {str(measure): value for measure, value in found.items()}

    # ------------------------------------------------- what is said of it

    def settings(self) -> Settings:
        """What labels belong to."""
        found: Settings = {}
        for labels, units in self._units.items():
            if len(set(units.values())) == 1:
                found[f"units/{labels}"] = next(iter(units.values()))
            else:
                found |= {f"units/{site}/{labels}": unit for site, unit in units.items()}
        return found

    def with_arguments(self, settings: Settings, owner: object, leave_out: Sequence[str]) -> Settings:
        """Settings with the arguments of the metrics: under the name alone where the owner has such an argument."""
        found = settings | arguments(owner, *self.metrics.values(), leave_out=leave_out)
        for name, metric in self.metrics.items():
            found |= {f"{name}/{key}": value for key, value in arguments(metric).items() if key not in found}
        return found


def _parameters(metric: Metric) -> frozenset[str]:
    signature = inspect.signature(type(metric).update)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return frozenset({"mask", "labels", "positions"})
    return frozenset(signature.parameters) & {"mask", "labels", "positions"}
