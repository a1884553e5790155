"""The base of every callback here: when a validation run is read, and what becomes of the reading."""

from __future__ import annotations

import inspect
import math
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Self

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from lightning_interp.batches.contents import BatchSize, batch_size
from lightning_interp.batches.shared_padding import shared_padding
from lightning_interp.compat import check_trainer, pl
from lightning_interp.distributed import Collective, PeerError, all_ranks, over_ranks, settled, world_size
from lightning_interp.distributed.positions import SamplePositions, Selection
from lightning_interp.isolation.replay import NotLoggedError
from lightning_interp.isolation.same_parameters import with_same_parameters
from lightning_interp.isolation.seen import Seen
from lightning_interp.metrics.measure import FULL, SUMMARY, Axes, Measure
from lightning_interp.reading.analyses import compared_by_lightning
from lightning_interp.reading.argument_names import refuse_unknown_arguments
from lightning_interp.reading.drawing_clock import DrawingClock, Picture
from lightning_interp.reading.heat_maps import heat_maps
from lightning_interp.reading.held_gates import HeldGates
from lightning_interp.reading.history import History, ReadingRow
from lightning_interp.reading.hooks import check_hooks
from lightning_interp.reading.keys import charts_of, conditional_keys_of, descriptions_of, measures_of
from lightning_interp.reading.page import Source
from lightning_interp.reading.part import Part, parts_of
from lightning_interp.reading.reading import Reading
from lightning_interp.reading.replicas import check_replicas, data_group, largest
from lightning_interp.reading.run_log import RunLog
from lightning_interp.reading.run_settings import arguments, run_settings
from lightning_interp.reading.samples import ReadSamples, loader_positions
from lightning_interp.reading.unattached import unattached
from lightning_interp.reading.val_loop import is_last_batch, validation_due
from lightning_interp.reporting.attempt import attempt, cause
from lightning_interp.reporting.measure_words import describe_key
from lightning_interp.reporting.plain_values import Settings
from lightning_interp.reporting.safe_keys import PLACEHOLDERS, safe_keys

__all__ = ["Draw", "ValidationAnalysis"]

Draw = Callable[[], Figure]


class ValidationAnalysis(pl.Callback):
    """Reads a validation run and logs what it found beside the task loss.

    A subclass says what to do with a batch and what to make of a reading; this class decides when to read, merges
    ranks' success and failure, logs, keeps the history and draws. To write one's own, say what is measured
    (:meth:`declares` and :meth:`axes`), hold :class:`~lightning_interp.reading.part.Part` objects that attach to the
    model, and fill in :meth:`merge`; where needed also :meth:`resolve`, :meth:`release`, :meth:`begin`,
    :meth:`before_batch`, :meth:`after_batch`, :meth:`commit`, :meth:`abort` and :meth:`figures`. None of these needs a
    Trainer, so that :func:`lightning_interp.analyze` can call them too. What is known of the moment is in the
    :class:`~lightning_interp.reading.reading.Reading`, ``self.now`` while it lasts.

    What every reading has beside its measures: ``seconds/<callback>``, time spent in it, at level full, and, once a
    reading was dropped, ``failed/<callback>``, how many were, which is always logged.

    TensorBoard's page "Custom Scalars" begins with an overview of the run, whatever callbacks there are. Where there
    are several validation loaders, the attribute ``val_loader_names`` of the LightningModule or of the data module, a
    list of names in their order, says what pages and pictures call them: ``val_loss, out of distribution``.

    The sanity check rehearses one whole reading, which no logger gets to see: what is wrong with the arguments shows
    there, as an error. After a reading has succeeded, an error drops that reading on all ranks, with one warning, and
    training goes on; gates that watch its keys wait for the next one. What runs the model again does so right after the
    last validation batch, with the weights that were validated. A module that is replaced or wrapped in training is
    found again by its name.

    All readings are in ``history``, a :class:`~lightning_interp.reading.History`: ``history.plot()``,
    ``history.series(key)``, ``history.to_pandas()``, ``history.write_csv(path)``.

    A copy, pickled or not, has the arguments and the history, and is attached to no model: :attr:`attached`.

    Args:
        every_n_validations: Read only every n-th validation run.
        max_examples: Samples to read over all ranks, as the batches have them; bounds memory. Spread evenly over the
            data set, and the same at every reading, where the loader tells which samples it gives
            (:class:`~lightning_interp.distributed.SamplePositions`); of a stream, of a loader class of one's own and of
            items that are batches the first ones. ``None`` for all.
        batch_size: How many samples a batch has: a number, the key, index or attribute of a part of the batch that is
            the number or is as long, or a callable on the batch. By default it is told from the batch, where all its
            parts agree.
        dataloader_idx: Which validation loader to read. Keys of another than 0 end in ``/dataloader_idx_<n>``.
        prefix: Put before every key.
        log: ``"summary"`` logs what a person watches; ``"full"`` logs everything. History and ``readings.csv`` hold
            everything either way.
        draw_figures: Draw figures: at the end of the fit, where a user interrupts it, and while it runs soon after a
            reading, in turn with those of the other callbacks, as far as 1.5 % of the run's time go for all of them.
        figure_interval: The fewest seconds between two drawings of a figure while training runs.
        write_csv: Write ``readings.csv`` in the log folder: a row a reading, and in columns ``setting/…`` versions,
            seed, world size, precision and the arguments of each callback.
        on_error: ``"drop"`` the reading, or ``"raise"``.
        max_overhead: The share of the run's time that readings and figures may take, 0.02 for a fiftieth: a validation
            run is not read where one more reading, as long as the last, would go beyond it. The first is always read.

    Raises:
        TypeError: If there is no such argument; it names the nearest that there are.
        ValueError: If an argument is out of range; at the start of the fit if two callbacks would log the same key, or
            if labels are given as an array and the loader does not tell which samples it gives.

    """

    is_analysis = True
    draws_first = False
    attached: tuple[str, ...] = ("_trainer", "now")
    """Attributes of a class that belong to a model or a Trainer: a copy has None there, until it is attached itself."""
    told_apart: tuple[str, ...] = ("prefix",)
    """Arguments that tell several instances of a class apart in a checkpoint."""
    # Arguments that change no value of a reading.
    _outward: tuple[str, ...] = (
        "prefix",
        "log",
        "draw_figures",
        "figure_interval",
        "write_csv",
        "on_error",
        "max_overhead",
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_hooks(cls)

    def __init__(
        self,
        every_n_validations: int = 1,
        max_examples: int | None = 2000,
        dataloader_idx: int = 0,
        prefix: str = "",
        log: str = SUMMARY,
        draw_figures: bool = True,
        figure_interval: float = 0.0,
        write_csv: bool = True,
        on_error: str = "drop",
        max_overhead: float | None = None,
        batch_size: BatchSize | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        refuse_unknown_arguments(type(self), unknown)
        if isinstance(batch_size, int) and batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
        if every_n_validations < 1:
            raise ValueError(f"`every_n_validations` must be at least 1, got {every_n_validations}.")
        if max_examples is not None and max_examples < 1:
            raise ValueError(f"`max_examples` must be at least 1, or None for all, got {max_examples}.")
        if dataloader_idx < 0:
            raise ValueError(f"`dataloader_idx` must be at least 0, got {dataloader_idx}.")
        if log not in (SUMMARY, FULL):
            raise ValueError(f"`log` must be 'summary' or 'full', got {log!r}.")
        if on_error not in ("drop", "raise"):
            raise ValueError(f"`on_error` must be 'drop' or 'raise', got {on_error!r}.")
        if safe_keys([f"{prefix}key"]) != {f"{prefix}key": f"{prefix}key"}:
            raise ValueError(
                f"`prefix` may have letters, digits, '_', '-', '.' and single slashes, which all loggers hold, got "
                f"{prefix!r}."
            )
        if max_overhead is not None and not 0 < max_overhead < 1:
            raise ValueError(f"`max_overhead` must lie between 0 and 1, or be None for no bound, got {max_overhead}.")
        self.every_n_validations = every_n_validations
        self.max_overhead = max_overhead
        self.max_examples = max_examples
        self.batch_size = batch_size
        self.dataloader_idx = dataloader_idx
        self.prefix = prefix
        self.log_level = log  # Lightning puts its own `log` on every callback
        self.draw_figures = draw_figures
        self.figure_interval = figure_interval
        self.write_csv = write_csv
        self.on_error = on_error

        self._name = type(self).__name__
        self.now: Reading | None = None
        """The reading that is being taken."""
        self._warned_of_omissions = False
        self._warned_of_undefined = False
        self._elsewhere: frozenset[str] = frozenset()
        self._read_samples = ReadSamples(max_examples)
        self._trainer: weakref.ref[Any] | None = None
        self._modules: dict[str, nn.Module] = {}
        self._held = HeldGates()
        self._key: str | None = None
        self._safe: dict[str, str] = {}
        self._forget_fit()

    def _forget_fit(self) -> None:
        self.history = History()
        self.reading: dict[str, float] = {}
        """The values of the last reading by whole key."""
        self.failed = 0
        """How many readings were dropped."""
        self.validations = 0
        """How many validation runs there were, read or not."""
        self._spent = self._last_seconds = self._elapsed = 0.0
        self._resumed = time.monotonic()
        self._rehearsed = False
        self._due: int | None = None
        self._open: int | None = None
        self._validated: int | None = None
        self._said: set[str] = set()
        self._read_samples.clear()

    def clear(self) -> None:
        """Forget everything that belongs to one fit; the parts do too."""
        self._forget_fit()
        for _, part in self.all_parts():
            part.clear()

    def all_parts(self) -> list[tuple[str, Part]]:
        """The parts that it holds, by the name of the attribute."""
        return list(parts_of(self))

    def fresh(self) -> Self:
        """An analysis with the same arguments that has read nothing yet and is attached to no model."""
        found = object.__new__(type(self))
        vars(found).update(self.__getstate__())
        for name, part in self.all_parts():
            setattr(found, name, part.fresh())
        found._read_samples = ReadSamples(self.max_examples)
        found.clear()
        return found

    @property
    def positions(self) -> SamplePositions:
        """Counts through the batches of the reading."""
        return SamplePositions([]) if self.now is None else self.now.positions

    @property
    def group(self) -> Any:
        """The process group over which data are split; ``None`` for all ranks."""
        return None if self.now is None else self.now.group

    @property
    def step(self) -> int | None:
        """The optimizer step of the reading of a fit that is being taken; ``None`` while none is, or in a rehearsal."""
        return self.now.step if self.now is not None and self.now.counts else None

    # ------------------------------------------------- what a subclass fills in

    def declares(self) -> Sequence[Measure]:
        """The measures that a reading gives, each said once: keys, levels, charts and more follow from them.

        Example:
            ``[Measure("attention_entropy", says="Mean entropy of a head's weights.", of=("site", "head"))]``

        """
        return ()

    def axes(self, model: nn.Module | None = None) -> Axes:
        """The values of the axes that :meth:`declares` names: ``{"site": ["encoder"], "head": ["0", "1"]}``.

        Args:
            model: The model that is to be read; without it, the names as far as they are known, and before they are, a
                pattern such as ``<site>`` where one depends on the model.

        """
        return {}

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key that a reading gives, with its level, ``"summary"`` or ``"full"``; from :meth:`declares`.

        Args:
            model: The model that is to be read; without it, keys hold a pattern where a name depends on the model.

        """
        return measures_of(self, model)

    def metric_improves(self, metric: str) -> str | None:
        """``"max"`` or ``"min"``: which way a metric of the model's improves that keys are of; None where not known."""
        return None

    def resolve(self, model: nn.Module) -> None:
        """Find in the model what is to be read, and attach to it. An error here stops the run before it starts."""
        for _, part in self.all_parts():
            part.attach(model)

    def take_padding(self, padding_idx: int | None) -> None:
        """What the ``LightningModule`` or the data module says of padding in an attribute of this name, if it does."""
        for _, part in self.all_parts():
            part.take_padding(padding_idx)

    def release(self) -> None:
        """Detach from the model and free what was kept for readings."""
        self.abort()
        for _, part in self.all_parts():
            part.detach()

    def count(self, batch: Any) -> int:
        """The number of samples in a batch."""
        told = (part.count(batch) for _, part in self.all_parts())
        number = next((one for one in told if one is not None), None)
        return batch_size(batch, self.batch_size) if number is None else number

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        for _, part in self.all_parts():
            part.begin(reading)

    def before_batch(self, seen: Seen) -> None:
        """A batch that has selected samples is about to go through the model."""
        for _, part in self.all_parts():
            part.before_batch(seen)

    def after_batch(self, seen: Seen) -> None:
        """The batch went through the model."""
        for _, part in self.all_parts():
            part.after_batch(seen)

    def abort(self) -> None:
        """The reading is over, or given up: forget it."""
        for _, part in self.all_parts():
            part.forget()

    @property
    def reads_batches(self) -> bool:
        """Whether batches of the validation run are read; else they may be of any kind."""
        told = [part.reads_batches for _, part in self.all_parts() if part.reads_batches is not None]
        return any(told) if told else type(self).after_batch is not ValidationAnalysis.after_batch

    def collect(self, reading: Reading) -> None:
        """The validation run is over: read on this rank what is not part of it. Called on all ranks, or on none."""

    def merge(self, reading: Reading) -> Collective[Mapping[str, Tensor | float]]:
        """Merge ranks and give all measures by key, as a generator; see :mod:`lightning_interp.distributed`."""
        raise NotImplementedError(f"{type(self).__name__} has neither `merge` nor `finish`.")

    def finish(self, reading: Reading) -> Mapping[str, Tensor | float]:
        """Merge ranks and return all measures by key. Called on all ranks, or on none."""
        # What is kept must also be usable outside inference mode.
        with torch.inference_mode(False), torch.no_grad():
            return over_ranks(self.merge(reading), reading.group)

    def kept_for_samples(self) -> str:
        """What is kept from one reading to the next that belongs to the samples read, and what becomes of it.

        Words for a message, in which the samples turned out to be others. With ``""``, the default, samples are not
        watched.
        """
        return ""

    by_place = False
    """Whether what is kept belongs to each sample, so that the same ones in another order are others."""

    def watched(self, selection: Selection) -> Selection:
        """Those of the selected samples of a batch to which it belongs."""
        return selection

    def start_anew(self) -> None:
        """A reading of a fit succeeded that was of other samples: forget what belongs to those before."""
        for _, part in self.all_parts():
            part.start_anew()

    def read_from(self) -> str:
        """What batches come from, for messages."""
        told = (part.read_from() for _, part in self.all_parts())
        return next(filter(None, told), f"validation loader {self.dataloader_idx}")

    def given_by_place(self) -> list[str]:
        """Arguments that hold an entry for each sample of the data set, so that they need to know which is which."""
        return [argument for _, part in self.all_parts() for argument in part.given_by_place()]

    def commit(self, reading: Reading) -> None:
        """The reading is logged, and counts: take over what it found. Called on all ranks, or on none."""
        for _, part in self.all_parts():
            part.commit(reading)

    def identity(self) -> Mapping[str, Any]:
        """What tells several instances of a class apart in a checkpoint, by name: see :attr:`told_apart`."""
        given = {name: getattr(self, name) for name in self.told_apart}
        return {
            name: list(one) if isinstance(one, Mapping | Sequence) and not isinstance(one, str) else one
            for name, one in given.items()
        }

    def shared(self) -> Mapping[str, Tensor | float]:
        """Numbers of the last reading, beside its measures, that all ranks with the same data must have alike."""
        return {}

    def figures(self) -> Mapping[str, Draw]:
        """Pictures of the history so far, by tag; each is drawn only when it is needed.

        By default a heat map of each summary measure that :meth:`declares` names, over its last axis and steps.
        """
        return heat_maps(self)

    def charts(self, model: nn.Module | None = None) -> dict[str, list[str]]:
        """Which measures share a chart on TensorBoard's page "Custom Scalars", by the chart's title.

        By default all sites and label sets of a measure, of those that are logged. What says how a reading was taken
        has charts at the end of the page, as everything that is logged and in no chart here.
        """
        return charts_of(self, model)

    def page_source(self, model: nn.Module, loaders: Sequence[str] | None = None) -> Source:
        """What it has on TensorBoard's page "Custom Scalars"."""
        charts = {title: [self.full_key(key) for key in keys] for title, keys in self.charts(model).items()}
        return Source(self._name, self.prefix, charts, [*self.logged_keys(model), self.full_key(self.own_keys()[1])])

    def settings(self) -> Settings:
        """How readings are taken, for the columns ``setting/<callback>/…`` of ``readings.csv``.

        By default the arguments that this callback or a part keeps under their own names and that are numbers, text, or
        lists and mappings of these.
        """
        found = self.given(self._outward)
        for _, part in self.all_parts():
            found |= part.settings()
        return found

    def given(self, leave_out: Sequence[str] = ()) -> Settings:
        """The arguments that it was made with, as far as they are plain; also those that a part keeps for it."""
        return arguments(self, *(one for _, part in self.all_parts() for one in part.keeps()), leave_out=leave_out)

    # ------------------------------------------------- keys

    def logged_keys(self, model: nn.Module | None = None) -> list[str]:
        """The keys that every reading logs under the present ``log`` level.

        Args:
            model: The model; without it, keys hold ``<site>`` where a site's name depends on the model.

        """
        levels = {**self._named_measures(model), f"seconds/{self._name}": FULL}
        keys = [self.full_key(key) for key, level in levels.items() if self.log_level == FULL or level == SUMMARY]
        return [key for key in keys if key not in self._elsewhere]

    def conditional_keys(self, model: nn.Module | None = None) -> dict[str, str]:
        """Keys that may be undefined at a reading and are not logged then, each with a key that always is defined.

        A plain gate on one of them is an error. ``""`` where there is no such key. From ``instead`` of a measure.
        """
        return conditional_keys_of(self, model)

    def full_key(self, key: str) -> str:
        """A measure's key with the prefix and, for another loader than the first, the loader's suffix."""
        suffix = f"/dataloader_idx_{self.dataloader_idx}" if self.dataloader_idx else ""
        # Every reading of a run holds the same text, which is then there once.
        return sys.intern(f"{self.prefix}{self.safe_key(key)}{suffix}")

    def safe_key(self, key: str) -> str:
        """A measure's key as loggers can hold it; see :func:`~lightning_interp.reporting.safe_keys.safe_keys`."""
        return self._safe[key] if key in self._safe else safe_keys([key])[key]

    def _named_measures(self, model: nn.Module | None) -> dict[str, str]:
        """The measures; from here on their keys are those that loggers can hold."""
        measures = self.measures(model)
        if measures.keys() != self._safe.keys():
            self._safe = safe_keys(measures, PLACEHOLDERS if model is None else ())
        return measures

    # ------------------------------------------------- life in a Trainer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A new Trainer that fits starts a new history."""
        check_trainer(self, trainer)
        if stage == "fit":
            if self._trainer is None or self._trainer() is not trainer:
                self.clear()
            self._trainer = weakref.ref(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Attach to the model and check arguments and keys against those of other ranks and callbacks."""
        log = RunLog.of(trainer)
        log.joins(self)
        self._attach(trainer, pl_module)
        if log.reporter is not None:
            costs = {key: describe_key(key, self.prefix) for key in map(self.full_key, self.own_keys())}
            log.reporter.describe(trainer, descriptions_of(self, pl_module) | costs)
        for _, part in self.all_parts():
            part.fit_starts(trainer, self._name)
        self._resumed = time.monotonic()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check what gates watch, and that there will be something to read; only now does Lightning know of both."""
        RunLog.of(trainer).training_starts(self, pl_module)
        if self.reads_batches and self.given_by_place() and trainer.val_dataloaders is not None:
            self._find_loader(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw what is due: training goes on, so it is not drawn again at once."""
        RunLog.of(trainer).draw(DrawingClock.tick)

    def _attach(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.release()
        self._read_samples.release()
        log = RunLog.of(trainer)
        self._name = log.name_of(self)
        if "dataloader_iter" in inspect.signature(pl_module.validation_step).parameters:
            raise ValueError(
                f"{type(pl_module).__name__}.validation_step takes `dataloader_iter`, and Lightning hands no batch to "
                f"callbacks then, so {self._name} has nothing to read: let it take `batch`."
            )
        if world_size() > 1 and pl_module.allow_zero_length_dataloader_with_multiple_devices:
            raise ValueError(
                f"{type(pl_module).__name__}.allow_zero_length_dataloader_with_multiple_devices is true: a rank "
                f"without a batch skips its validation run, and the others would wait for it in {self._name} for ever. "
                "Leave it false, and give every rank at least one batch."
            )
        self.resolve(pl_module)
        self.take_padding(shared_padding(pl_module, getattr(trainer, "datamodule", None)))
        self._modules = dict(pl_module.named_modules())
        self._tell_names(pl_module)
        self._elsewhere = log.claim(self, pl_module)

    def _tell_names(self, model: nn.Module) -> None:
        """Say once which names are logged as others."""
        self._named_measures(model)
        others = [f"{key!r} as {safe!r}" for key, safe in self._safe.items() if key != safe]
        if others and "names" not in self._said:
            self._said.add("names")
            more = f" and {len(others) - 3} more" if len(others) > 3 else ""
            pl.utilities.rank_zero_warn(
                f"{self._name} logs {', '.join(others[:3])}{more}, since loggers cannot hold all characters."
            )

    def own_keys(self) -> tuple[str, str]:
        """The keys of the time that a reading takes, and of how many were dropped."""
        return f"seconds/{self._name}", f"failed/{self._name}"

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether this validation run is read."""
        started = time.perf_counter()
        log = RunLog.of(trainer)
        log.validation_starts(self)
        self.now = None
        fitting, rehearsal = trainer.state.fn == "fit", bool(trainer.sanity_checking)
        if not fitting:
            self._attach(trainer, pl_module)
        elif not rehearsal:
            self._count_validation(trainer.fit_loop.epoch_loop.total_batch_idx)
            if (self.validations - 1) % self.every_n_validations or not self._affordable():
                return
        step = trainer.global_step if fitting else None
        reading = self.now = Reading(pl_module, step, rehearsal, data_group(trainer), trainer, shared=log.shared)
        self._guarded(lambda: self._prepare(reading))
        reading.seconds += time.perf_counter() - started

    def _count_validation(self, batch: int) -> None:
        """Number this validation run as it would be without a restart: after one that a checkpoint came before."""
        if self._due is not None and self._due != batch:
            self.validations += 1
        self._due, self._open = None, batch
        self.validations += 1

    def _prepare(self, reading: Reading) -> None:
        self._follow(reading)
        if self.reads_batches:
            reading.positions = self._find_loader(reading.trainer)
        self.begin(reading)

    def _follow(self, reading: Reading) -> None:
        """Where modules were replaced, wrapped, added or taken away since, find by name what is to be read."""
        before, now = self._modules, dict(reading.model.named_modules())
        if before.keys() == now.keys() and all(before[name] is module for name, module in now.items()):
            return
        self.release()
        self.resolve(reading.model)
        self._modules = now
        others = [name for name, module in before.items() if name in now and now[name] is not module]
        gone = [name for name in before if name not in now]
        if others or gone:
            changes = [f"other modules at {others[:3]}"] if others else []
            changes += [f"none any longer at {gone[:3]}"] if gone else []
            pl.utilities.rank_zero_warn(
                f"{self._name}: since the last reading the model has {' and '.join(changes)}. Sites are found by name, "
                f"and from step {reading.step} on they are read there."
            )

    def _affordable(self) -> bool:
        """Whether one more reading keeps within ``max_overhead``; ranks decide together."""
        if self.max_overhead is None:
            return True
        elapsed = self._elapsed + time.monotonic() - self._resumed
        return all_ranks(not self._spent or self._spent + self._last_seconds <= self.max_overhead * elapsed)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Get ready for the model's forward pass."""
        reading = self.now
        if reading is None or reading.closed or reading.error is not None:
            return
        started = time.perf_counter()
        self._guarded(lambda: self.before_any_batch(reading, dataloader_idx))
        if dataloader_idx == self.dataloader_idx and self.reads_batches and reading.error is None:
            self._guarded(lambda: self.before(reading, batch, batch_idx, dataloader_idx))
        reading.seconds += time.perf_counter() - started

    def before_any_batch(self, reading: Reading, loader: int) -> None:
        """A batch of any validation loader is about to go through the model, whether it is read or not."""
        for _, part in self.all_parts():
            part.before_any_batch(reading, loader)

    def before(self, reading: Reading, batch: Any, index: int, loader: int = 0) -> None:
        """Choose the samples that are read of a batch, and get ready for it."""
        seen = Seen(batch, index, loader, reading.positions.select(self.count(batch)))
        self.watch(reading, seen)
        if len(seen.selection):
            self.before_batch(seen)
            reading.seen = seen

    def watch(self, reading: Reading, seen: Seen) -> None:
        """See whether it is known which samples a batch has, and whether they are those of the reading before."""
        self._check_positions(reading.positions)
        if len(seen.selection) and self.kept_for_samples():
            reading.checksum.add(seen.batch, self.watched(seen.selection))

    def after(self, reading: Reading, output: Any) -> None:
        """Take in what the model's forward pass on that batch showed, where samples of it are read."""
        seen, reading.seen = reading.seen, None
        if seen is not None:
            self.after_batch(replace(seen, output=output))

    # ------------------------------------------------- outside a Trainer

    def start_reading(self, reading: Reading, loader: Any) -> None:
        """Attach to a finished model and begin to read it.

        Args:
            reading: The reading, which is taken until :meth:`end_reading`.
            loader: What gives the batches.

        """
        self.now = reading
        self.resolve(reading.model)
        self.take_padding(shared_padding(reading.model))
        self._named_measures(reading.model)
        if self.reads_batches:
            reading.positions = SamplePositions(loader, max_examples=self.max_examples)
            self._read_samples.try_collate(loader, reading.positions, self.given_by_place())
            self._check_positions(reading.positions)
        self.begin(reading)

    def end_reading(self, reading: Reading) -> dict[str, float]:
        """What was read of a finished model: every measure by its key, undefined ones left out."""
        self.collect(reading)
        found = _numbers(self.finish(reading))
        return {self.prefix + self.safe_key(key): value for key, value in found.items() if not math.isnan(value)}

    # ------------------------------------------------- batches

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Take in what the forward pass showed; after the last batch, read whatever else there is to read."""
        reading = self.now
        if reading is not None and reading.seen is not None and dataloader_idx == self.dataloader_idx:
            started = time.perf_counter()
            self._guarded(lambda: self.after(reading, outputs))
            reading.seconds += time.perf_counter() - started
        # Now, since in later hooks the model may have other weights than those that were validated, as under weight
        # averaging; and by the last of the analyses, when all of them have taken in the batch.
        if is_last_batch(trainer):
            analyses = RunLog.of(trainer).analyses
            for analysis in analyses if self is analyses[-1] else ():
                analysis._finish(pl_module)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log what was read."""
        reading = self.now
        if reading is None or reading.closed:
            return
        self._finish(pl_module)  # where no batch was known to be the last
        reading.closed = True
        values = reading.values
        if values is None:
            self._give_up(reading)
            return
        self._rehearsed = True
        if reading.rehearsal:
            # Lightning forgets what is logged in the sanity check.
            self._log(pl_module, self._chosen(self.logged_keys(pl_module), values, silent=True))
            return
        if reading.counts:
            if reading.changed is not None:
                self._afterwards("start anew", self.start_anew)
            self._read_samples.before = reading.samples
        self._last_seconds = over_ranks(largest(reading.seconds))
        self._spent += self._last_seconds
        self.reading = values
        self._afterwards("log its values", lambda: self._publish(reading, values))

    def _publish(self, reading: Reading, values: dict[str, float]) -> None:
        """Log the reading, and keep gates from old values of what it does not have."""
        trainer, pl_module = reading.trainer, reading.model
        if reading.counts:
            self._held.hold(trainer, values)  # until they are logged
        values[self.full_key(self.own_keys()[0])] = self._last_seconds
        expected = self.logged_keys(pl_module)
        missing = [key for key in expected if key not in values]
        self._log(pl_module, self._chosen(expected, values))
        if reading.counts:
            self._held.hold(trainer, missing)
        if missing and reading.changed is None:  # else it is told what is undefined
            conditional = self.conditional_keys(pl_module)
            self._tell_undefined([key for key in missing if key not in conditional])
        if self.failed:
            self._log_failed(pl_module)

    def _keyed(self, values: Mapping[str, float]) -> dict[str, float]:
        """Values by their whole keys, without those that are undefined or reported by another callback."""
        full = {self.full_key(key): value for key, value in values.items() if not math.isnan(value)}
        return {key: value for key, value in full.items() if key not in self._elsewhere}

    def _chosen(self, expected: Sequence[str], values: Mapping[str, float], silent: bool = False) -> dict[str, float]:
        """What is logged of a reading."""
        wanted = {*expected, *self._omissions(values, silent)}
        return {key: value for key, value in values.items() if key in wanted}

    def _finish(self, pl_module: pl.LightningModule) -> None:
        """Merge ranks and compute, once a reading."""
        reading = self.now
        if reading is not None and not reading.finished:
            started = time.perf_counter()
            reading.finished = True
            reading.values = self._finished(reading)
            reading.seconds += time.perf_counter() - started

    def _finished(self, reading: Reading) -> dict[str, float] | None:
        """Every measure as a number by its whole key, or ``None`` where any rank failed.

        Ranks agree before and after each step, and all of them do, also where only some share the data: a rank that
        failed enters no exchange that its partners wait in.
        """
        values: dict[str, float] = {}
        keyed: dict[str, float] = {}
        model, samples, of = reading.model, self._read_samples, (self._name, self.read_from())
        works: list[Callable[[], None]] = [
            lambda: with_same_parameters(model, lambda: self.collect(reading)),
            lambda: samples.check_number(reading.positions, *of),
            lambda: samples.compare(reading, *of, self.kept_for_samples(), self.by_place),
            lambda: values.update(_numbers(with_same_parameters(model, lambda: self.finish(reading)))),
            lambda: check_replicas({**values, **self.shared()}, reading.trainer),
            lambda: keyed.update(self._keyed(values)),
        ]
        if not settled(reading.error, reading.group):
            return None
        for work in works:
            try:
                with torch.no_grad():
                    work()
            except Exception as error:
                reading.error = error
            if not settled(reading.error, reading.group):
                return None
        return keyed

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the reading down beside what the model logged, and draw."""
        reading, self.now = self.now, None
        log = RunLog.of(trainer)
        if reading is not None and reading.counts and reading.values is not None:
            values = reading.values
            started = time.perf_counter()
            self._afterwards("keep what it found", lambda: self.commit(reading))
            self._spent += time.perf_counter() - started
            self._afterwards("write its reading down", lambda: self._write_down(trainer, values))
            log.draw(lambda clock: clock.reading(self))
        self._afterwards("forget the reading", self.abort)
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated, self._open = self._open, None
        log.validation_ends(self, pl_module)

    def _write_down(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        context = RunLog.of(trainer).context()
        # A reading that was dropped, or lost with the process that made it, leaves a gap in the numbers.
        index = (self.validations - 1) // self.every_n_validations
        self._afterwards("describe how it reads", lambda: self._note(trainer))
        self.history.append(ReadingRow(trainer.global_step, trainer.current_epoch, index, values, context))

    def _note(self, trainer: pl.Trainer) -> None:
        mine = {f"{self._name}/{name}": value for name, value in self.settings().items()}
        self.history.note({**run_settings(trainer), **mine})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole history, write what could not be written before, and say where there is none."""
        RunLog.of(trainer).fit_ends(self, pl_module)
        for _, part in self.all_parts() if len(self.history) else ():
            show = partial(part.fit_ends, trainer, self.full_key, self.history.readings[-1].step)
            self._afterwards("show what it read last", show)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave nothing attached to the model, and nothing held."""
        self._let_go()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave nothing attached to the model, and nothing held; where a user stops the fit, draw what there is."""
        if isinstance(exception, KeyboardInterrupt):
            RunLog.of(trainer).draw(DrawingClock.interrupted)
        self._let_go()

    def _let_go(self) -> None:
        self.now = None
        self._modules = {}
        for what, work in (("let gates go on", self._held.release), ("let go of the model", self.release)):
            attempt(self._name, self._said, what, work)

    # ------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts with: arguments and readings, attached to no model and no Trainer."""
        return {**unattached(self), "_held": HeldGates(), "_modules": {}, "_read_samples": self._read_samples.copy()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`__getstate__` gave."""
        vars(self).update(state)
        self.abort()

    @property
    def state_key(self) -> str:
        """Tells instances of one class in a checkpoint apart by what they read."""
        if self._key is None:  # Lightning asks for it several times a training step
            given = self.identity()
            self._key = self._generate_state_key(**given) if given else super().state_key
        return f"{self._key} {id(self)}" if compared_by_lightning() else self._key

    def state_dict(self) -> dict[str, Any]:
        """Readings and counters, as plain numbers."""
        # Saving a checkpoint is not to fail for it.
        due = attempt(self._name, self._said, "tell whether a validation is due", self._due_here)
        return {
            "history": self.history.state_dict(),
            **{name: state for name, part in self.all_parts() if (state := part.state_dict())},
            "validations": self.validations - (self._open is not None),
            "due": self._open if self._open is not None else due,
            "rehearsed": self._rehearsed,
            "failed": self.failed,
            "samples": self._read_samples.state_dict(),
            "spent": self._spent,
            "last_seconds": self._last_seconds,
            "elapsed": self._elapsed + time.monotonic() - self._resumed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        state_dict = self.upgraded(state_dict)
        self.history.load_state_dict(state_dict["history"])
        self.validations = state_dict["validations"]
        self._due, self._open = state_dict.get("due"), None  # checkpoints of before have none
        self._rehearsed = bool(state_dict.get("rehearsed", False))
        self.failed = state_dict["failed"]
        self._read_samples.load_state_dict(state_dict.get("samples"))
        self._spent, self._last_seconds = state_dict["spent"], state_dict["last_seconds"]
        self._elapsed, self._resumed = state_dict["elapsed"], time.monotonic()
        for name, part in self.all_parts():
            if name in state_dict:
                part.load_state_dict(state_dict[name])

    def upgraded(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of an earlier version, as this one would have written it."""
        return state

    def _due_here(self) -> int | None:
        """The batch after which a validation run is due that has not begun, where one is: a restart passes over it."""
        trainer = None if self._trainer is None else self._trainer()
        if trainer is None or trainer.state.fn != "fit" or trainer.sanity_checking:
            return None
        batch: int = trainer.fit_loop.epoch_loop.total_batch_idx
        return batch if batch != self._validated and validation_due(trainer) else None

    # ------------------------------------------------- inside

    def _find_loader(self, trainer: pl.Trainer) -> SamplePositions:
        """Counts through the batches that are read; where their places are not known, that is told."""
        loader, positions = loader_positions(trainer, self._name, self.dataloader_idx, self.max_examples)
        self._read_samples.try_collate(loader, positions, self.given_by_place())
        self._check_positions(positions)
        return positions

    def _check_positions(self, positions: SamplePositions) -> None:
        self._read_samples.check_positions(positions, self._name, self.read_from(), self.given_by_place())

    def _guarded(self, work: Callable[[], None]) -> None:
        """Keep an error for the end of the reading, where ranks agree; alone, raise at once what is to be raised."""
        try:
            with torch.no_grad():
                work()
        except Exception as error:
            if self.now is not None:
                self.now.error, self.now.seen = error, None
            self.abort()
            if world_size() == 1 and self._raises():
                raise

    def _rehearses(self) -> bool:
        return self.now is not None and self.now.rehearsal

    def _raises(self) -> bool:
        return self._rehearses() or not self._rehearsed or self.on_error == "raise"

    def _give_up(self, reading: Reading) -> None:
        error = reading.error or PeerError("Another rank failed in this reading; its own log says why.")
        self.abort()
        if reading.rehearsal and isinstance(error, NotLoggedError):
            pl.utilities.rank_zero_warn(
                f"{self._name}: {error} The sanity check may have its own reasons; if the first validation does not "
                "log them either, that will be an error."
            )
            return
        if self._raises():
            raise error
        self.failed += 1
        if self.failed == 1:
            warnings.warn(
                f"{self._name} dropped a reading and goes on: {cause(error)}. Later ones are counted under "
                f"'failed/{self._name}' without a warning, and gates on its keys wait for the next one.",
                stacklevel=2,
            )
        model = reading.model
        self._afterwards(
            "tell gates of a dropped reading", lambda: self._held.hold(reading.trainer, self.logged_keys(model))
        )
        self._afterwards("log what it dropped", lambda: self._log_failed(model))

    def _log_failed(self, pl_module: nn.Module) -> None:
        self._log(pl_module, {self.full_key(self.own_keys()[1]): float(self.failed)})

    def _afterwards(self, what: str, work: Callable[[], None]) -> None:
        """Do what follows from a reading, on this rank alone; an error costs that, and a warning."""
        if self._rehearses() or self.on_error == "raise":
            work()
        else:
            attempt(self._name, self._said, what, work)

    def _tell_undefined(self, keys: list[str]) -> None:
        if keys and not self._warned_of_undefined:
            self._warned_of_undefined = True
            pl.utilities.rank_zero_warn(
                f"{self._name}: {', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''} cannot be "
                "told from this reading and are not logged at it (too few labels, positions or dimensions); gates on "
                "them wait. This is said once."
            )

    def _omissions(self, values: Mapping[str, float], silent: bool) -> list[str]:
        """Counts of what was left out, which are logged at every level once there is something to count."""
        found = [key for key, value in values.items() if value and key.startswith(f"{self.prefix}nonfinite/")]
        if found and not silent and not self._warned_of_omissions:
            self._warned_of_omissions = True
            pl.utilities.rank_zero_warn(f"{self._name} left out vectors that are not finite: see {found}.")
        return found

    def _log(self, pl_module: nn.Module, values: Mapping[str, float]) -> None:
        assert isinstance(pl_module, pl.LightningModule)
        # Merged already: every rank logs the same value, and Lightning must not average it.
        pl_module.log_dict(
            dict(values), on_step=False, on_epoch=True, sync_dist=False, batch_size=1, add_dataloader_idx=False
        )

    def drawable(self, final: bool) -> Sequence[Picture]:
        """What there is to draw of the newest reading, for the clock by which all callbacks draw."""
        if not self.draw_figures or not len(self.history):
            return []
        started = time.monotonic()
        try:
            drawings = self.figures()
        except Exception as error:
            self.draw_figures = False
            warnings.warn(
                f"{self._name} draws no figures, since listing them failed: {type(error).__name__}: {error}",
                stacklevel=2,
            )
            return []
        self._spent += time.monotonic() - started
        step = self.history.readings[-1].step
        return [Picture(tag, step, partial(self._show, tag, draw, step)) for tag, draw in drawings.items()]

    def _show(self, tag: str, draw: Draw, step: int) -> None:
        trainer = None if self._trainer is None else self._trainer()
        reporter = None if trainer is None else RunLog.of(trainer).reporter
        if reporter is not None and trainer is not None:
            started = time.monotonic()
            reporter.figure(trainer, self.full_key(tag), draw, step)
            self._spent += time.monotonic() - started


def _numbers(found: Mapping[str, Tensor | float]) -> dict[str, float]:
    return {key: _number(key, value) for key, value in found.items()}


def _number(key: str, value: Tensor | float) -> float:
    """What a reading gives under a key.

    Raises:
        ValueError: If it is not one number.

    """
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise ValueError(
            f"{key!r} is {shape}, and a reading has one number under a key: give one, or a mapping of names to numbers."
        ) from error
