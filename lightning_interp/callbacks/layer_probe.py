"""What linear probes read off a model's layers while it trains, and with which controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Unpack

from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.reader import LabelSource
from lightning_interp.batches.site_rows import SiteRows
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional.layers import best_layer, centre_of_gravity
from lightning_interp.isolation.random_weights import Reinit
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.derived import ABOVE_BASELINE, ABOVE_CHANCE, BASELINE
from lightning_interp.metrics.linear_probe import STRENGTHS, LinearProbe
from lightning_interp.metrics.measure import FULL, Measure
from lightning_interp.metrics.measures.probes import BEST_LAYER, CENTRE_OF_GRAVITY, PROBE
from lightning_interp.parts.probe_set import ProbeSet
from lightning_interp.parts.projector import Projector
from lightning_interp.parts.site_args import SiteArgs, split_site_args
from lightning_interp.parts.site_metrics import SiteMetrics, site_key
from lightning_interp.parts.validation_sites import ValidationSites
from lightning_interp.reading.analysis import Draw, ValidationAnalysis
from lightning_interp.reading.grids import site_grid
from lightning_interp.reading.reading import Reading
from lightning_interp.reporting.plain_values import Settings

__all__ = ["LayerProbe"]

Named = Sequence[str] | Mapping[str, LabelSource]
_SITE = "<site>"
_NO_WORDS = (
    "They are read since `types='token'` says which word stands at a position; where there are no words, as in images, "
    "give `types=None`."
)


class LayerProbe(ValidationAnalysis):
    r"""Reads with linear probes what a layer's representations make readable: labels (POS, class, number) and numbers.

    Every reading fits new probes in closed form: ridge regression, for labels a ridge classifier, on words held out by
    type, or whole samples where labels belong to samples (:class:`~lightning_interp.metrics.LinearProbe` says how).
    Folds, control labels and the rows that are read are
    the same at every reading, so that differences are the model's. Probes live here and never on the module.

    Beside each value stand what it must beat: the same probe of labels dealt out anew, which is what it gets where
    there is nothing to read; the same probe on the model with fresh random weights, read once, at the first reading;
    and a control task of random labels per word type (Hewitt & Liang 2019, arXiv 1909.03368), with selectivity =
    accuracy − control accuracy, both on held-out samples. With fewer word types than dimensions a probe learns any
    labels of words, and selectivity is near 0 whatever a layer holds.

    ========================================  =======  ===============================================================
    key                                       level    what it is
    ========================================  =======  ===============================================================
    ``probe_accuracy/<site>/<labels>``        summary  share of rows whose label is read, of words not seen
    ``probe_r2/<site>/<target>``              summary  share of the variance that is read, of words not seen
    ``probe_above_chance/<site>/<name>``      full     the same less that of labels dealt out anew; without a baseline
                                                       summary
    ``probe_above_baseline/<site>/<name>``    summary  the same less that of random weights
    ``selectivity/<site>/<name>``             full     ``probe_seen`` less ``probe_control``
    ``best_layer/<name>``                     summary  number of the site where most is read, from 0, first of equals
    ``centre_of_gravity/<name>``              summary  mean number of the sites, weighted by what is read above b;
                                                       conditional
    ``codelength/<site>/<labels>``            summary  online codelength, bits a label; if ``codelength``
    ``probe_chance/<site>/<name>``            full     accuracy or R² of labels dealt out anew
    ``probe_chance/<site>/<name>/sd``         full     spread of ``probe_above_chance`` where there is nothing to read
    ``probe_baseline/<site>/<name>``          full     accuracy or R² with random weights
    ``probe_seen/<site>/<name>``              full     accuracy or R² on held-out samples, whose words recur
    ``probe_control/<site>/<name>``           full     the same of the control task
    ``probe_majority/<site>/<labels>``        full     accuracy of naming the most frequent label
    ``probe_coverage/<site>/<name>``          full     share of labelled rows whose label is frequent enough
    ``probe_classes/<site>/<labels>``         full     labels that are frequent enough
    ``compression/<site>/<labels>``           full     log₂ of the number of labels ÷ codelength; if ``codelength``
    ``probe_rows/<site>``                     full     rows that probes see
    ``nonfinite/<site>``                      full     vectors left out as not finite
    ========================================  =======  ===============================================================

    ``best_layer`` and ``centre_of_gravity`` are there for several sites, which are numbered in the order given, globs
    in the order of the model. The centre of gravity is
    :math:`\sum_\ell \ell\, g_\ell / \sum_\ell g_\ell` with :math:`g_\ell = \max(s_\ell - b_\ell, 0)`, s being accuracy
    or R² and b the larger of that with random weights and the level of chance; without ``shuffles`` the largest of that
    with random weights, the majority's share and 0 (after Tenney et al. 2019, arXiv
    1905.05950, who weight by a learned mixture). It is undefined, and not logged, where nothing is above b.

    Values are undefined where fewer than three word types or two labels are left.

    Args:
        sites: Where to read; see :class:`~lightning_interp.callbacks.RepresentationMetrics`.
        labels: Label sets: batch keys, or a mapping from name to where they are, see
            :class:`~lightning_interp.batches.BatchReader`; one label per sample or position, negative where there is
            none (-100).
        targets: Numbers to be read, given alike; several columns a position are one target.
        types: The label set that says which word stands at a position: ``"token"``, or a batch key (lemmas).
            ``None`` where there are no words, as for images: samples are held out, and there is no control task.
        folds, alphas, min_count, max_classes, control, codelength, max_rows, shuffles: See
            :class:`~lightning_interp.metrics.LinearProbe`.
        units: ``{name: "sample" | "word" | "position"}``: what is read belongs to these. Told from the data where it is
            not said; the settings have it as ``units/<name>``.
        baseline: ``True`` to read the model with random weights too, as its own classes draw them
            (:func:`~lightning_interp.isolation.random_weights.random_weights`); or a function that makes the model anew
            or gives its state dict, ``lambda: MyModel(width=64)``; ``False`` for no baseline. By default as ``True``,
            but where it fails a warning says why, and the probe reads without.
        seed: Of folds, control labels and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.RepresentationMetrics`, ``data`` (a probe set in place
            of the validation run) among them, and :class:`~lightning_interp.callbacks.ValidationAnalysis`. ``forward``
            is, without ``data``, what the baseline runs in place of ``validation_step``.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, the probe set shuffles or is used up by
            reading it, or weights cannot be drawn anew.

    Cost: see :class:`~lightning_interp.metrics.LinearProbe`, for each site, and once more at the first reading, with
        the batches that were read run a second time; with ``data`` a pass over it. ``benchmarks/probes.py`` measures
        it beside a validation epoch.

    Example:
        >>> callback = LayerProbe({"encoder": "model.encoder"}, labels={"pos": "pos_ids"}, targets=["depth"])
        >>> callback.logged_keys()[:3]
        ['probe_accuracy/encoder/pos', 'probe_r2/encoder/depth', 'probe_above_baseline/encoder/pos']

    """

    _outward = (*ValidationAnalysis._outward, "projector", "label_names")
    told_apart = ("sites", "metrics", "labels", "dataloader_idx", "prefix")

    def __init__(
        self,
        sites: str | Sequence[str] | Mapping[str, str],
        labels: Named = (),
        targets: Named = (),
        types: str | None = "token",
        folds: int = 5,
        alphas: Sequence[float] = STRENGTHS,
        min_count: int = 5,
        max_classes: int = 1000,
        control: bool = True,
        baseline: bool | Reinit | None = None,
        codelength: bool = False,
        max_rows: int = 20_000,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        shuffles: int = 3,
        **kwargs: Unpack[SiteArgs],
    ) -> None:
        for name, value in (("labels", labels), ("targets", targets)):
            if isinstance(value, str):
                raise ValueError(f"`{name}` must be a list of names or a mapping, got the string {value!r}.")
        probe = LinearProbe(
            labels=list(labels),
            targets=list(targets),
            types=types,
            folds=folds,
            alphas=alphas,
            min_count=min_count,
            max_classes=max_classes,
            control=control,
            codelength=codelength,
            max_rows=max_rows,
            seed=seed,
            units=units,
            shuffles=shuffles,
        )
        of_sites, rest = split_site_args(kwargs)
        super().__init__(**rest)
        self.probe = probe
        self.metrics = {"probe": probe}
        self.sites = sites
        self.names = (*probe.labels, *probe.targets)
        """What is read."""
        self.seed = seed
        self.projector, self.label_names = of_sites.pop("projector", None), of_sites.pop("label_names", None)
        self.site_metrics = SiteMetrics(self.metrics)
        self.rows = ValidationSites(
            sites,
            {**dict.fromkeys(probe.needs), **_sources(labels), **_sources(targets)},
            **of_sites,
            optional=("token", *self.site_metrics.needs_if_there),
            batch_size=self.batch_size,
            max_examples=self.max_examples,
            dataloader_idx=self.dataloader_idx,
            given_as=dict.fromkeys(probe.targets, "targets"),
            advice=_NO_WORDS if types == "token" else "",
        )
        self.vectors = Projector(self.projector, self.labels, self.label_names)
        self.baseline = ProbeSet(baseline, seed, keeps=self.rows.own is None)

    @property
    def labels(self) -> list[str]:
        """The label sets that are read, targets and word types among them."""
        return self.rows.labels

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What the probe gives, what random weights give, and where it is best."""
        found = self.site_metrics.declares()
        if self.baseline.wanted:
            # Random weights are above chance already, so that the distance from them is what to watch.
            found = [replace(one, level=FULL) if ABOVE_CHANCE in one.derived else one for one in found]
            for axis in ("labels", "target"):
                probe = PROBE.at("site", axis)
                found += [ABOVE_BASELINE.of(probe), BASELINE.of(probe)]
        return [*found, BEST_LAYER, CENTRE_OF_GRAVITY]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, labels and targets; names of both where there are several sites to compare."""
        sites = self.rows.short_names(model)
        several = len(sites) > 1 or _SITE in sites
        return {"site": sites, **self.site_metrics.axes(), "name": self.names if several else ()}

    # ------------------------------------------------- reading

    def kept_for_samples(self) -> str:
        """The values with random weights, unless they are of a probe set."""
        if not self.baseline.wanted or self.rows.own is not None:
            return ""
        return "probe_baseline is of those, so it is read anew, at the next reading where not at this one"

    def after_batch(self, seen: Seen) -> None:
        """Hand the representations of a validation batch to the probes."""
        super().after_batch(seen)
        for site, rows in self.rows.rows(seen):
            self._take(site, rows)

    def collect(self, reading: Reading) -> None:
        """Read a probe set of one's own."""
        self.rows.run_own(reading, self._take, self.seed, self.watch)

    def _take(self, site: str, rows: SiteRows) -> None:
        self.vectors.update(site, rows)
        self.site_metrics.update(site, rows, self.labels)

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Fit the probes, those of the baseline too where it is not known yet, and compare."""
        # In the mode of the validation run, since the model runs again.
        sites = list(self.rows.names)
        values = self.site_metrics.compute(sites)
        self.vectors.choose(sites, reading.group)
        found: Mapping[str, float] = {}
        if self.baseline.wanted:
            found = self.baseline.of_reading(reading, partial(self._with_random_weights, reading), type(self).__name__)
        probe = PROBE.at("site", "name")
        for site, name in itertools.product(sites, self.names):
            value = found.get(f"{site}/{name}")
            if value is not None:
                values[BASELINE.of(probe).key(site, name)] = value
                values[ABOVE_BASELINE.of(probe).key(site, name)] = float(values[self._score(site, name)]) - value
        layers = self._layers(values)
        if self.baseline.wanted and not found:
            # It weights by what is above the baseline.
            weighted = [CENTRE_OF_GRAVITY.key(name) for name in self.names]
            layers = {key: value for key, value in layers.items() if key not in weighted}
        return values | layers

    def _with_random_weights(self, reading: Reading) -> dict[str, float]:
        """Accuracy and R² with random weights, by site and name."""
        probe = self.probe.clone()
        # Its controls would be those of the model.
        probe.control = probe.codelength = False
        probe.shuffles = 0
        probes = SiteMetrics({"probe": probe})
        probes.begin(reading)
        sites = list(self.rows.names)
        take = partial(probes.update, labels=self.labels)
        self.baseline.run(reading, self.rows, take, type(self).__name__)
        found = probes.compute(sites)
        return {f"{site}/{name}": float(found[self._score(site, name)]) for site in sites for name in self.names}

    def _score(self, site: str, name: str) -> str:
        return site_key(f"{self.probe.score(name)}/{name}", site)

    def _layers(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Where each thing is read best."""
        sites = list(self.rows.names)
        if len(sites) < 2:
            return {}
        found: dict[str, float] = {}
        for name in self.names:
            scores = [float(values[self._score(site, name)]) for site in sites]
            levels = [self._level(site, name, values) for site in sites]
            found[f"best_layer/{name}"] = best_layer(scores)
            found[f"centre_of_gravity/{name}"] = centre_of_gravity(scores, levels)
        return found

    def _level(self, site: str, name: str, values: Mapping[str, Tensor | float]) -> float:
        """What is read where there is nothing, as far as it is known."""
        measures = ["probe_baseline", "probe_chance" if self.probe.shuffles else "probe_majority"]
        found = [float(values.get(site_key(f"{measure}/{name}", site), math.nan)) for measure in measures]
        known = [level for level in found if not math.isnan(level)]
        return max(known if self.probe.shuffles and known else [0.0, *known])

    # ------------------------------------------------- state

    def settings(self) -> Settings:
        """How readings are taken: arguments, also of the probe; how sites are read, and what became of the baseline."""
        return self.site_metrics.with_arguments(super().settings(), self, self._outward)

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """Once the values of the baseline stood beside what came of its weights."""
        if "random" not in state:
            return state
        return {**state, "baseline": {**state["random"], "values": state["baseline"]}}

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """For several sites heat maps over sites and steps, and the curves of what stands beside them."""
        pictures: dict[str, Draw] = {}
        for name in self.names:
            pictures[f"probe/{name}"] = partial(self._curves_of, name)
            if len(self.rows.names) > 1:
                pictures[f"sites/probe/{name}"] = partial(self._map_of, name)
        return pictures

    def _label(self, name: str) -> str:
        return "accuracy" if name in self.probe.labels else "R²"

    def _lines(self, measure: str) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values of a measure, by site."""
        lines = {site: self.history.series(self.full_key(site_key(measure, site))) for site in self.rows.names}
        return {site: line for site, line in lines.items() if line[0]}

    def _curves_of(self, name: str) -> Figure:
        measures = {
            self._label(name): self.probe.score(name),
            "above chance": "probe_above_chance",
            "above random weights": "probe_above_baseline",
            "selectivity": "selectivity",
            "control": "probe_control",
            "most frequent label": "probe_majority",
            "bits a label": "codelength",
        }
        panels = {title: self._lines(f"{measure}/{name}") for title, measure in measures.items()}
        return measure_curves({title: lines for title, lines in panels.items() if lines}, f"Probes for {name}")

    def _map_of(self, name: str) -> Figure:
        keys = {site: self.full_key(self._score(site, name)) for site in self.rows.names}
        return site_heatmap(*site_grid(self.history, keys), f"Probes for {name}", self._label(name))


def _sources(names: Named) -> dict[str, LabelSource]:
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
