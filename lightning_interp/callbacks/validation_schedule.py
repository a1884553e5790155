"""Validation at chosen training steps, whatever the Trainer was told about validation."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, Literal

from torch import nn

from lightning_interp.compat import check_trainer, pl
from lightning_interp.decisions.schedule import StepSchedule
from lightning_interp.reading.unattached import unattached
from lightning_interp.reading.val_loop import tell_no_validation

__all__ = ["ValidationSchedule"]

# No batch index or epoch is a multiple of it. Infinity would not do: Lightning validates at the end of each epoch then.
_NEVER = sys.maxsize


class ValidationSchedule(pl.Callback):
    """Validate at exactly these training steps: by default at equal distances on a logarithmic axis.

    Representations change most in the first hundred steps, where one validation per epoch sees nothing. While ``fit``
    runs, the schedule takes the place of the Trainer's ``val_check_interval`` and ``check_val_every_n_epoch``; they
    are put back afterwards. A step is an optimizer step (``trainer.global_step``): under gradient accumulation,
    validation comes after the batch that completes it, and never twice for one step. Where one batch takes several
    optimizer steps (manual optimization), it comes after the batch that reaches the wanted one. On a resume the
    schedule goes on with the steps that are still ahead; a step whose validation a crash cost is not made up for.

    The callback draws no random numbers, and the sanity check and ``fast_dev_run`` stay as they are. Validation itself
    is Lightning's, with its side effects: every pass over a ``DataLoader`` draws a number from torch's global random
    stream, so two schedules shuffle the training data differently, unless the validation loaders have a ``generator``
    of their own.

    ``EarlyStopping`` and ``ModelCheckpoint`` act after each validation, as they do for any Trainer that does not
    validate once per epoch. For that, ``EarlyStopping`` must come after this callback in ``Trainer(callbacks=...)`` or
    be given ``check_on_train_epoch_end=False``; there is a warning where it is not so. A ``ReduceLROnPlateau`` that is
    stepped per epoch sees the latest validation, which may be epochs old.

    Args:
        steps: ``"log"``, a list or array of increasing steps, one number (``10`` is every 10 steps), or ``None`` for
            ``every`` alone.
        per_decade: With ``"log"``, the number of validations in each factor of ten. The default 8 gives 1, 2, 3, 4, 6,
            7, 10, 13, 18, 24, 32, …, which are 31 validations in 10,000 steps.
        start: The first step; nothing before it.
        every: Every multiple of this number as well, for gates that need regular readings late in training.
        last: Validate at the very last step too: where ``max_steps`` or ``max_epochs`` end the training, and where
            ``trainer.should_stop`` is set during a training batch (as ``max_time`` does). A stop that is asked for in
            ``on_train_epoch_end`` comes too late for it.

    Raises:
        ValueError: If an argument is none of the above, or if the Trainer validates by the clock
            (``val_check_interval="00:01:00:00"``). Lightning itself refuses two of these callbacks in one Trainer.

    Cost:
        10 µs per training batch, beside the validations.

    Example:
        >>> from pytorch_lightning import Trainer
        >>> schedule = ValidationSchedule(steps="log", per_decade=4)
        >>> schedule.steps_up_to(100)
        [1, 2, 3, 6, 10, 18, 32, 56, 100]
        >>> trainer = Trainer(max_steps=100, callbacks=[schedule], logger=False, enable_checkpointing=False)

    """

    def __init__(
        self,
        steps: Literal["log"] | Sequence[int] | int | None = "log",
        per_decade: int = 8,
        start: int = 1,
        every: int | None = None,
        last: bool = True,
    ) -> None:
        if not isinstance(last, bool):
            raise ValueError(f"last={last!r}: expected True or False.")
        self.schedule = StepSchedule(steps, per_decade=per_decade, start=start, every=every)
        self.last = last
        self._active = False
        self._every_n_epoch: int | None = None
        self._check_batch: int | float | None = None
        self._seen = 0
        self._read: int | None = None
        self._due = False
        self._pulls_batches = False

    def steps_up_to(self, stop: int) -> list[int]:
        """The scheduled steps from the first one to ``stop``, both included (without what ``last`` adds)."""
        return self.schedule.up_to(stop)

    def logged_keys(self, model: nn.Module | None = None) -> list[str]:
        """The keys that it logs: none."""
        return []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take over from the Trainer's own settings, early enough for callbacks that ask about them in ``setup``."""
        check_trainer(self, trainer)
        if stage != "fit" or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        # The Trainer has no such attribute when it was given a time interval.
        if getattr(trainer, "val_check_interval", None) is None:
            raise ValueError(
                "ValidationSchedule: Trainer(val_check_interval=<a time>) validates by the clock, which cannot be "
                "combined with a schedule of steps. Leave val_check_interval at its default, or give it a number."
            )
        self._warn_about_earlier_early_stopping(trainer)
        self._active, self._due = True, False
        self._every_n_epoch, self._check_batch = trainer.check_val_every_n_epoch, None
        trainer.check_val_every_n_epoch = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the step that a checkpoint may have brought."""
        tell_no_validation(trainer, pl_module, [type(self).__name__])
        if not self._active:
            return
        self._check_batch = trainer.val_check_batch
        self._seen = trainer.global_step
        self._read = self._seen if self._due else None
        # With a training_step that takes the iterator, Lightning validates after the last batch of any open epoch.
        self._pulls_batches = "dataloader_iter" in signature(pl_module.training_step).parameters
        # A resumed loop asks once, before its first batch, whether a validation belongs to the batch of the checkpoint,
        # to finish it or to pass over it. After the last batch of an epoch the answer must be yes: without one,
        # Lightning 2.6.6 with max_steps trains a batch too many in that epoch.
        _open(trainer, batch=self._due or trainer.is_last_batch, epoch=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decide whether a validation follows this batch; Lightning asks right after this hook."""
        if not self._active:
            return
        step = trainer.global_step
        wanted = self.schedule.next_after(self._seen)
        due = (wanted is not None and wanted <= step) or (self.last and step != self._read and _ends_here(trainer))
        self._seen = step
        self._due = due
        if due:
            self._read = step
        # A stop that is still to be asked for during this batch makes Lightning validate, where the epoch is open.
        stop_may_come = self.last and step != self._read and not self._pulls_batches
        _open(trainer, batch=due, epoch=due or stop_may_come)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put the Trainer's settings back."""
        self._restore(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put the Trainer's settings back: Lightning calls no ``teardown`` after an error."""
        self._restore(trainer)

    def __getstate__(self) -> dict[str, Any]:
        """What a copy starts with: attached to no Trainer."""
        return unattached(self)

    def state_dict(self) -> dict[str, Any]:
        """Whether the batch of this checkpoint was followed by a validation; the rest follows from the global step."""
        return {"due": self._due}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self._due = state_dict["due"]

    def _restore(self, trainer: pl.Trainer) -> None:
        if self._active:
            trainer.check_val_every_n_epoch, trainer.val_check_batch = self._every_n_epoch, self._check_batch
            self._active = False

    def _warn_about_earlier_early_stopping(self, trainer: pl.Trainer) -> None:
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks[: callbacks.index(self)]:
            # It settles this in its own setup, from the settings it finds there.
            at_epoch_end = getattr(callback, "_check_on_train_epoch_end", False)
            if isinstance(callback, pl.callbacks.EarlyStopping) and at_epoch_end:
                pl.utilities.rank_zero_warn(
                    f"EarlyStopping(monitor={callback.monitor!r}) checks at the end of each epoch, but validation "
                    "follows ValidationSchedule, so it may act on a value that is epochs old. Put it after "
                    "ValidationSchedule in Trainer(callbacks=[...]), or give it check_on_train_epoch_end=False.",
                )


def _open(trainer: pl.Trainer, batch: bool, epoch: bool) -> None:
    # Lightning validates after a batch where both of these public settings divide its position.
    trainer.check_val_every_n_epoch = None if epoch else _NEVER
    trainer.val_check_batch = 1 if batch else _NEVER


def _ends_here(trainer: pl.Trainer) -> bool:
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return True
    limit = trainer.max_epochs
    return trainer.is_last_batch and limit is not None and limit != -1 and trainer.current_epoch + 1 >= limit
