"""What linear probes read off a model's layers while it trains, and with which controls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp._forward import default_forward
from lightning_interp._seen import Seen
from lightning_interp.callbacks.analysis import Draw
from lightning_interp.callbacks.representation import RepresentationMetrics, site_key
from lightning_interp.compat import pl
from lightning_interp.distributed import Steps, run
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional.layers import best_layer, centre_of_gravity
from lightning_interp.isolation import ModuleState, seeded
from lightning_interp.labels import LabelSource
from lightning_interp.metrics.derived import ABOVE_BASELINE, ABOVE_CHANCE, BASELINE
from lightning_interp.metrics.linear_probe import STRENGTHS, LinearProbe
from lightning_interp.metrics.measure import FULL, Measure
from lightning_interp.metrics.measures.probes import BEST_LAYER, CENTRE_OF_GRAVITY, PROBE
from lightning_interp.own_data import apart
from lightning_interp.probing.random_weights import Fresh, RandomBaseline
from lightning_interp.reading.reading import Reading
from lightning_interp.replay import StepReplay, independent
from lightning_interp.run_settings import Settings

__all__ = ["LayerProbe"]

Named = Sequence[str] | Mapping[str, LabelSource]
_SITE = "<site>"


class LayerProbe(RepresentationMetrics):
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
            :class:`~lightning_interp.labels.BatchReader`; one label per sample or position, negative where there is
            none (-100).
        targets: Numbers to be read, given alike; several columns a position are one target.
        types: The label set that says which word stands at a position: ``"token"``, or a batch key (lemmas).
            ``None`` where there are no words, as for images: samples are held out, and there is no control task.
        folds, alphas, min_count, max_classes, control, codelength, max_rows, shuffles: See
            :class:`~lightning_interp.metrics.LinearProbe`.
        units: ``{name: "sample" | "word" | "position"}``: what is read belongs to these. Told from the data where it is
            not said; the settings have it as ``units/<name>``.
        baseline: ``True`` to read the model with random weights too, as its own classes draw them
            (:func:`~lightning_interp.probing.random_weights.random_weights`); or a function that makes the model anew
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

    _runs_batches = True

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
        baseline: bool | Fresh | None = None,
        codelength: bool = False,
        max_rows: int = 20_000,
        seed: int = 0,
        units: Mapping[str, str] | None = None,
        shuffles: int = 3,
        **kwargs: Any,
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
        self.probe = probe
        super().__init__({"probe": probe}, sites, labels={**_sources(labels), **_sources(targets)}, **kwargs)
        self.names = (*probe.labels, *probe.targets)
        """What is read."""
        self.baseline = baseline
        self._random = RandomBaseline(baseline)
        self.seed = seed
        self._kept: list[Seen] = []
        self.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._baseline: dict[str, float] = {}
        self._unsteady = False
        self._random.forget()

    def settings(self) -> Settings:
        """How readings are taken: arguments, and what became of the baseline."""
        return {**super().settings(), **self._random.settings()}

    # ------------------------------------------------- keys

    def declares(self) -> list[Measure]:
        """What the probe gives, what random weights give, and where it is best."""
        found = super().declares()
        if self._random.wanted:
            # Random weights are above chance already, so that the distance from them is what to watch.
            found = [replace(one, level=FULL) if ABOVE_CHANCE in one.derived else one for one in found]
            for axis in ("labels", "target"):
                probe = PROBE.at("site", axis)
                found += [ABOVE_BASELINE.of(probe), BASELINE.of(probe)]
        return [*found, BEST_LAYER, CENTRE_OF_GRAVITY]

    def axes(self, model: nn.Module | None = None) -> dict[str, Sequence[str]]:
        """The sites, labels and targets; names of both where there are several sites to compare."""
        found = super().axes(model)
        several = len(found["site"]) > 1 or _SITE in found["site"]
        return {**found, "name": self.names if several else ()}

    # ------------------------------------------------- reading

    def abort(self) -> None:
        """Forget the reading."""
        super().abort()
        self._kept = []

    def given_by_place(self) -> list[str]:
        """Labels and targets that are arrays."""
        return [f"{'labels' if name in self.probe.labels else 'targets'}[{name!r}]" for name in self._reader.arrays]

    def kept_for_samples(self) -> str:
        """The values with random weights, unless they are of a probe set."""
        if not self._random.wanted or self._own is not None:
            return ""
        return "probe_baseline is of those, so it is read anew, at the next reading where not at this one"

    def start_anew(self) -> None:
        """Keep batches at the next reading too, since its samples may be others again."""
        self._unsteady = True

    def before_batch(self, seen: Seen) -> None:
        """Get ready for a validation batch, unless there is a probe set."""
        if self._baseline_due() or self._unsteady:
            self._kept.append(replace(seen, batch=independent(seen.batch)))
        super().before_batch(seen)

    def _before_rows(self, seen: Seen) -> None:
        try:
            super()._before_rows(seen)
        except ValueError as error:
            if self.probe.types != "token" or "token ids" not in str(error):
                raise
            raise ValueError(
                f"{error} They are read since `types='token'` says which word stands at a position; where there are no "
                "words, as in images, give `types=None`."
            ) from error

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Fit the probes, those of the baseline too where it is not known yet, and compare."""
        kept, due = self._kept, self._baseline_due()
        values: dict[str, Tensor | float] = dict(super().finish(reading))
        found: dict[str, float] = {}
        if self._random.wanted:
            if reading.changed is not None and not due:
                # On other samples random weights have other values; without batches these are read at the next reading.
                self._baseline, due = {}, self._unsteady
            self._unsteady = self._unsteady and reading.rehearsal
            found = self._tried_baseline(kept, reading) if due else self._baseline
            if reading.counts:
                self._baseline = found
            probe = PROBE.at("site", "name")
            for site, name in itertools.product(self._names, self.names):
                value = found.get(f"{site}/{name}")
                if value is None:
                    continue
                values[BASELINE.of(probe).key(site, name)] = value
                values[ABOVE_BASELINE.of(probe).key(site, name)] = float(values[self._score(site, name)]) - value
        layers = self._layers(values)
        if self._random.wanted and not found:
            # It weights by what is above the baseline.
            weighted = [CENTRE_OF_GRAVITY.key(name) for name in self.names]
            layers = {key: value for key, value in layers.items() if key not in weighted}
        return values | layers

    def _score(self, site: str, name: str) -> str:
        return site_key(f"{self.probe.score(name)}/{name}", site)

    def _layers(self, values: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Where each thing is read best."""
        sites = list(self._names)
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

    # ------------------------------------------------- the baseline

    def _baseline_due(self) -> bool:
        fitting = self.now is not None and self.now.step is not None
        return self._random.wanted and not (fitting and self._baseline)

    def _tried_baseline(self, kept: Sequence[Seen], reading: Reading) -> dict[str, float]:
        """The baseline; nothing where it failed on any rank and was not asked for."""
        try:
            return self._read_baseline(kept, reading)
        except Exception as error:
            super().abort()
            self._random.give_up(error, type(self).__name__)
            return {}

    def _read_baseline(self, kept: Sequence[Seen], reading: Reading) -> dict[str, float]:
        """Accuracy and R² with random weights, by site and name."""
        for site in self._names:
            copy = self.probe.clone()
            # Its controls would be those of the model.
            copy.control = copy.codelength = False
            copy.shuffles = 0
            copy.process_group = self.group
            self._metrics[site, "probe"] = copy
        run(_together(partial(self._read_random, kept, reading)), reading.group)
        found = super().finish(reading)
        return {f"{site}/{name}": float(found[self._score(site, name)]) for site in self._names for name in self.names}

    def _read_random(self, kept: Sequence[Seen], reading: Reading) -> None:
        """Run the batches of this reading through the model with random weights."""
        model, trainer = self._model, reading.trainer
        assert model is not None
        # Buffers are drawn anew too: on a copy.
        with apart(model, trainer), self._random.installed(model, self.seed, type(self).__name__):
            if self._own is not None:
                self._read_own(self._own, reading)
            elif trainer is not None and self.forward is None:
                assert isinstance(model, pl.LightningModule)
                replay = StepReplay(trainer, model, [], ModuleState(model).copy(), self.seed)
                life = replay.life()
                for one in kept:
                    self._before_rows(one)
                    replay.run(life, one)
                    self._after_rows(one)
            else:
                step = reading.run_batch or default_forward(model)
                model.eval()
                for one in kept:
                    self._before_rows(one)
                    seeded(self.seed + one.index)
                    step(model, one.batch, one.index) if self.forward is None else self.forward(model, one.batch)
                    self._after_rows(one)

    # ------------------------------------------------- life in a Trainer

    def state_dict(self) -> dict[str, Any]:
        """Readings, and the values with random weights."""
        return {**super().state_dict(), "baseline": dict(self._baseline), "random": self._random.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        super().load_state_dict(state_dict)
        self._baseline = dict(state_dict["baseline"])
        self._random.load_state_dict(state_dict["random"])

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """For several sites heat maps over sites and steps, and the curves of what stands beside them."""
        pictures: dict[str, Draw] = {}
        for name in self.names:
            pictures[f"probe/{name}"] = partial(self._curves_of, name)
            if len(self._names) > 1:
                pictures[f"sites/probe/{name}"] = partial(self._map_of, name)
        return pictures

    def _label(self, name: str) -> str:
        return "accuracy" if name in self.probe.labels else "R²"

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
        return site_heatmap(*self._grid(f"{self.probe.score(name)}/{name}"), f"Probes for {name}", self._label(name))


def _together(work: Callable[[], None]) -> Steps[None]:
    """Work in which ranks exchange nothing, and after which all of them go on, or none."""
    work()
    yield from ()


def _sources(names: Named) -> dict[str, LabelSource]:
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)
