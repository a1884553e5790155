"""Which phase of training a run is in, and since when."""

from __future__ import annotations

import difflib
import math
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from lightning_interp.callbacks._overview import overview
from lightning_interp.compat import check_trainer, pl
from lightning_interp.decisions import (
    TEMPLATES,
    Curve,
    PhaseReading,
    PhaseState,
    PhaseTracker,
    describe,
    judge,
    lag,
    plateau,
    slowed,
)
from lightning_interp.functional.knees import KneeFit, fit_knees
from lightning_interp.metrics.measure import FULL, SUMMARY, keys_of
from lightning_interp.metrics.measures.noise import ROBUSTNESS
from lightning_interp.metrics.measures.phases import PHASES
from lightning_interp.reading.analyses import analyses
from lightning_interp.reading.directions import known_directions, told_mode
from lightning_interp.reading.drawing_clock import DrawingClock, Picture
from lightning_interp.reading.gate_checks import explain_missing, known_keys
from lightning_interp.reading.loader_names import loader_names
from lightning_interp.reading.newly_logged import find
from lightning_interp.reading.page import Source
from lightning_interp.reading.run_log import Columns, RunLog
from lightning_interp.reading.unattached import unattached
from lightning_interp.reading.val_loop import why_no_validation
from lightning_interp.reporting.attempt import attempt
from lightning_interp.reporting.measure_words import ParsedKey, chart_title, describe_key, display_name, parse_key

__all__ = ["TrainingPhases"]

_MODES = ("min", "max")
_MOST = 120  # readings in a fit


class TrainingPhases(pl.Callback):
    r"""Finds the phases of training in the curves that are logged, while they are logged.

    It works from any key that a validation run logs: the model's own, and those of the analyses here. After each
    validation it fits straight segments to every curve over log10(step)
    (:func:`lightning_interp.functional.knees.fit_knees`), and a template says what they mean:

    - ``"two_phase"``: the second phase begins at the knee where the loss reaches its plateau, if something else still
      improves after it and the loss does not explain it, by default robustness to noise. Where nothing does, there is
      no second phase, and :attr:`conclusion` says so. What a plateau and an improvement are:
      :func:`lightning_interp.decisions.plateau` and :func:`~lightning_interp.decisions.improvement`.
    - ``"three_phase"``: the key ``follow`` falls, rises and falls again, as ranks of representations were found to do
      in the pretraining of language models (arXiv 2509.23024).
    - ``"change"``: the key ``follow`` changes in one piece of its course more than in all others together, as when
      induction heads form (Olsson et al. 2022): ``follow="prefix_matching/max"`` of
      :class:`~lightning_interp.callbacks.InductionHeads`. The second phase is that piece, the third what comes after.
    - ``"none"``: each knee of the loss begins a phase.

    A phase is known in two steps. It is *provisional* once two readings in a row point to it: the loss falls at less
    than a quarter of its steepest rate (:func:`lightning_interp.decisions.slowed`) while something else improves. It is
    *confirmed*, and gates act on it, once ``confirm`` readings in a row have shown its boundary at the same place, the
    loss on its plateau. In the main job (``examples/two_phases.py``) the first is some five readings after the phase
    began and the second some eleven; of 1,400 simulated runs without a second phase .5 % were given a provisional one
    at any of their readings, .1 % a confirmed one (``benchmarks/knees.py``). Each verdict is said once, on the console
    and in the logger's text, and stands in the column ``phase/reason`` of ``readings.csv``.

    Validate at equal distances on a logarithmic axis (:class:`~lightning_interp.callbacks.ValidationSchedule`): at
    equal distances in steps, all but a few readings would lie in the last phase. A phase that was confirmed stays,
    since gates have acted on it, even where later readings no longer show it; then ``phase/fits`` is 0.

    Only what a validation logged anew is taken in, so a key that is read at every third one has a third of the
    readings. Of two validations at one step the last counts. Values that are not finite are left out, and so is a
    validation before the first optimizer step. Every rank takes the values of rank 0 and holds the same phase. The
    sanity check, ``Trainer.validate`` and ``test`` change nothing.

    Keys logged, after every validation, in ``on_validation_end``: gates that act there and come earlier in
    ``Trainer(callbacks=...)`` see those of the validation before, except
    :class:`~lightning_interp.callbacks.PhaseEarlyStopping`. Loggers are shown those of level ``"full"`` with
    ``log="full"`` only; gates see them all.

    =======================  =======  ==================================================================================
    key                      level    what it is
    =======================  =======  ==================================================================================
    ``phase/current``        summary  the confirmed phase, from 1; 0 where nothing improves on the plateau of the loss
    ``phase/provisional``    summary  the phase that the readings point to; where to no other, the confirmed one
    ``phase/fits``           full     1 while the readings agree with the template, else 0
    ``phase/boundary_step``  full     the step at which the phase began; not before the second phase
    ``phase/lag/<key>``      full     how much later a key bends than the phase begins, in decades of steps
    =======================  =======  ==================================================================================

    The figure ``phases/overview`` shows the curves with phases and knees. TensorBoard has a chart of each curve
    (its tab "Custom Scalars").

    Args:
        loss: The key whose plateau ends the first phase; a score with ``mode="max"`` will do. A key of several
            validation loaders (``val_loss/dataloader_idx_0``) is found by its plain name as well.
        mode: ``"min"`` or ``"max"``: which way the loss improves.
        scale: On which scale the loss has its plateau: ``"linear"``, or ``"log"``, its logarithm, where training goes
            on until the loss no longer falls by factors. Of a score only ``"linear"`` is plain.
        improving: The keys that may improve after the plateau, with ``"max"`` or ``"min"``; a list will do where all of
            them are keys of this library that say which way is better. By default every ``robustness/…`` key. These
            begin late, and are compared with what the loss does from there: name a score on other data as well where
            there is one. In the main job robustness alone is enough in two of five runs.
        keys: More keys to follow: their knees, lags and curves.
        template: ``"two_phase"``, ``"three_phase"``, ``"change"`` or ``"none"``.
        follow: The key whose shape ``"three_phase"`` describes, such as ``"effective_rank/encoder"``, or ``"change"``.
        follow_mode: ``"max"`` where ``"change"`` means that it rises, ``"min"`` where it falls.
        least: How far it must go to count as a change, in its own unit: .25 of ``prefix_matching/max``, for example.
        names: Names of the phases, for the figure and :attr:`conclusion`.
        confirm: Consecutive readings that must show a boundary.
        max_knees: The most knees of one curve.
        level: The share of runs without a second phase that may be given one at any of their readings; the level of
            each test for knees. One minus it is the confidence of intervals.
        min_readings: Readings of a key before segments are fitted to it, at least 6.
        strict: Whether it is an error that the first validation does not log a key; ``False`` for keys of the model's
            own that come later, and then a warning.
        prefix: Put before every key; tells two of these callbacks in one Trainer apart.
        log: ``"summary"`` shows loggers what a person watches, ``"full"`` all keys.
        write_csv: Have the phases in ``readings.csv``, beside the readings of the other callbacks.
        draw_figures: Draw the figure: at once where a phase is found, at the end of the fit and where a user interrupts
            it, and while it runs soon after a reading, as far as 1.5 % of the run's time go for the figures of all
            callbacks. While it runs, knees are marked as far as they were needed for the phase; in the last one all
            are, with their intervals.
        figure_interval: The fewest seconds between two drawings while training runs.

    Raises:
        ValueError: If an argument is out of range; after the first validation if a key is logged by nobody, with a list
            of those that are.

    Cost:
        A fit for each curve with a new value: 50 ms for 30 readings, 0.1 s for 100 (one slow core). Of more than 120
        readings, 120 at equal distances on the logarithmic axis are fitted, so that it stays there. Before the plateau
        only the loss is fitted, after it what may improve, and once a phase is confirmed all keys. Beside it one small
        broadcast a validation.

    Example:
        >>> phases = TrainingPhases(loss="val_loss", improving={"val_ood_acc": "max"})
        >>> phases.logged_keys()
        ['phase/current', 'phase/provisional']
        >>> phases.conclusion
        'phase one goes on: no reading yet'

    """

    is_decision = True
    attached = ("_trainer",)
    draws_first = True

    def __init__(
        self,
        loss: str = "val_loss",
        mode: str = "min",
        scale: str = "linear",
        improving: Mapping[str, str] | Sequence[str] | None = None,
        keys: Sequence[str] = (),
        template: str = "two_phase",
        follow: str | None = None,
        follow_mode: str = "max",
        least: float = 0.0,
        names: Sequence[str] | None = None,
        confirm: int = 3,
        max_knees: int = 3,
        level: float = 0.05,
        min_readings: int = 8,
        strict: bool = True,
        prefix: str = "",
        log: str = SUMMARY,
        write_csv: bool = True,
        draw_figures: bool = True,
        figure_interval: float = 0.0,
    ) -> None:
        super().__init__()
        if template not in TEMPLATES:
            raise ValueError(f"`template` must be one of {list(TEMPLATES)}, got {template!r}.")
        if mode not in _MODES:
            raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}.")
        if scale not in ("linear", "log"):
            raise ValueError(f"`scale` must be 'linear' or 'log', got {scale!r}.")
        if log not in (SUMMARY, FULL):
            raise ValueError(f"`log` must be 'summary' or 'full', got {log!r}.")
        if isinstance(improving, str):
            raise ValueError(f"`improving` must be a mapping or a list of keys, got the string {improving!r}.")
        given = improving if isinstance(improving, Mapping) else {}
        wrong = {key: mode for key, mode in given.items() if mode not in _MODES}
        if wrong:
            raise ValueError(f"`improving` must give 'min' or 'max' for each key, got {wrong}.")
        if improving is not None and not improving and template == "two_phase":
            raise ValueError("`improving` is empty: name what may improve after the plateau, or leave it out.")
        if isinstance(keys, str):
            raise ValueError(f"`keys` must be a list of keys, got the string {keys!r}.")
        if (follow is not None) != (template in ("three_phase", "change")):
            raise ValueError(
                f"`follow` is the key that the templates 'three_phase' and 'change' describe, and goes with them; got "
                f"template={template!r}, follow={follow!r}."
            )
        if follow_mode not in _MODES:
            raise ValueError(f"`follow_mode` must be 'min' or 'max', got {follow_mode!r}.")
        if not least >= 0:
            raise ValueError(f"`least` must be at least 0, got {least}.")
        if confirm < 1:
            raise ValueError(f"`confirm` must be at least 1, got {confirm}.")
        fewest = 2 if template in ("three_phase", "change") else 1
        if not fewest <= max_knees <= 3:
            raise ValueError(f"`max_knees` must be between {fewest} and 3 for this template, got {max_knees}.")
        if not 0 < level < 1:
            raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
        if min_readings < 6:
            raise ValueError(f"`min_readings` must be at least 6, got {min_readings}.")
        default = TEMPLATES[template] or tuple(f"segment {index + 1}" for index in range(max_knees + 1))
        if names is not None and (isinstance(names, str) or len(names) != len(default)):
            raise ValueError(f"`names` must be a list of {len(default)} names for the template, got {names!r}.")
        self.loss = loss
        self.mode = mode
        self.scale = scale
        self.improving: dict[str, str] | list[str] | None = None
        if improving is not None:
            self.improving = dict(improving) if isinstance(improving, Mapping) else list(improving)
        self.keys = tuple(keys)
        self.template = template
        self.follow = follow
        self.follow_mode = follow_mode
        self.least = least
        self.names = tuple(default if names is None else names)
        self.confirm = confirm
        self.max_knees = max_knees
        self.level = level
        self.min_readings = min_readings
        self.strict = strict
        self.prefix = prefix
        self.log_level = log  # Lightning puts its own `log` on every callback
        self.write_csv = write_csv
        self.draw_figures = draw_figures
        self.figure_interval = figure_interval

        self.fresh: dict[str, float] = {}
        """What the newest validation logged, as rank 0 has it."""
        self._trainer: weakref.ref[Any] | None = None
        self._warned: set[str] = set()
        self._off = False
        self._news = False
        self._forget()

    def _forget(self) -> None:
        improving = self.improving
        # Which way the keys of a list improve is known with the other callbacks.
        self._improving = dict.fromkeys(improving, "") if isinstance(improving, list) else improving
        self._series: dict[str, tuple[list[int], list[float]]] = {}
        self._fits: dict[tuple[str, bool], tuple[int, KneeFit]] = {}
        self._columns: dict[int, dict[str, float | str]] = {}
        self._versions: dict[str, int] = {}
        self._tracker = PhaseTracker(self.confirm)
        self._checked = False
        self._pending = False
        self._said: set[str] = set()

    # ------------------------------------------------- what it found

    @property
    def standing(self) -> PhaseState:
        """The phase, its boundaries, whether the template fits, and why."""
        return self._tracker.standing

    @property
    def current(self) -> int:
        """The confirmed phase as phases are named, from 1; 0 where there is no second phase."""
        return self.standing.number

    @property
    def provisional(self) -> int:
        """The phase that the readings point to, counted alike; :attr:`current` where they point to no other."""
        return self.standing.pointed_to

    def columns(self) -> Columns:
        """What stands in ``readings.csv`` of each validation: its phases and why, and the values that they are from."""
        return self._columns

    @property
    def conclusion(self) -> str:
        """Where the run stands, in a sentence."""
        return describe(self.standing, self.names, self.level)

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps and values of a followed key."""
        steps, values = self._series.get(key, ([], []))
        return list(steps), list(values)

    def fit(self, key: str, intervals: bool = False) -> KneeFit | None:
        """The segments of a followed key, or ``None`` where it has fewer than ``min_readings``.

        Args:
            key: The key, as it was given.
            intervals: With confidence intervals of the knees, which cost a bootstrap.

        """
        track = self._positive(key)
        if len(track.steps) < self.min_readings:
            return None
        version = self._versions[key]
        for wanted in (True, False) if not intervals else (True,):
            if (key, wanted) in self._fits and self._fits[key, wanted][0] == version:
                return self._fits[key, wanted][1]
        x = np.log10(np.array(track.steps, dtype=np.float64))
        found = fit_knees(
            x,
            np.array(track.values),
            max_knees=self.max_knees,
            level=self.level,
            replicates=max(199, math.ceil(2 / self.level)),
            intervals=intervals,
        )
        self._fits[key, intervals] = version, found
        return found

    def followed(self) -> list[str]:
        """Every key that is followed."""
        follow = [] if self.follow is None else [self.follow]
        return list(dict.fromkeys([self.loss, *follow, *(self._improving or {}), *self.keys]))

    def logged_keys(self, model: nn.Module | None = None) -> list[str]:
        """The keys that loggers are shown under the present ``log`` level; they are the same for every model."""
        return [key for key, level in self.measures(model).items() if self.log_level == FULL or level == SUMMARY]

    def known_keys(self) -> list[str]:
        """All keys, which gates can watch whatever the ``log`` level, those included that are undefined at first."""
        return list(self.measures())

    def measures(self, model: nn.Module | None = None) -> dict[str, str]:
        """Every key with its level."""
        others = [key for key in self.followed() if key != self._deciding]
        return {f"{self.prefix}{key}": level for key, level in keys_of(PHASES, {"key": others}).items()}

    def _full_key(self, name: str) -> str:
        return f"{self.prefix}phase/{name}"

    def page_source(self, model: nn.Module, loaders: Sequence[str] | None = None) -> Source:
        """What it has on TensorBoard's page "Custom Scalars": a chart for each curve that it follows."""
        logged = self.logged_keys(model)
        charts = {chart_title(key, self.prefix): [key] for key in logged[:2]}
        charts |= {display_name(key, loaders): [key] for key in self.followed()}
        return Source(f"{type(self).__name__}_{self.prefix}", self.prefix, charts, logged)

    # ------------------------------------------------- life in a Trainer

    @property
    def state_key(self) -> str:
        """Tells several of these callbacks in one Trainer apart."""
        return self._generate_state_key(prefix=self.prefix, loss=self.loss, template=self.template, follow=self.follow)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """A new Trainer starts anew."""
        check_trainer(self, trainer)
        if stage == "fit" and (self._trainer is None or self._trainer() is not trainer):
            self._forget()
            self._trainer = weakref.ref(trainer)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find what may improve, and check that no other callback logs the same keys."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        twins = [one for one in callbacks if isinstance(one, TrainingPhases) and one.prefix == self.prefix]
        if len(twins) > 1:
            raise ValueError("Two TrainingPhases would log the same keys: give one of them another `prefix`.")
        log = RunLog.of(trainer)
        log.joins(self)
        self._off = bool(trainer.barebones)
        if self._off:
            pl.utilities.rank_zero_warn("TrainingPhases does nothing: Trainer(barebones=True) drops logged values.")
            return
        if isinstance(self.improving, list):
            self._improving = _told(self.improving, trainer, pl_module)
        elif self.template == "two_phase" and not self._improving:
            self._improving = _robustness_keys(trainer, pl_module) or None
        if log.reporter is not None:
            log.reporter.describe(trainer, {key: describe_key(key, self.prefix) for key in self.logged_keys()})

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where there will be nothing to tell phases from; only now does Lightning know of it."""
        RunLog.of(trainer).training_starts(self, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember what is there before this validation logs anything."""
        RunLog.of(trainer).validation_starts(self)
        self._pending = trainer.state.fn == "fit" and not self._off and not trainer.sanity_checking

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take in the validation, and draw."""
        log = RunLog.of(trainer)
        if trainer.state.fn == "fit" and not self._off:
            if trainer.sanity_checking:
                self._rehearse(trainer, pl_module)
            else:
                self.process(trainer, pl_module)
                tell, self._news = (DrawingClock.at_once if self._news else DrawingClock.reading), False
                log.draw(lambda clock: tell(clock, self))
        log.validation_ends(self, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the whole run and say where it stands."""
        RunLog.of(trainer).fit_ends(self, pl_module)
        if self._series:
            pl.utilities.rank_zero_info(f"TrainingPhases: {self.conclusion}.")
        elif not self._off and not why_no_validation(trainer, pl_module):
            pl.utilities.rank_zero_warn(f"TrainingPhases: the fit ended without a validation that logs {self.loss!r}.")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw what is due: training goes on, so it is not drawn again at once."""
        RunLog.of(trainer).draw(DrawingClock.tick)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Where a user stops the fit, draw what there is."""
        if isinstance(exception, KeyboardInterrupt):
            RunLog.of(trainer).draw(DrawingClock.interrupted)

    def process(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> PhaseState:
        """Take in what this validation logged, unless that was done already. All ranks must call it.

        A gate that needs the phase of this very validation calls it in its own ``on_validation_end``, so that the order
        of callbacks does not matter.
        """
        if not self._pending:
            return self.standing
        self._pending = False
        # What a user logged without sync_dist differs between ranks; all of them decide from the values of one.
        self.fresh = trainer.strategy.broadcast(RunLog.of(trainer).fresh.read(trainer))
        if not self._checked:
            self._check_keys(trainer, pl_module)
        step = trainer.global_step
        for key in self.followed():
            value = find(self.fresh, key)
            if value is not None and math.isfinite(value):
                self._take(key, step, value)
        before = self.standing
        if step > 0 and self._series.get(self._deciding, ([], []))[0][-1:] == [step]:
            self._attempt("tell the phase", lambda: self._tracker.update(step, self._judge()))
        self._attempt("log the phase", lambda: self._log(trainer))
        self._attempt("say what phase it is", lambda: self._announce(trainer, before))
        return self.standing

    def _attempt(self, what: str, work: Callable[[], object]) -> None:
        attempt(type(self).__name__, self._said, what, work)

    # ------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts with: attached to no Trainer."""
        return unattached(self)

    def state_dict(self) -> dict[str, Any]:
        """The curves and the phase, as plain numbers and words."""
        return {
            "series": {key: [list(steps), list(values)] for key, (steps, values) in self._series.items()},
            "tracker": self._tracker.state_dict(),
            "columns": {step: dict(cells) for step, cells in self._columns.items()},
            "improving": self._improving,
            "checked": self._checked,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._series = {key: (list(steps), list(values)) for key, (steps, values) in state_dict["series"].items()}
        self._versions = dict.fromkeys(self._series, 0)
        self._fits = {}
        self._columns = {int(step): dict(cells) for step, cells in state_dict.get("columns", {}).items()}
        self._tracker.load_state_dict(state_dict["tracker"])
        if self.improving is None:
            self._improving = state_dict["improving"]
        self._checked = state_dict["checked"]

    # ------------------------------------------------- inside

    @property
    def _deciding(self) -> str:
        """The key whose knees are the boundaries."""
        return self.loss if self.follow is None else self.follow

    def _check_keys(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.template == "two_phase" and not self._improving:
            self._improving = {key: "max" for key in self.fresh if _is_robustness(parse_key(key))} or None
            if self._improving is None:
                raise ValueError(
                    "TrainingPhases: nothing is named that may improve after the plateau, and nobody logs a "
                    "'robustness/…' key. Add NoiseRobustness to the Trainer, or give `improving={<key>: 'max'}`; "
                    f"available: {sorted(self.fresh)}."
                )
        for key in self._unknown(self.fresh, trainer, pl_module):
            text = f"TrainingPhases follows {explain_missing(trainer, pl_module, key, self.fresh)}"
            if key in trainer.callback_metrics:
                text += " It is logged in training only, and phases are told from what a validation logs."
            if self.strict:
                raise ValueError(text)
            pl.utilities.rank_zero_warn(text)
        self._checked = True

    def _unknown(self, fresh: Mapping[str, float], trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[str]:
        known = dict.fromkeys([*fresh, *known_keys(trainer, pl_module)], True)
        return [key for key in self.followed() if not find(known, key)]

    def _rehearse(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A model may have reasons to log nothing in the sanity check, so a missing key is no error yet."""
        if len(trainer.num_sanity_val_batches) > 1:
            return  # of several loaders Lightning shows nothing that the model logs in the sanity check
        fresh = RunLog.of(trainer).fresh.read(trainer)
        unknown = self._unknown(fresh, trainer, pl_module) if fresh else []
        if unknown:
            pl.utilities.rank_zero_warn(
                f"TrainingPhases: the sanity check did not log {unknown}; if the first validation does not either, "
                "that will be an error."
            )

    def _take(self, key: str, step: int, value: float) -> None:
        steps, values = self._series.setdefault(key, ([], []))
        while steps and steps[-1] >= step:
            steps.pop()
            values.pop()
        steps.append(step)
        values.append(value)
        self._versions[key] = self._versions.get(key, 0) + 1

    def _positive(self, key: str, mode: str = "max", fit: KneeFit | None = None) -> Curve:
        steps, values = self._series.get(key, ([], []))
        first = next((index for index, step in enumerate(steps) if step > 0), len(steps))
        steps, values = steps[first:], values[first:]
        if key == self.loss and self.scale == "log":
            told = [index for index, value in enumerate(values) if value > 0]
            steps, values = [steps[index] for index in told], [math.log10(values[index]) for index in told]
        chosen = _spread(steps)
        return Curve([steps[at] for at in chosen], [values[at] for at in chosen], mode, fit)

    def _judge(self) -> PhaseReading:
        loss = self._positive(self.loss, self.mode, self.fit(self.loss, intervals=True))
        if self.follow is not None:
            follow = self._positive(self.follow, self.follow_mode, self.fit(self.follow, intervals=True))
            told = (self.follow, follow)
            return judge(self.template, (self.loss, loss), follow=told, level=self.level, least=self.least)
        improving: dict[str, Curve] = {}
        if slowed(loss) is not None or plateau(loss, self.level) is not None:  # before, nobody asks for these fits
            improving = {key: self._positive(key, mode, self.fit(key)) for key, mode in (self._improving or {}).items()}
        return judge(self.template, (self.loss, loss), improving, level=self.level)

    def _log(self, trainer: pl.Trainer) -> None:
        standing = self.standing
        found = {
            "current": float(standing.number),
            "provisional": float(standing.pointed_to),
            "fits": float(standing.fits),
        }
        if standing.boundaries:
            at = standing.boundaries[-1].step
            found["boundary_step"] = at
            for key in self.followed():
                behind = None if key == self._deciding else lag(self._positive(key, fit=self.fit(key)), at)
                if behind is not None:
                    found[f"lag/{key}"] = behind
        values = {self._full_key(name): value for name, value in found.items()}
        followed = {
            key: values[-1] for key, (steps, values) in self._series.items() if steps[-1] == trainer.global_step
        }
        row = {"epoch": float(trainer.current_epoch), **followed, **values}
        self._columns[trainer.global_step] = {**row, self._full_key("reason"): self.conclusion}
        # Lightning's own `log` is refused in this hook, the first where every value of the validation is there.
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in values.items()})
        step = trainer.fit_loop.epoch_loop._batches_that_stepped
        logged = self.logged_keys()
        shown = {key: value for key, value in values.items() if key in logged}
        for logger in trainer.loggers:
            try:
                logger.log_metrics(shown, step)
            except Exception as error:
                self._warn_once(
                    type(logger).__name__, f"did not take the phase ({type(error).__name__}: {error}); training goes on"
                )

    def _announce(self, trainer: pl.Trainer, before: PhaseState) -> None:
        """Say a verdict when it is made, and no other time."""
        now = self.standing
        if _verdict(now) == _verdict(before):
            return
        self._news = True
        text = f"step {trainer.global_step}: {self.conclusion}."
        if before.provisional is not None and now.provisional is None and now.index == before.index:
            text = f"step {trainer.global_step}: the next phase is no longer in sight. {self.conclusion}."
        pl.utilities.rank_zero_info(f"TrainingPhases, {text}")
        self.tell(trainer, "verdict", text)

    def tell(self, trainer: pl.Trainer, what: str, text: str | None) -> None:
        """Show loggers a sentence about phases, under ``phases/<what>``."""
        reporter = RunLog.of(trainer).reporter
        if reporter is not None and text is not None:
            reporter.text(trainer, f"{self.prefix}phases/{what}", text)

    def _warn_once(self, name: str, text: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            warnings.warn(f"TrainingPhases: {name} {text}. This is said once.", RuntimeWarning, stacklevel=2)

    def drawable(self, final: bool) -> Sequence[Picture]:
        """What there is to draw of the newest validation, for the clock by which all callbacks draw."""
        trainer = None if self._trainer is None else self._trainer()
        if not self.draw_figures or trainer is None or not self._series:
            return []
        step = trainer.global_step if final else max(steps[-1] for steps, _ in self._series.values())
        return [Picture("overview", step, partial(self._show, step, final))]

    def _show(self, step: int, final: bool) -> None:
        trainer = None if self._trainer is None else self._trainer()
        reporter = None if trainer is None else RunLog.of(trainer).reporter
        if reporter is not None and trainer is not None:
            tag = f"{self.prefix}phases/overview"
            reporter.figure(trainer, tag, lambda: self._overview(trainer, final), step)

    def _newest_fit(self, key: str) -> KneeFit | None:
        """The segments that were fitted last, since new ones take longer than the picture."""
        made = [self._fits[key, intervals] for intervals in (False, True) if (key, intervals) in self._fits]
        return max(made, key=lambda one: one[0])[1] if made else None

    def _overview(self, trainer: pl.Trainer, final: bool) -> Figure:
        keys = [key for key in self.followed() if key in self._series]
        return overview(
            {key: self.series(key) for key in keys},
            {key: self.fit(key, intervals=True) if final else self._newest_fit(key) for key in keys},
            self.standing,
            self.names,
            self.loss,
            self.conclusion,
            loader_names(trainer.lightning_module, trainer.datamodule),  # type: ignore[attr-defined]
        )


def _verdict(standing: PhaseState) -> tuple[int, bool, bool]:
    """What of a standing is said when it changes."""
    return standing.index, standing.provisional is not None, standing.over


def _spread(steps: Sequence[int]) -> list[int]:
    """Places of at most ``_MOST`` steps, spread evenly over their logarithm; the first and the last among them."""
    if len(steps) <= _MOST:
        return list(range(len(steps)))
    at = np.log10(np.array(steps, dtype=np.float64))
    return sorted({int(np.abs(at - wanted).argmin()) for wanted in np.linspace(at[0], at[-1], _MOST)})


def _robustness_keys(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
    known = known_directions(trainer, pl_module)
    logged = {key for callback in analyses(trainer) for key in callback.logged_keys(pl_module)}
    return {
        key: told.mode
        for key, told in known.items()
        if key in logged and told.measure.name == ROBUSTNESS.name and not told.measure.derived and told.mode
    }


def _is_robustness(key: ParsedKey | None) -> bool:
    return key is not None and not key.prefix and key.measure == ROBUSTNESS.name and not key.derived


def _told(keys: Sequence[str], trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, str]:
    """Which way each of these keys improves.

    Raises:
        ValueError: If one of them is no key of ours, or neither way is better of it.

    """
    known = known_directions(trainer, pl_module)
    advice = "give `improving` as a mapping from each key to 'min' or 'max'"
    found = {key: told_mode(key, known, "TrainingPhases is to see improve", advice) for key in keys}
    others = [key for key, mode in found.items() if mode is None]
    if others:
        nearest = [near for key in others for near in difflib.get_close_matches(key, known, n=3, cutoff=0.6)]
        near = f" Nearest keys that do: {', '.join(map(repr, nearest))}." if nearest else ""
        raise ValueError(
            f"TrainingPhases: `improving` lists {others}, which no callback of this library logs, so that nobody says "
            f"which way is better: {advice}.{near}"
        )
    return {key: mode for key, mode in found.items() if mode is not None}
