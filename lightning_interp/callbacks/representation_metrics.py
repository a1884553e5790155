"""Any metric on representations, read at chosen sites at every validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Unpack

from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_interp.batches.reader import LabelSource
from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.measure import Measure
from lightning_interp.parts.projector import Projector, name_of, names_by_set
from lightning_interp.parts.site_args import SiteArgs, split_site_args
from lightning_interp.parts.site_metrics import SiteMetrics, site_key
from lightning_interp.parts.validation_sites import ValidationSites
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.titles import measure_title

__all__ = ["RepresentationMetrics", "name_of", "names_by_set", "site_key"]


class RepresentationMetrics(ValidationAnalysis):
    """Reads any ``torchmetrics.Metric`` of representations at chosen sites of a model.

    The metric's ``update`` takes ``representations`` (B, T, D) as its first argument and, by name, whichever of
    ``mask`` (B, T), ``labels`` (dict of integer tensors) and ``positions`` (B,) it asks for. What ``compute`` returns,
    a scalar or a flat dict of scalars, is logged under ``<name>/<site>``, where the name is that of the metric here or
    the key of the dict; what stands behind a slash in it comes after the site.

    Args:
        metrics: A metric, or metrics by name; a copy of each is kept for every site. Those of other packages are merged
            over ranks by their states, as each says, all ranks together.
        sites: Where to read: dotted module names, globs (``encoder.layers.*``), or ``{"alias": "dotted.name"}``.
        labels: Label sets to hand to the metrics, see :class:`~lightning_interp.batches.BatchReader`; those that a
            metric of this package names itself need not be repeated.
        tokens: Where the token ids are in a batch (a key, an index, a callable), or that by site; ``input_ids`` of
            a dict or the first entry of a tuple by default.
        mask: Where the padding mask is; ``attention_mask`` by default.
        padding_idx: Token id of padding, where there is no mask; -1 if nothing is padded. For all callbacks at once it
            can be an attribute ``padding_idx`` of the ``LightningModule``, or of the data module: that counts where
            neither this argument nor a mask says anything.
        ignore_tokens: Token ids that are not words (BOS, EOS, CLS): neither read nor part of n-grams.
        skip_positions: Leave out the first so many words of each sequence (attention sinks).
        layout: Order of the axes of what a site returns, for all sites or by site: ``"BTD"`` (B samples, T positions, D
            features), ``"TBD"``, ``"BD"``, with channels second ``"BCT"``, ``"BCHW"``, ``"BCDHW"``, or last ``"BHWC"``,
            ``"BDHWC"``. By default it is told from the class of the module and the first batch; what cannot be told,
            or contradicts the module, is an error.
        call: For a site that fires several times in a forward pass: ``"only"`` (an error), ``"first"`` (before a step
            goes on to generate), ``"last"``, or ``"all"``, which puts the calls one after the other along the
            positions.
        output: Which tensor of what a site returns, where it returns several: an index, a key, an attribute, or a
            callable on it, for all sites or by site.
        read: Where no layout says what the rows are, a callable on what the site returned and the batch, for all sites
            or by site; see :class:`~lightning_interp.batches.SiteReader`. Two views in one pass:
            ``lambda output, batch: output.unflatten(0, (2, -1)).transpose(0, 1)``; nodes of graphs:
            ``lambda output, batch: {"representations": output, "samples": batch.batch}``; tokens without padding:
            the same with ``batch["attention_mask"].nonzero()[:, 0]``.
        pooling: One vector a sample in place of all of its positions: the ``"first"`` or ``"last"`` that is read, their
            ``"mean"``, or a callable on representations (B, T, D) and mask (B, T) that returns (B, D).
        data: Batches of one's own to read in place of the validation run: a ``DataLoader`` that does not shuffle, or
            any other iterable of batches that can be iterated again. They are run at the end of each validation that is
            read; whole batches are dealt out to ranks. ``max_examples`` counts samples of these.
        forward: How a batch of ``data`` goes through the module, ``forward(model, batch)``. By default the module's
            ``forward``, which gets what it takes of a dict by name, or the first entry of a tuple.
        projector: Show so many representations of each site, of the last reading, on TensorBoard's page "Projector"
            (Weights & Biases: in a table) when the fit ends, under ``representations/<site>``; always the same
            positions, chosen at random over those that are read. Other loggers cannot, which is told at the start.
            All label sets but n-grams stand beside them, and token ids, a column each under its name.
        label_names: What labels are called there: a list or mapping from label to name, or a callable, such as
            ``tokenizer.convert_ids_to_tokens``, for the first of these columns; or that by label set,
            ``{"token": tokenizer.convert_ids_to_tokens, "pos": TAGS}``. Others are shown as numbers.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.ValidationAnalysis`.

    Raises:
        ValueError: If a name matches no module, the batch lacks what is asked for, or shapes do not fit.

    Example:
        >>> import torch
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
        ['norm/encoder']

    """

    _outward = (*ValidationAnalysis._outward, "metrics", "projector", "label_names")
    told_apart = ("sites", "metrics", "labels", "dataloader_idx", "prefix")
    seed = 0
    """Of what a forward pass of ``data`` draws at random; a callback that has an argument of this name sets it."""

    def __init__(
        self,
        metrics: Metric | Mapping[str, Metric],
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Sequence[str] | Mapping[str, LabelSource] = (),
        **kwargs: Unpack[SiteArgs],
    ) -> None:
        of_sites, rest = split_site_args(kwargs)
        super().__init__(**rest)
        if of_sites.get("data") is None and of_sites.get("forward") is not None:
            raise ValueError("`forward` says how a batch of `data` goes through the module, and there is none.")
        self.metrics = {_default_name(metrics): metrics} if isinstance(metrics, Metric) else dict(metrics)
        self.sites = sites
        self.projector, self.label_names = of_sites.pop("projector", None), of_sites.pop("label_names", None)
        self.site_metrics = SiteMetrics(self.metrics)
        sources = dict(labels) if isinstance(labels, Mapping) else dict.fromkeys(labels)
        self.rows = ValidationSites(
            sites,
            {**dict.fromkeys(self.site_metrics.needs), **sources},
            **of_sites,
            optional=("token", *self.site_metrics.needs_if_there),
            batch_size=self.batch_size,
            max_examples=self.max_examples,
            dataloader_idx=self.dataloader_idx,
        )
        self.vectors = Projector(self.projector, self.labels, self.label_names)
        if self.label_names is not None and self.projector is None:
            raise ValueError("`label_names` names what `projector` shows, which is None.")
        free = self.site_metrics.takes_any_labels or self.projector is not None
        unused = [] if free else [name for name in sources if name not in self.site_metrics.needs]
        if unused:
            raise ValueError(
                f"`labels` {unused} go to metrics that take labels, which none of {list(self.metrics)} does, and to "
                "`projector`, which is None."
            )

    @property
    def labels(self) -> list[str]:
        """The label sets that are read."""
        return self.rows.labels

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """The measures of every metric, of the sites and of what the metric names."""
        return self.site_metrics.declares()

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, and what metrics name: label sets, targets."""
        return {"site": self.rows.short_names(model), **self.site_metrics.axes()}

    # ------------------------------------------------- reading

    def after_batch(self, seen: Seen) -> None:
        """Hand the representations of a validation batch to the metrics."""
        super().after_batch(seen)
        for site, rows in self.rows.rows(seen):
            self._take(site, rows)

    def collect(self, reading: Reading) -> None:
        """Read data of one's own."""
        self.rows.run_own(reading, self._take, self.seed, self.watch)

    def _take(self, site: str, rows: SiteRows) -> None:
        self.vectors.update(site, rows)
        self.site_metrics.update(site, rows, self.labels)

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Compute every metric at every site."""
        # A metric of another package may change its states in place, which are of the mode they were made in.
        sites = list(self.rows.names)
        values = self.site_metrics.compute(sites)
        self.vectors.choose(sites, reading.group)
        return values

    def settings(self) -> Settings:
        """How readings are taken: arguments, also of the metrics; how sites are read, and what labels belong to."""
        return self.site_metrics.with_arguments(super().settings(), self, self._outward)

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves of every metric of another package, by site."""
        measures = [name for name, metric in self.metrics.items() if not isinstance(metric, RepresentationMetric)]
        return {"curves": lambda: self._curves(measures)} if measures else {}

    def _curves(self, measures: Sequence[str]) -> Figure:
        return measure_curves({measure_title(measure): self._lines(measure) for measure in measures})

    def _lines(self, measure: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of a measure, by site."""
        lines = {site: self.history.series(self.full_key(site_key(measure, site))) for site in self.rows.names}
        return {site: line for site, line in lines.items() if line[0]}

    def _grid(self, measure: str) -> tuple[list[int], list[str], list[list[float]]]:
        """Steps, sites and the measure by site and step, NaN where there is none."""
        return site_grid(self.history, {site: self.full_key(site_key(measure, site)) for site in self.rows.names})

    def _heatmap(self, measure: str, label: str) -> Figure:
        return site_heatmap(*self._grid(measure), measure_title(measure), label)


def _default_name(metric: Metric) -> str:
    return type(metric).__name__.lower()
