"""Early stopping that begins to count when a phase of training has begun."""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

from torch import nn

from lightning_interp.callbacks.training_phases import TrainingPhases
from lightning_interp.compat import check_trainer, pl
from lightning_interp.decisions import PatienceRule, PhaseState
from lightning_interp.reading.directions import known_directions, told_mode
from lightning_interp.reading.gate_checks import explain_missing, known_keys
from lightning_interp.reading.newly_logged import find
from lightning_interp.reading.run_log import Columns, RunLog
from lightning_interp.reading.unattached import unattached
from lightning_interp.reporting.attempt import attempt

__all__ = ["PhaseEarlyStopping"]

_DELTAS = ("absolute", "relative", "se")
_IF_NONE = {
    "go on": "training goes on, and the gate waits whether it comes after all",
    "plateau": "the count starts now",
    "stop": "the gate stops",
}


class PhaseEarlyStopping(pl.Callback):
    r"""Stops when a value no longer improves, counted from the beginning of a phase on.

    A plain ``EarlyStopping`` on a loss ends a run at the loss's plateau, before what happens after it. This one starts
    to count when :class:`~lightning_interp.callbacks.TrainingPhases`, which must be in the same Trainer, has confirmed
    the phase; the best value is the best since then. It differs from ``EarlyStopping`` in more:

    - It counts fresh readings only. A key that is read at every third validation, or is undefined at some
      (``robustness/…``), counts at the validations that logged it.
    - It decides in ``on_validation_end`` from all values of that validation, wherever it stands in
      ``Trainer(callbacks=...)``.
    - All ranks decide from the values of rank 0.
    - What counts as an improvement may be measured in standard errors.
    - Where ``TrainingPhases`` finds that there is no such phase (the loss is on its plateau and nothing improves), it
      says so once and does what ``if_none`` tells.

    As for ``EarlyStopping``, the Trainer stops no sooner than its ``min_steps`` and ``min_epochs``, and there is no
    stopping under ``fast_dev_run``. Why it stopped is in :attr:`stopping_reason`, on the console, in the logger's text
    and in the column ``stop/reason`` of ``readings.csv``. It logs no keys.

    Args:
        monitor: The key to watch.
        mode: ``"max"`` or ``"min"``. It need not be given for a key of this library that says which way is better; of a
            metric of the model's under noise that is the way that ``monitors`` of ``NoiseRobustness`` says. For other
            keys it is ``"max"`` by default.
        patience: Fresh readings without improvement before it stops.
        patience_steps: Optimizer steps without improvement instead of readings, for validations at logarithmic
            distances; it stops at the first fresh reading that is so far from the best one.
        min_delta: A reading improves if it is better than the best by more than this.
        delta: The unit of ``min_delta``: ``"absolute"``, ``"relative"`` to the best value, or ``"se"``, standard errors
            of a reading: the key ``<monitor>/se`` where the same validation logs it, else the standard deviation of the
            readings around the segments that ``TrainingPhases`` fits to them. A reading without either counts for
            nothing.
        phase: The phase whose beginning starts the count, as phases are named: 2 for phase two. With 1 it counts from
            the first reading on.
        if_none: What to do where there is no such phase: ``"go on"`` with the training and wait whether it comes after
            all, ``"plateau"``, start the count as if it had begun, or ``"stop"``.
        phases: The ``prefix`` of the ``TrainingPhases`` to ask, where there are several.
        check_finite: Stop at a value that is not finite, once the phase has begun; else such a value is no reading.
        strict: Whether it is an error that the first validation logs no ``monitor``; ``False`` for a key of the model's
            own that comes later, and then a warning.
        verbose: Say what improved, and when the count starts.
        write_csv: Have the reason of the stop in ``readings.csv``.

    Raises:
        ValueError: If an argument is out of range or the Trainer has no such ``TrainingPhases``; as the fit starts if
            ``mode`` is not given for a key of this library of which neither way is better; after the first
            validation if nobody logs ``monitor``, with a list of what is logged, or if ``delta="se"`` has no source.

    Cost:
        Beside that of ``TrainingPhases`` one reduction of a flag over ranks a validation.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> from lightning_interp import PhaseEarlyStopping, TrainingPhases
        >>> trainer = Trainer(
        ...     callbacks=[
        ...         TrainingPhases(loss="val_loss", improving={"val_ood_acc": "max"}),
        ...         PhaseEarlyStopping(monitor="val_ood_acc", patience=5),
        ...     ],
        ...     logger=False,
        ...     enable_checkpointing=False,
        ... )

    """

    is_decision = True
    attached = ("_trainer",)

    def __init__(
        self,
        monitor: str,
        mode: str | None = None,
        patience: int = 5,
        patience_steps: int | None = None,
        min_delta: float = 0.0,
        delta: str = "absolute",
        phase: int = 2,
        if_none: str = "go on",
        phases: str = "",
        check_finite: bool = True,
        strict: bool = True,
        verbose: bool = False,
        write_csv: bool = True,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max", None):
            raise ValueError(f"`mode` must be 'min' or 'max', got {mode!r}.")
        if patience < 1:
            raise ValueError(f"`patience` must be at least 1, got {patience}.")
        if patience_steps is not None and patience_steps < 1:
            raise ValueError(f"`patience_steps` must be at least 1, or None to count readings, got {patience_steps}.")
        if not (math.isfinite(min_delta) and min_delta >= 0):
            raise ValueError(f"`min_delta` must be 0 or more, got {min_delta}.")
        if delta not in _DELTAS:
            raise ValueError(f"`delta` must be one of {_DELTAS}, got {delta!r}.")
        if delta == "se" and min_delta == 0:
            raise ValueError("delta='se' measures `min_delta` in standard errors; 0 of them ask for nothing. Try 1.0.")
        if phase < 1:
            raise ValueError(f"`phase` must be at least 1, for phase one, got {phase}.")
        if if_none not in _IF_NONE:
            raise ValueError(f"`if_none` must be one of {list(_IF_NONE)}, got {if_none!r}.")
        self.monitor = monitor
        self.mode = mode
        self.patience = patience
        self.patience_steps = patience_steps
        self.min_delta = min_delta
        self.delta = delta
        self.phase = phase
        self.if_none = if_none
        self.phases = phases
        self.check_finite = check_finite
        self.strict = strict
        self.verbose = verbose
        self.write_csv = write_csv

        self.stopping_reason: str | None = None
        """Why it stopped, in words; ``None`` where it did not."""
        self.stopped_step: int | None = None
        self._rule = self._new_rule()
        self._none = False
        self._checked = False
        self._said: set[str] = set()
        self._pending = False
        self._trainer: weakref.ref[Any] | None = None

    def _new_rule(self) -> PatienceRule:
        return PatienceRule(self.mode or "max", self.patience, self.patience_steps, self.min_delta, self.delta)

    @property
    def best_value(self) -> float | None:
        """The best value since the phase began."""
        return self._rule.best_value

    @property
    def best_step(self) -> int | None:
        """The optimizer step of the best value."""
        return self._rule.best_step

    def logged_keys(self, model: nn.Module | None = None) -> list[str]:
        """The keys that it logs: none."""
        return []

    @property
    def state_key(self) -> str:
        """Tells several of these callbacks in one Trainer apart."""
        return self._generate_state_key(
            monitor=self.monitor, mode=self.mode or "max", phase=self.phase, phases=self.phases
        )

    # ------------------------------------------------- life in a Trainer

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the callback that tells the phase; a new Trainer starts anew."""
        check_trainer(self, trainer)
        if stage == "fit":
            self.stopping_reason = self.stopped_step = None
            if self._trainer is None or self._trainer() is not trainer:
                self._rule, self._none, self._checked = self._new_rule(), False, False
                self._trainer = weakref.ref(trainer)
            phases = self._find(trainer)
            if self.phase > len(phases.names):
                raise ValueError(
                    f"PhaseEarlyStopping(phase={self.phase}): TrainingPhases has the phases 1 to "
                    f"{len(phases.names)}: {list(phases.names)}."
                )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take part in the log of the run, and find out which way is better, where the key says it."""
        RunLog.of(trainer).joins(self)
        if self.mode is None:
            known = known_directions(trainer, pl_module)
            advice = "give `mode='max'` or `mode='min'`"
            self._rule.mode = told_mode(self.monitor, known, "PhaseEarlyStopping monitors", advice) or "max"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where there will be nothing to stop on; only now does Lightning know of it."""
        RunLog.of(trainer).training_starts(self, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count each validation once."""
        RunLog.of(trainer).validation_starts(self)
        fitting = trainer.state.fn == "fit" and not trainer.sanity_checking
        self._pending = fitting and not trainer.fast_dev_run and not trainer.barebones  # type: ignore[attr-defined]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide whether to stop."""
        if self._pending:
            self._pending = False
            self._check(trainer, pl_module)
        RunLog.of(trainer).validation_ends(self, pl_module)

    def _check(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        phases = self._find(trainer)
        standing = phases.process(trainer, pl_module)
        if not self._checked:
            self._check_key(trainer, pl_module, phases)
        begun = standing.index + 1 >= self.phase
        stop, said = (False, None) if begun else self._tell_none(standing, phases)
        value = find(phases.fresh, self.monitor)
        if not stop and value is not None and (begun or (self._none and self.if_none == "plateau")):
            decide = partial(self._decide, trainer.global_step, value, phases)
            name = type(self).__name__
            stop, said = attempt(name, self._said, "decide whether to stop", decide) or (False, None)
        stop = bool(trainer.strategy.reduce_boolean_decision(stop, all=False))
        if stop:
            trainer.should_stop = True
            self.stopped_step = trainer.global_step
            self.stopping_reason = said or "another rank stopped"
            attempt(type(self).__name__, self._said, "say why it stops", lambda: phases.tell(trainer, "stop", said))
        if said is not None and (stop or self.verbose):
            pl.utilities.rank_zero_info(
                f"PhaseEarlyStopping{' stops' if stop else ''} at step {trainer.global_step}: {said}."
            )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what could not be written before."""
        RunLog.of(trainer).fit_ends(self, pl_module)

    def _tell_none(self, standing: PhaseState, phases: TrainingPhases) -> tuple[bool, str | None]:
        """Whether to stop since there is no such phase, which is said once."""
        if self._none or not standing.over:
            return False, None
        self._none = True
        wanted = phases.names[self.phase - 1]
        pl.utilities.rank_zero_info(
            f"PhaseEarlyStopping on {self.monitor!r} waits for {wanted}, and there is none so far: "
            f"{standing.reason}. With if_none={self.if_none!r} {_IF_NONE[self.if_none]}."
        )
        return self.if_none == "stop", f"there is no {wanted} in which {self.monitor} could count: {standing.reason}"

    def columns(self) -> Columns:
        """What stands in ``readings.csv``: why it stopped, at the step at which it did."""
        if self.stopped_step is None or self.stopping_reason is None:
            return {}
        return {self.stopped_step: {"stop/reason": self.stopping_reason}}

    def _decide(self, step: int, value: float, phases: TrainingPhases) -> tuple[bool, str | None]:
        if not math.isfinite(value):
            return self.check_finite, f"{self.monitor} is {value}, not finite" if self.check_finite else None
        se = self._standard_error(phases) if self.delta == "se" else None
        if self.delta == "se" and se is None:
            return False, None
        stop, said = self._rule.update(step, value, se)
        if said is not None:
            where = phases.names[phases.standing.index]
            said = f"{self.monitor} is {value:.4g} and {said} (in {where})"
        return stop, said

    def _standard_error(self, phases: TrainingPhases) -> float | None:
        logged = find(phases.fresh, f"{self.monitor}/se")
        if logged is not None and math.isfinite(logged):
            return logged
        if self.monitor not in phases.followed():
            return None
        fit = phases.fit(self.monitor)
        return None if fit is None else float(fit.noise)

    def _find(self, trainer: pl.Trainer) -> TrainingPhases:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        there = [one for one in callbacks if isinstance(one, TrainingPhases)]
        for one in there:
            if one.prefix == self.phases:
                return one
        if there:
            raise ValueError(
                f"PhaseEarlyStopping(phases={self.phases!r}): no TrainingPhases has that `prefix`; they have "
                f"{[one.prefix for one in there]}."
            )
        raise ValueError(
            "PhaseEarlyStopping needs TrainingPhases in the same Trainer, which tells when a phase begins: "
            f"Trainer(callbacks=[TrainingPhases(loss='val_loss'), PhaseEarlyStopping(monitor={self.monitor!r}), ...])."
        )

    def _check_key(self, trainer: pl.Trainer, pl_module: pl.LightningModule, phases: TrainingPhases) -> None:
        known = dict.fromkeys([*phases.fresh, *known_keys(trainer, pl_module)], True)
        if not find(known, self.monitor):
            text = f"PhaseEarlyStopping monitors {explain_missing(trainer, pl_module, self.monitor, phases.fresh)}"
            if self.strict:
                raise ValueError(text)
            pl.utilities.rank_zero_warn(text)
        if self.delta == "se" and self.monitor not in phases.followed() and not find(known, f"{self.monitor}/se"):
            raise ValueError(
                f"PhaseEarlyStopping(delta='se'): nobody logs '{self.monitor}/se', and TrainingPhases does not follow "
                f"{self.monitor!r}, so its noise is unknown: add it to TrainingPhases(keys=[...])."
            )
        self._checked = True

    # ------------------------------------------------- state

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts with: attached to no Trainer."""
        return unattached(self)

    def state_dict(self) -> dict[str, Any]:
        """The best value and the count, as plain numbers."""
        return {
            "rule": self._rule.state_dict(),
            "none": self._none,
            "stopping_reason": self.stopping_reason,
            "stopped_step": self.stopped_step,
            "checked": self._checked,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._rule.load_state_dict(state_dict["rule"])
        self.stopping_reason, self.stopped_step = state_dict["stopping_reason"], state_dict["stopped_step"]
        self._none, self._checked = bool(state_dict.get("none", False)), state_dict["checked"]
