"""Any metric on representations, read at chosen sites at every validation."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_interp.callbacks.analysis import Draw, ValidationAnalysis
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional._numerics import finite_rows
from lightning_interp.labels import BatchReader, Key, LabelSource, ReadBatch
from lightning_interp.metrics.base import FULL, SUMMARY, RepresentationMetric
from lightning_interp.positions import Selection
from lightning_interp.sites import Call, Layout, LayoutResolver, SiteRecorder, resolve_sites, short_names

__all__ = ["RepresentationMetrics", "site_key"]

_SITE = "<site>"


def site_key(measure: str, site: str) -> str:
    """The key of a metric's value at a site: the site comes second.

    Example:
        >>> site_key("information", "encoder"), site_key("regularity_chance/token/sd", "encoder")
        ('information/encoder', 'regularity_chance/encoder/token/sd')

    """
    measure, *rest = measure.split("/")
    return "/".join([measure, site, *rest])


class RepresentationMetrics(ValidationAnalysis):
    """Reads any ``torchmetrics.Metric`` of representations at chosen sites of a model.

    The metric's ``update`` takes ``representations`` (B, T, D) as its first argument and, by name, whichever of
    ``mask`` (B, T), ``labels`` (dict of integer tensors) and ``positions`` (B,) it asks for. What ``compute`` returns,
    a scalar or a flat dict of scalars, is logged under ``<name>/<site>``, where the name is that of the metric here or
    the key of the dict; what stands behind a slash in it comes after the site.

    Args:
        metrics: A metric, or metrics by name; a copy of each is kept for every site. Those of other packages merge
            ranks in their own way.
        sites: Where to read: dotted module names, globs (``encoder.layers.*``), or ``{"alias": "dotted.name"}``.
        labels: Label sets to hand to the metrics, see :class:`~lightning_interp.labels.BatchReader`; those that a
            metric of this package names itself need not be repeated.
        tokens: Where the token ids are in a batch (a key, an index, a callable), or that by site; ``input_ids`` of
            a dict or the first entry of a tuple by default.
        mask: Where the padding mask is; ``attention_mask`` by default.
        padding_idx: Token id of padding, where there is no mask; -1 if nothing is padded.
        ignore_tokens: Token ids that are not words (BOS, EOS, CLS): neither read nor part of n-grams.
        skip_positions: Leave out the first so many words of each sequence (attention sinks).
        layout: ``"BTD"``, ``"TBD"``, ``"BD"`` or ``"BCHW"``, for all sites or by site; told from the first batch where
            that is unambiguous.
        call: For a site that fires several times in a forward pass: ``"only"`` (an error), ``"last"``, or ``"all"``,
            which puts the calls one after the other along the positions.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If a name matches no module, the batch lacks what is asked for, or shapes do not fit.

    Example:
        >>> from torchmetrics import Metric
        >>> class Norm(Metric):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        ...         self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        ...     def update(self, representations, mask):
        ...         self.total += representations.norm(dim=-1)[mask].sum()
        ...         self.count += mask.sum()
        ...     def compute(self):
        ...         return self.total / self.count
        >>> RepresentationMetrics({"norm": Norm()}, sites={"encoder": "model.encoder"}).logged_keys()
        ['norm/encoder', 'seconds/RepresentationMetrics']

    """

    def __init__(
        self,
        metrics: Metric | Mapping[str, Metric],
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        tokens: Key | Mapping[str, Key] | None = None,
        mask: Key | None = None,
        padding_idx: int | None = None,
        ignore_tokens: Sequence[int] = (),
        skip_positions: int = 0,
        layout: Layout | Mapping[str, Layout] | None = None,
        call: Call = "only",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.metrics = {_default_name(metrics): metrics} if isinstance(metrics, Metric) else dict(metrics)
        for name, metric in self.metrics.items():
            if not isinstance(metric, Metric):
                raise ValueError(f"`metrics[{name!r}]` must be a torchmetrics.Metric, got {type(metric).__name__}.")
        if not self.metrics:
            raise ValueError("`metrics` is empty.")
        self.sites = sites
        needed = [name for metric in self.metrics.values() for name in getattr(metric, "needs", ())]
        sources = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(labels)
        self._reader = BatchReader(
            {**dict.fromkeys(needed), **sources},
            tokens=None if isinstance(tokens, Mapping) else tokens,
            mask=mask,
            padding_idx=padding_idx,
            ignore_tokens=ignore_tokens,
            skip_positions=skip_positions,
        )
        self._tokens_by_site = dict(tokens) if isinstance(tokens, Mapping) else {}
        self.layout = layout
        self.call = call
        self._wants = {name: _parameters(metric) for name, metric in self.metrics.items()}
        self._names: dict[str, str] = {}
        self._recorder: SiteRecorder | None = None
        self._layouts = LayoutResolver(layout)
        self._metrics: dict[tuple[str, str], Metric] = {}
        self._omitted: dict[str, Tensor] = {}
        self._read: dict[Any, ReadBatch] = {}

    @property
    def state_key(self) -> str:
        """Tells instances of one class in a checkpoint apart by what they read."""
        return self._generate_state_key(
            sites=self.sites if isinstance(self.sites, str) else list(self.sites),
            metrics=list(self.metrics),
            labels=list(self._reader.names),
            dataloader_idx=self.dataloader_idx,
            prefix=self.prefix,
        )

    # ------------------------------------------------- keys

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key with its level."""
        keys: dict[str, str] = {}
        for site in self.site_names(model):
            for name, metric in self.metrics.items():
                own = (
                    metric.measures if isinstance(metric, RepresentationMetric) else {name: SUMMARY, "nonfinite": FULL}
                )
                keys |= {site_key(measure, site): level for measure, level in own.items()}
        return keys

    def site_names(self, model: nn.Module | None = None) -> list[str]:
        """Short names of the sites; ``<site>`` where they cannot be known without the model."""
        return short_names(self.sites, model, self._names, _SITE)

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self._names = resolve_sites(model, self.sites)
        unknown = sorted(set(self._tokens_by_site) - set(self._names))
        if unknown:
            raise ValueError(f"`tokens` names sites {unknown}, which are not among {list(self._names)}.")
        self._recorder = SiteRecorder(model, self._names, call=self.call)
        self._recorder.attach()
        self._layouts = LayoutResolver(self.layout)

    def release(self) -> None:
        """Take the hooks off and drop the metrics."""
        if self._recorder is not None:
            self._recorder.detach()
        self.abort()

    def begin(self) -> None:
        """Start with empty metrics."""
        self.abort()
        for site in self._names:
            for name, metric in self.metrics.items():
                copy = metric.clone()
                copy.process_group = self.group
                self._metrics[site, name] = copy

    def abort(self) -> None:
        """Forget the reading."""
        if self._recorder is not None:
            self._recorder.stop()
        self._metrics, self._omitted, self._read = {}, {}, {}

    def before_batch(self, batch: Any, selection: Selection) -> None:
        """Read tokens and labels, and capture what the sites put out."""
        assert self._recorder is not None
        places = selection.batch if self.positions.exact else None
        for site in self._names:
            where = self._tokens_by_site.get(site)
            if where not in self._read:
                self._read[where] = self._reader.read(batch, places, where, self.positions.num_samples)
        self._recorder.start()

    def after_batch(self, batch: Any, selection: Selection) -> None:
        """Hand the representations to the metrics."""
        assert self._recorder is not None
        self._recorder.stop()
        outputs = self._recorder.take()
        for site, calls in outputs.items():
            self._update(site, calls, self._read[self._tokens_by_site.get(site)], selection)
        self._read = {}

    def _update(self, site: str, calls: list[Tensor], read: ReadBatch, selection: Selection) -> None:
        # Rows of unequal length (the fast path of nn.TransformerEncoder) are padded to the length of the mask.
        parts = [self._layouts(site, out, read.size, read.read if out.is_nested else None)[0] for out in calls]
        z = selection.of(torch.cat(parts, dim=1) if len(parts) > 1 else parts[0])
        read = read.take(selection.rows)
        mask, labels = _aligned(site, z, read, read.labels(self._reader.names), calls=len(parts))
        positions = selection.positions.to(z.device)
        for name, wants in self._wants.items():
            metric = self._metrics[site, name]
            if metric.device != z.device:
                metric = self._metrics[site, name] = metric.to(z.device)
            vectors, counted = z, mask
            if not isinstance(metric, RepresentationMetric):
                finite = finite_rows(z)
                self._omitted[site] = self._omitted.get(site, torch.zeros((), device=z.device)) + (mask & ~finite).sum()
                vectors, counted = z.masked_fill(~finite[..., None], 0), mask & finite
            given = {"mask": counted, "labels": labels, "positions": positions}
            with torch.autocast(z.device.type, enabled=False):
                metric.update(vectors, **{key: value for key, value in given.items() if key in wants})

    def finish(self) -> Mapping[str, Tensor | float]:
        """Compute every metric at every site."""
        values: dict[str, Tensor | float] = {}
        for (site, name), metric in self._metrics.items():
            found = metric.compute()
            for measure, value in (found if isinstance(found, Mapping) else {name: found}).items():
                values[site_key(measure, site)] = value
        values |= {site_key("nonfinite", site): count for site, count in self._omitted.items()}
        self.abort()
        return values

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves of every metric of another package, by site."""
        measures = [name for name, metric in self.metrics.items() if not isinstance(metric, RepresentationMetric)]
        return {"curves": lambda: self._curves(measures)} if measures else {}

    def _curves(self, measures: Sequence[str]) -> Figure:
        return measure_curves({measure: self._lines(measure) for measure in measures})

    def _lines(self, measure: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of a measure, by site."""
        lines = {site: self.history.series(self.full_key(site_key(measure, site))) for site in self._names}
        return {site: line for site, line in lines.items() if line[0]}

    def _grid(self, measure: str) -> tuple[list[int], list[str], list[list[float]]]:
        """Steps, sites and the measure by site and step, NaN where there is none."""
        lines = self._lines(measure)
        steps = sorted({step for found, _ in lines.values() for step in found})
        by_site = [dict(zip(*line, strict=True)) for line in lines.values()]
        return steps, list(lines), [[values.get(step, math.nan) for step in steps] for values in by_site]

    def _heatmap(self, measure: str, label: str) -> Figure:
        return site_heatmap(*self._grid(measure), measure, label)


def _aligned(
    site: str, z: Tensor, read: ReadBatch, labels: Mapping[str, Tensor], calls: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mask and labels in the shape of the representations."""
    length = z.shape[1]
    if read.read is None or (length == 1 and read.read.shape[1] != 1):
        # One vector a sample: it counts where any position of the sample does.
        everything = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        mask = everything if read.read is None else read.read.any(1, keepdim=True).to(z.device)
        for name, value in labels.items():
            if value.ndim > 1 and value.shape[1] != length:
                raise ValueError(
                    f"Site {site!r} gives {length} vectors a sample, but label set {name!r} has shape "
                    f"{tuple(value.shape)}: use labels with one entry per sample there."
                )
        return mask, dict(labels)
    own = read.read.shape[1]
    if own == length:
        return read.read.to(z.device), dict(labels)
    if own * calls != length:
        raise ValueError(
            f"The mask {tuple(read.read.shape)} does not fit the representations {tuple(z.shape)} of site {site!r}."
        )
    # A site that fired several times: its calls stand one after the other.
    spread = {name: torch.cat([value] * calls, dim=1) if value.ndim > 1 else value for name, value in labels.items()}
    return read.read.to(z.device).repeat(1, calls), spread


def _parameters(metric: Metric) -> frozenset[str]:
    signature = inspect.signature(type(metric).update)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return frozenset({"mask", "labels", "positions"})
    return frozenset(signature.parameters) & {"mask", "labels", "positions"}


def _default_name(metric: Metric) -> str:
    return type(metric).__name__.lower()
