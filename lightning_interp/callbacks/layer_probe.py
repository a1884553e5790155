"""What linear probes read off a model's layers while it trains, and with which controls."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import DistributedSampler

from lightning_interp._forward import default_forward, module_forward
from lightning_interp.callbacks.analysis import Draw
from lightning_interp.callbacks.representation import RepresentationMetrics, site_key
from lightning_interp.compat import pl
from lightning_interp.distributed import Steps, rank_in, run, world_size
from lightning_interp.figures import measure_curves, site_heatmap
from lightning_interp.functional.layers import best_layer, centre_of_gravity
from lightning_interp.isolation import ModuleState, muted_loggers, seeded, untouched
from lightning_interp.labels import LabelSource, batch_size
from lightning_interp.metrics.base import FULL, SUMMARY
from lightning_interp.metrics.linear_probe import STRENGTHS, LinearProbe
from lightning_interp.positions import SamplePositions, Selection
from lightning_interp.probing.random_weights import Fresh, RandomBaseline
from lightning_interp.replay import KeptBatch, StepReplay, independent
from lightning_interp.run_settings import Settings

__all__ = ["LayerProbe"]

Named = Sequence[str] | Mapping[str, LabelSource]
_SITE = "<site>"
_LEVELS = ("probe_baseline", "probe_majority")


class LayerProbe(RepresentationMetrics):
    r"""Reads with linear probes what a layer's representations make readable: labels (POS, class, number) and numbers.

    Every reading fits new probes in closed form: ridge regression, for labels a ridge classifier, on words held out by
    type (:class:`~lightning_interp.metrics.LinearProbe` says how). Folds, control labels and the rows that are read are
    the same at every reading, so that differences are the model's. Probes live here and never on the module.

    Beside each value stand what it must beat: the most frequent label; the same probe on the model with fresh random
    weights, read once, at the first reading; and a control task of random labels per word type
    (Hewitt & Liang 2019, arXiv 1909.03368), with selectivity = accuracy − control accuracy, both on held-out samples.
    With fewer word types than dimensions a probe learns any labels of words, and selectivity is near 0 whatever a layer
    holds.

    ========================================  =======  ===============================================================
    key                                       level    what it is
    ========================================  =======  ===============================================================
    ``probe_accuracy/<site>/<labels>``        summary  share of rows whose label is read, of words not seen
    ``probe_r2/<site>/<target>``              summary  share of the variance that is read, of words not seen
    ``probe_above_baseline/<site>/<name>``    summary  the same less that of random weights
    ``selectivity/<site>/<name>``             summary  ``probe_seen`` less ``probe_control``
    ``best_layer/<name>``                     summary  number of the site where most is read, from 0, first of equals
    ``centre_of_gravity/<name>``              summary  mean number of the sites, weighted by what is read above b;
                                                       conditional
    ``codelength/<site>/<labels>``            summary  online codelength, bits a label; if ``codelength``
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
    or R² and b the largest of that with random weights, the majority's share and 0 (after Tenney et al. 2019, arXiv
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
        folds, alphas, min_count, max_classes, control, codelength, max_rows: See
            :class:`~lightning_interp.metrics.LinearProbe`.
        baseline: ``True`` to read the model with random weights too, as its own classes draw them
            (:func:`~lightning_interp.probing.random_weights.random_weights`); or a function that makes the model anew
            or gives its state dict, ``lambda: MyModel(width=64)``; ``False`` for no baseline. By default as ``True``,
            but where it fails a warning says why, and the probe reads without.
        data: A probe set in place of the validation run: a ``DataLoader`` that does not shuffle, or any other iterable
            of batches that can be iterated again. It is run at the end of each validation that is read; whole batches
            are dealt out to ranks, none of them twice, though all ranks load all of them.
        forward: How a batch of the probe set goes through the module, ``forward(module, batch)``. By default the
            module's ``forward``, which gets what it takes of a dict by name, or the first entry of a tuple. Without
            ``data`` it is what the baseline runs in place of ``validation_step``.
        seed: Of folds, control labels and random weights.
        kwargs: Arguments of :class:`~lightning_interp.callbacks.RepresentationMetrics` and
            :class:`~lightning_interp.callbacks.ValidationAnalysis`. ``max_examples`` counts samples of the probe set
            where there is one.

    Raises:
        ValueError: If an argument is out of range, a name matches nothing, the probe set shuffles or is used up by
            reading it, or weights cannot be drawn anew.

    Cost: see :class:`~lightning_interp.metrics.LinearProbe`, for each site, and once more at the first reading, with
        the batches that were read run a second time; with ``data`` a pass over it. ``benchmarks/probes.py`` measures
        it beside a validation epoch.

    Example:
        >>> callback = LayerProbe({"encoder": "model.encoder"}, labels={"pos": "pos_ids"}, targets=["depth"])
        >>> callback.logged_keys()[:4]  # doctest: +NORMALIZE_WHITESPACE
        ['probe_accuracy/encoder/pos', 'selectivity/encoder/pos', 'probe_r2/encoder/depth', 'selectivity/encoder/depth']

    """

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
        data: Iterable[Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        seed: int = 0,
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
        )
        super().__init__({"probe": probe}, sites, labels={**_sources(labels), **_sources(targets)}, **kwargs)
        _check_data(data)
        if data is not None and self.dataloader_idx:
            raise ValueError(
                f"`dataloader_idx={self.dataloader_idx}` has no meaning with `data`: no validation batch is read."
            )
        self.probe = probe
        self.names = (*probe.labels, *probe.targets)
        """What is read."""
        self.baseline = baseline
        self._random = RandomBaseline(baseline)
        self.forward = forward
        self.seed = seed
        self._set = None if data is None else _Shared(data)
        self._model: nn.Module | None = None
        self._live: weakref.ref[Any] | None = None
        self._kept: list[KeptBatch] = []
        self._batch_idx: int | None = None
        self._fitting = False
        self._reset()

    def _reset(self) -> None:
        super()._reset()
        self._baseline: dict[str, float] = {}
        self._random.forget()
        # The order of validation samples is of no consequence to a probe set, so there is nothing to warn of.
        self._warned = getattr(self, "_set", None) is not None

    def settings(self) -> Settings:
        """How readings are taken: arguments, and what became of the baseline."""
        return {**super().settings(), **self._random.settings()}

    # ------------------------------------------------- keys

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key with its level."""
        keys = super().measures(model)
        sites = self.site_names(model)
        for name in self.names:
            if self._random.wanted:
                for site in sites:
                    keys[f"probe_above_baseline/{site}/{name}"] = SUMMARY
                    keys[f"probe_baseline/{site}/{name}"] = FULL
            if len(sites) > 1 or _SITE in sites:
                keys |= {f"best_layer/{name}": SUMMARY, f"centre_of_gravity/{name}": SUMMARY}
        return keys

    def conditional_keys(self, model: nn.Module | None = None) -> dict[str, str]:
        """The centre of gravity, and what to monitor instead."""
        keys = super().conditional_keys(model)
        for key in self.measures(model):
            if key.startswith("centre_of_gravity/"):
                keys[self.full_key(key)] = self.full_key(key.replace("centre_of_gravity", "best_layer"))
        return keys

    # ------------------------------------------------- reading

    def resolve(self, model: nn.Module) -> None:
        """Attach hooks at the sites."""
        super().resolve(model)
        self._model, self._live, self._fitting = model, None, False

    def release(self) -> None:
        """Take the hooks off and let go of the model."""
        super().release()
        self._model = self._live = None

    def abort(self) -> None:
        """Forget the reading."""
        super().abort()
        self._kept = []

    def before_batch(self, batch: Any, selection: Selection) -> None:
        """Get ready for a validation batch, unless there is a probe set."""
        if self._set is not None:
            return
        if self._baseline_due():
            index = len(self._kept) if self._batch_idx is None else self._batch_idx
            self._kept.append(KeptBatch(independent(batch), index, self.dataloader_idx, selection))
        self._read_batch(batch, selection)

    def _read_batch(self, batch: Any, selection: Selection) -> None:
        try:
            super().before_batch(batch, selection)
        except ValueError as error:
            if self.probe.types != "token" or "token ids" not in str(error):
                raise
            raise ValueError(
                f"{error} They are read since `types='token'` says which word stands at a position; where there are no "
                "words, as in images, give `types=None`."
            ) from error

    def after_batch(self, batch: Any, selection: Selection) -> None:
        """Take in a validation batch, unless there is a probe set."""
        if self._set is None:
            super().after_batch(batch, selection)

    def finish(self) -> Mapping[str, Tensor | float]:
        """Fit the probes, those of the baseline too where it is not known yet, and compare."""
        kept, due = self._kept, self._baseline_due()
        if self._set is not None:
            run(_together(self._read_set), self.group)
        values: dict[str, Tensor | float] = dict(super().finish())
        if self._random.wanted:
            found = self._tried_baseline(kept) if due else self._baseline
            if self._fitting and not self._rehearsing:
                self._baseline = found
            for key, value in found.items():
                site, name = key.split("/")
                values[f"probe_baseline/{key}"] = value
                score = self._score(site, name)
                values[f"probe_above_baseline/{key}"] = float(values[score]) - value
        return values | self._layers(values)

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
            levels = [max(0.0, *(self._level(what, site, name, values) for what in _LEVELS)) for site in sites]
            found[f"best_layer/{name}"] = best_layer(scores)
            found[f"centre_of_gravity/{name}"] = centre_of_gravity(scores, levels)
        return found

    def _level(self, what: str, site: str, name: str, values: Mapping[str, Tensor | float]) -> float:
        found = float(values.get(site_key(f"{what}/{name}", site), 0.0))
        return 0.0 if math.isnan(found) else found

    # ------------------------------------------------- the probe set

    def _read_set(self) -> None:
        """Run this rank's batches of the probe set."""
        assert self._model is not None
        model, forward = self._model, self._forward_of_set(self._model)
        with self._apart():
            model.eval()
            seeded(self.seed)
            for batch, selection, counted in self._dealt(model):
                if counted:
                    self._read_batch(batch, selection)
                forward(model, batch)
                if counted:
                    super().after_batch(batch, selection)

    def _forward_of_set(self, model: nn.Module) -> Callable[[nn.Module, Any], Any]:
        if self.forward is not None:
            return self.forward
        plain = module_forward(model)
        return lambda module, batch: plain(module, batch, 0)

    def _dealt(self, model: nn.Module) -> Iterator[tuple[Any, Selection, bool]]:
        """This rank's batches; the last is one of another rank, and does not count, where there are too few."""
        assert self._set is not None
        self.positions = SamplePositions(self._set.value, max_examples=self.max_examples)
        world = world_size(self.group)
        rank = rank_in(self.group)
        first = next(model.parameters(), None)
        device = first.device if first is not None else torch.device("cpu")
        trainer = None if self._live is None else self._live()

        def moved(batch: Any) -> Any:
            given = batch if trainer is None else trainer.strategy.precision_plugin.convert_input(batch)
            return pl.utilities.move_data_to_device(given, device)

        number, spare = 0, None
        for batch in self._set.value:
            selection = self.positions.select(batch_size(batch))
            if not len(selection):
                continue
            # All ranks run as many batches: where a forward pass communicates, they would wait for each other.
            spare = batch if number % world == 0 else spare
            if number % world == rank:
                yield moved(batch), selection, True
            number += 1
        if not number:
            raise ValueError("`data` gave no batch.")
        if number % world and rank >= number % world:
            yield moved(spare), selection, False

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """Within, what is run leaves no trace on the model, and has the precision of a validation step."""
        assert self._model is not None
        trainer = None if self._live is None else self._live()
        with ExitStack() as stack:
            stack.enter_context(untouched(self._model))
            if trainer is not None:
                stack.enter_context(trainer.strategy.precision_plugin.val_step_context())
                stack.enter_context(muted_loggers(trainer))
            yield

    # ------------------------------------------------- the baseline

    def _baseline_due(self) -> bool:
        return self._random.wanted and not (self._fitting and self._baseline)

    def _tried_baseline(self, kept: Sequence[KeptBatch]) -> dict[str, float]:
        """The baseline; nothing where it failed on any rank and was not asked for."""
        try:
            return self._read_baseline(kept)
        except Exception as error:
            super().abort()
            self._random.give_up(error, type(self).__name__)
            return {}

    def _read_baseline(self, kept: Sequence[KeptBatch]) -> dict[str, float]:
        """Accuracy and R² with random weights, by site and name."""
        for site in self._names:
            copy = self.probe.clone()
            # Its controls would be those of the model.
            copy.control = copy.codelength = False
            copy.process_group = self.group
            self._metrics[site, "probe"] = copy
        run(_together(partial(self._read_random, kept)), self.group)
        found = super().finish()
        return {f"{site}/{name}": float(found[self._score(site, name)]) for site in self._names for name in self.names}

    def _read_random(self, kept: Sequence[KeptBatch]) -> None:
        """Run the batches of this reading through the model with random weights."""
        model = self._model
        assert model is not None
        trainer = None if self._live is None else self._live()
        # Buffers are drawn anew too: on a copy.
        with self._apart(), self._random.installed(model, self.seed, type(self).__name__):
            if self._set is not None:
                self._read_set()
            elif trainer is not None and self.forward is None:
                assert isinstance(model, pl.LightningModule)
                replay = StepReplay(trainer, model, [], ModuleState(model).copy(), self.seed)
                life = replay.life()
                for one in kept:
                    self._read_batch(one.batch, one.selection)
                    replay.run(life, one)
                    super().after_batch(one.batch, one.selection)
            else:
                step = default_forward(model)
                model.eval()
                for one in kept:
                    self._read_batch(one.batch, one.selection)
                    seeded(self.seed + one.index)
                    step(model, one.batch, one.index) if self.forward is None else self.forward(model, one.batch)
                    super().after_batch(one.batch, one.selection)

    # ------------------------------------------------- life in a Trainer

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether this validation run is read."""
        super().on_validation_start(trainer, pl_module)
        self._live, self._fitting = weakref.ref(trainer), trainer.state.fn == "fit"

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Get ready for the model's forward pass."""
        self._batch_idx = batch_idx
        super().on_validation_batch_start(trainer, pl_module, batch, batch_idx, dataloader_idx)
        self._batch_idx = None

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


class _Shared:
    """Something that copies of a callback share: a data set is not copied with it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self


def _together(work: Callable[[], None]) -> Steps[None]:
    """Work in which ranks exchange nothing, and after which all of them go on, or none."""
    work()
    yield from ()


def _sources(names: Named) -> dict[str, LabelSource]:
    return dict(names) if isinstance(names, Mapping) else dict.fromkeys(names)


def _check_data(data: Any) -> None:
    if data is None:
        return
    # Asked of the type: making an iterator of a DataLoader draws from the global stream and starts its workers.
    if not isinstance(data, Iterable) or isinstance(data, Iterator):
        raise ValueError(
            f"`data` must be a DataLoader or another iterable of batches that can be iterated again, got "
            f"{type(data).__name__}."
        )
    if SamplePositions(data).shuffled:
        raise ValueError("`data` shuffles; a probe set is the same at every reading: give its loader shuffle=False.")
    if isinstance(getattr(data, "sampler", None), DistributedSampler):
        raise ValueError("`data` has a DistributedSampler; its batches are dealt out to ranks here: leave it off.")
