"""Any metric on representations, read at chosen sites at every validation."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_interp._forward import Forward, checked_forward
from lightning_interp._loggers import how_to_embed
from lightning_interp._said_once import say_once
from lightning_interp._seen import Seen
from lightning_interp.callbacks._titles import measure_title
from lightning_interp.callbacks.analysis import Draw, ValidationAnalysis
from lightning_interp.compat import pl
from lightning_interp.distributed import run
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional._numerics import finite_rows
from lightning_interp.isolation import seeded
from lightning_interp.labels import BatchReader, Key, LabelSource, ReadBatch
from lightning_interp.metrics._names import BUILT_IN_LABELS
from lightning_interp.metrics._synced import synced
from lightning_interp.metrics.base import RepresentationMetric
from lightning_interp.metrics.measure import SUMMARY, Measure, as_measures
from lightning_interp.metrics.measures.geometry import NONFINITE
from lightning_interp.metrics.sample import FixedSample, Sample
from lightning_interp.own_data import OwnData, apart
from lightning_interp.positions import Selection
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.run_log import RunLog
from lightning_interp.run_settings import Settings, arguments
from lightning_interp.site_rows import HowRead, Pooling, ReadSite, SiteReader
from lightning_interp.sites import Call, Layout, OutputKey, SiteRecorder, resolve_sites, short_names

__all__ = ["RepresentationMetrics", "name_of", "names_by_set", "site_key"]

_SITE = "<site>"

Names: TypeAlias = Sequence[str] | Mapping[int, str] | Callable[[int], str]
"""What labels are called."""


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
        metrics: A metric, or metrics by name; a copy of each is kept for every site. Those of other packages are merged
            over ranks by their states, as each says, all ranks together.
        sites: Where to read: dotted module names, globs (``encoder.layers.*``), or ``{"alias": "dotted.name"}``.
        labels: Label sets to hand to the metrics, see :class:`~lightning_interp.labels.BatchReader`; those that a
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
            or by site; see :class:`~lightning_interp.site_rows.SiteReader`. Two views in one pass:
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
    _runs_batches = False
    """Whether the callback runs validation batches itself."""
    seed = 0
    """Of what a forward pass of ``data`` draws at random; a callback that has an argument of this name sets it."""

    attached = ("_model", "_recorder")

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
        output: OutputKey | Mapping[str, OutputKey] | None = None,
        read: ReadSite | Mapping[str, ReadSite] | None = None,
        pooling: Pooling | None = None,
        data: Iterable[Any] | None = None,
        forward: Forward | None = None,
        projector: int | None = None,
        label_names: Names | Mapping[str, Names] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if projector is not None and projector < 1:
            raise ValueError(f"`projector` must be at least 1, or None for none, got {projector}.")
        if label_names is not None and projector is None:
            raise ValueError("`label_names` names what `projector` shows, which is None.")
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
            batch_size=self.batch_size,
        )
        self._tokens_by_site = dict(tokens) if isinstance(tokens, Mapping) else {}
        self.layout = layout
        self.call = call
        self.output = output
        self.pooling = pooling
        self._site_reader = SiteReader(layout, read, pooling)
        if data is not None and self.dataloader_idx:
            raise ValueError(
                f"`dataloader_idx={self.dataloader_idx}` has no meaning with `data`: no validation batch is read."
            )
        if data is None and forward is not None and not self._runs_batches:
            raise ValueError("`forward` says how a batch of `data` goes through the module, and there is none.")
        self.forward = checked_forward(forward)
        self._own = None if data is None else OwnData(data, forward)
        self._model: nn.Module | None = None
        self._wants = {name: _parameters(metric) for name, metric in self.metrics.items()}
        # A metric of this package says which it takes; one of others may take any.
        takes_any = any(
            "labels" in self._wants[name] and not hasattr(metric, "needs") for name, metric in self.metrics.items()
        )
        unused = [] if takes_any or projector is not None else [name for name in sources if name not in needed]
        if unused:
            raise ValueError(
                f"`labels` {unused} go to metrics that take labels, which none of {list(self.metrics)} does, and to "
                "`projector`, which is None."
            )
        self._names: dict[str, str] = {}
        self._recorder: SiteRecorder | None = None
        self._metrics: dict[tuple[str, str], Metric] = {}
        self._results: dict[str, list[str]] = {}
        """Names in the mapping that a metric of another package computes, once they are known."""
        self._omitted: dict[str, Tensor] = {}
        self._read: dict[Any, ReadBatch] = {}
        self.projector = projector
        self.label_names = label_names
        if self._own is not None and self.given_by_place():
            # At once, not when the data are read: their order does not depend on the Trainer.
            positions = self._own.positions()
            self._read_samples.try_collate(self._own.value, positions, self.given_by_place())
            self._check_positions(positions)
        self._collecting: dict[str, FixedSample] = {}
        self._collected: dict[str, Sample] = {}
        self._dims: dict[str, int] = {}
        self._how: dict[str, dict[str, str]] = {}
        self._told: Mapping[str, HowRead] | None = None
        self._units: dict[str, dict[str, str]] = {}

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._collected = {}

    def identity(self) -> dict[str, Any]:
        """Tells instances of one class in a checkpoint apart by what they read."""
        return {
            "sites": self.sites if isinstance(self.sites, str) else list(self.sites),
            "metrics": list(self.metrics),
            "labels": list(self._reader.names),
            "dataloader_idx": self.dataloader_idx,
            "prefix": self.prefix,
        }

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

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, and what metrics name: label sets, targets."""
        found: dict[str, Sequence[str]] = {"site": self.site_names(model)}
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

    def site_names(self, model: nn.Module | None = None) -> list[str]:
        """Short names of the sites; ``<site>`` where they cannot be known without the model."""
        return short_names(self.sites, model, self._names, _SITE)

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        self._model = model
        self._names = resolve_sites(model, self.sites)
        unknown = sorted(set(self._tokens_by_site) - set(self._names))
        if unknown:
            raise ValueError(f"`tokens` names sites {unknown}, which are not among {list(self._names)}.")
        self._site_reader.resolve(model, self._names, self.output)
        if self.output is not None and len(self._site_reader.own) == len(self._names):
            raise ValueError("`output` has no effect where `read` is given the whole output: leave one out.")
        self._recorder = SiteRecorder(model, self._names, self.call, self.output, self._site_reader.own)
        self._recorder.attach()

    def take_padding(self, padding_idx: int | None) -> None:
        """Padding where neither arguments nor batches say anything of it."""
        self._reader.shared_padding = padding_idx

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to the model, and say early where nothing can show the projector."""
        super().on_fit_start(trainer, pl_module)
        if self.projector and not trainer.fast_dev_run and not any(map(how_to_embed, trainer.loggers)):  # type: ignore[attr-defined]
            pl.utilities.rank_zero_warn(
                f"{self._name}: `projector` is shown by TensorBoard and Weights & Biases, and this Trainer has the "
                f"loggers {[type(logger).__name__ for logger in trainer.loggers]}, so it is shown nowhere."
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole history, and show the representations asked for."""
        super().on_fit_end(trainer, pl_module)
        self._afterwards("show the projector", lambda: self._show_vectors(trainer))

    def _show_vectors(self, trainer: pl.Trainer) -> None:
        reporter = RunLog.of(trainer).reporter
        if reporter is not None and len(self.history):
            for site, sample in self._collected.items():
                tag = self.full_key(site_key("representations", site))
                reporter.embedding(trainer, tag, partial(self._named, sample), self.history.readings[-1].step)

    def _projected(self) -> list[str]:
        """Label sets that the projector shows: of n-grams a position has several, which have no names."""
        named = [name for name in self._reader.names if name not in BUILT_IN_LABELS or name in ("token", "next_token")]
        return list(dict.fromkeys([*named, "token"]))

    def _named(self, sample: Sample) -> tuple[Tensor, dict[str, list[str]]]:
        """Vectors with what stands beside each, by label set; one that no position has is left out."""
        columns = dict(zip(self._projected(), sample.labels.T.tolist(), strict=True))
        there = {name: labels for name, labels in columns.items() if max(labels, default=-1) >= 0}
        if not there:
            there = {"position": [-1] * len(sample.vectors)}
        by_set = names_by_set(self.label_names, next(iter(there)))
        where = [
            f"sample {n}, position {at}" for n, at in zip(sample.samples.tolist(), sample.places.tolist(), strict=True)
        ]
        return sample.vectors, {
            name: [
                place if label < 0 else name_of(label, by_set.get(name))
                for label, place in zip(labels, where, strict=True)
            ]
            for name, labels in there.items()
        }

    def release(self) -> None:
        """Take the hooks off, drop the metrics and let go of the model."""
        self._model = None
        if self._recorder is not None:
            self._recorder.detach()
        self.abort()

    def begin(self, reading: Reading) -> None:
        """Start with empty metrics."""
        self.abort()
        for site in self._names:
            for name, metric in self.metrics.items():
                copy = metric.clone()
                copy.process_group = self.group
                self._metrics[site, name] = copy
        if self.projector:
            self._collecting = {site: FixedSample(self.projector, labels=self._projected()) for site in self._names}

    def abort(self) -> None:
        """Forget the reading."""
        if self._recorder is not None:
            self._recorder.stop()
        self._metrics, self._omitted, self._read, self._collecting = {}, {}, {}, {}

    def given_by_place(self) -> list[str]:
        """Label sets that are arrays."""
        return [f"labels[{name!r}]" for name in self._reader.arrays]

    def read_from(self) -> str:
        """The validation loader, or data of one's own."""
        return super().read_from() if self._own is None else "`data`"

    @property
    def reads_batches(self) -> bool:
        """Those of the validation run, unless there are data of one's own."""
        return self._own is None

    def before_batch(self, seen: Seen) -> None:
        """Read tokens and labels of a validation batch, and capture what the sites put out."""
        self._before_rows(seen)

    def after_batch(self, seen: Seen) -> None:
        """Hand the representations of a validation batch to the metrics."""
        self._after_rows(seen)

    def collect(self, reading: Reading) -> None:
        """Read data of one's own."""
        if self._own is not None:
            self._read_own(self._own, reading)

    def _read_own(self, own: OwnData, reading: Reading) -> None:
        """Run this rank's batches of data of one's own."""
        model = self._model
        assert model is not None
        reading.positions = own.positions(self.max_examples)
        with apart(model, reading.trainer):
            model.eval()
            seeded(self.seed)
            for index, (batch, selection, counted) in enumerate(
                own.batches(model, reading.positions, self.count, reading.group, reading.trainer)
            ):
                self._check_positions(reading.positions)
                seen = Seen(batch, index, 0, selection)
                if counted:
                    if self.kept_for_samples():
                        reading.checksum.add(batch, self.watched(selection))
                    self._before_rows(seen)
                own.run(model, batch)
                if counted:
                    self._after_rows(seen)

    def _before_rows(self, seen: Seen) -> None:
        """Read tokens and labels, and capture what the sites put out."""
        assert self._recorder is not None
        batch, selection = seen.batch, seen.selection
        places = selection.batch if self.positions.exact else None
        for site in self._names:
            where = self._tokens_by_site.get(site)
            if where not in self._read:
                own = bool(self._site_reader.own)
                self._read[where] = self._reader.read(
                    batch, places, where, self.positions.num_samples, len(selection.batch), own
                )
        self._recorder.start()

    def _after_rows(self, seen: Seen) -> None:
        """Hand the representations to the metrics."""
        assert self._recorder is not None
        self._recorder.stop()
        outputs = self._recorder.take()
        for site, calls in outputs.items():
            self._update(site, calls, seen.batch, self._read[self._tokens_by_site.get(site)], seen.selection)
        self._read = {}
        self._tell_how()

    def _tell_how(self) -> None:
        """Say once, of each site of a model, how it is read."""
        recorder, told = self._recorder, self._site_reader.told
        assert recorder is not None
        if self._told is told:
            return
        self._told = told
        for site, how in told.items():
            found = recorder.found[site]
            self._how[site] = how.settings(found)
            say_once(recorder.model, how.line(site, recorder.described(site), found, self.call))

    def count(self, batch: Any) -> int:
        """The number of samples in a batch."""
        return self._reader.count(batch)

    def _update(self, site: str, calls: list[Any], batch: Any, read: ReadBatch, selection: Selection) -> None:
        extra = [name for metric in self.metrics.values() for name in getattr(metric, "needs_if_there", ())]
        rows = self._site_reader(site, calls, batch, read, self._reader.names, ("token", *extra)).of(selection)
        rows = self._site_reader.pooled(site, rows, self._reader.names)
        z, mask = rows.representations, rows.mask
        assert rows.positions is not None
        self._dims[site] = z.shape[-1]
        positions = rows.positions.to(z.device)
        if self._collecting:
            self._collecting[site].update(z, mask, rows.labels, positions)
        labels = {name: rows.labels[name] for name in (*self._reader.names, *extra) if name in rows.labels}
        for name, wants in self._wants.items():
            metric = self._metrics[site, name]
            if metric.device != z.device:
                metric = self._metrics[site, name] = metric.to(z.device)
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
            given = {"mask": counted, "labels": labels, "positions": positions}
            with torch.autocast(z.device.type, enabled=False):
                metric.update(vectors, **{key: value for key, value in given.items() if key in wants})

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Compute every metric at every site."""
        values: dict[str, Tensor | float] = {}
        for (site, name), metric in self._metrics.items():
            foreign = not isinstance(metric, RepresentationMetric)
            if foreign:
                run(synced(metric), self.group)
            found = metric.compute()
            if not isinstance(found, Mapping):
                found = {name: found}
            elif foreign:
                self._results[name] = list(map(str, found))
            for measure, value in found.items():
                key = site_key(str(measure), site)
                if foreign and key in values:
                    raise ValueError(
                        f"two of `metrics` {list(self.metrics)} give {measure!r}: let one name it otherwise."
                    )
                values[key] = value
            for labels, unit in getattr(metric, "units_used", {}).items():
                self._units.setdefault(labels, {})[site] = unit
        values |= {site_key("nonfinite", site): count for site, count in self._omitted.items()}
        if self._collecting:
            self._collected = {site: run(one.steps(), self.group) for site, one in self._collecting.items()}
        self.abort()
        return values

    def settings(self) -> Settings:
        """How readings are taken: arguments, also of the metrics; how sites are read, and what labels belong to."""
        found: Settings = {"labels": json.dumps(list(self._reader.names))} if self._reader.names else {}
        found |= arguments(self, *self.metrics.values(), self._reader, leave_out=self._outward)
        for name, metric in self.metrics.items():
            own = arguments(metric)
            found |= {f"{name}/{key}": value for key, value in own.items() if key not in found}
        if self._reader.used_padding is not None:
            found["padding_idx"] = self._reader.used_padding
        for site, how in self._how.items():
            found |= {f"{key}/{site}": value for key, value in how.items()}
        for labels, units in self._units.items():
            if len(set(units.values())) == 1:
                found[f"units/{labels}"] = next(iter(units.values()))
            else:
                found |= {f"units/{site}/{labels}": unit for site, unit in units.items()}
        return found | {f"dimension/{site}": dim for site, dim in self._dims.items()}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """Curves of every metric of another package, by site."""
        measures = [name for name, metric in self.metrics.items() if not isinstance(metric, RepresentationMetric)]
        return {"curves": lambda: self._curves(measures)} if measures else {}

    def _curves(self, measures: Sequence[str]) -> Figure:
        return measure_curves({measure_title(measure): self._lines(measure) for measure in measures})

    def _lines(self, measure: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of a measure, by site."""
        lines = {site: self.history.series(self.full_key(site_key(measure, site))) for site in self._names}
        return {site: line for site, line in lines.items() if line[0]}

    def _grid(self, measure: str) -> tuple[list[int], list[str], list[list[float]]]:
        """Steps, sites and the measure by site and step, NaN where there is none."""
        return site_grid(self.history, {site: self.full_key(site_key(measure, site)) for site in self._names})

    def _heatmap(self, measure: str, label: str) -> Figure:
        return site_heatmap(*self._grid(measure), measure_title(measure), label)


def _parameters(metric: Metric) -> frozenset[str]:
    signature = inspect.signature(type(metric).update)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return frozenset({"mask", "labels", "positions"})
    return frozenset(signature.parameters) & {"mask", "labels", "positions"}


def names_by_set(names: Names | Mapping[str, Names] | None, first: str) -> Mapping[str, Names]:
    """Names of labels by label set; those that are not given so are of the first."""
    if names is None:
        return {}
    if isinstance(names, Mapping) and names and all(isinstance(name, str) for name in names):
        return cast(Mapping[str, Names], names)
    return {first: cast(Names, names)}


def name_of(label: int, names: Names | None) -> str:
    """What a label is called; its number where nobody says."""
    if names is None:
        return str(label)
    return str(names(label) if callable(names) else names[label])


def _default_name(metric: Metric) -> str:
    return type(metric).__name__.lower()
