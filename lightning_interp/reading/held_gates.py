"""Gates that wait for a value which a reading did not give: they neither act on the one before nor end the training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_interp.compat import pl

__all__ = ["HeldGates"]


class HeldGates:
    """Holds what watches a key while the key has no value of its own reading.

    The value of an earlier reading is taken out of ``trainer.callback_metrics``. An ``EarlyStopping`` and a plateau
    scheduler that watch the key pass over the validation, instead of ending the training for want of it; a
    ``ModelCheckpoint`` sees NaN, which Lightning ranks as the worst value, so that files that are kept whatever their
    value are kept.

    Example:
        >>> trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
        >>> gate = pl.callbacks.EarlyStopping("rankme/enc")
        >>> trainer.callbacks.append(gate)
        >>> held = HeldGates()
        >>> held.hold(trainer, ["rankme/enc"])
        >>> gate.strict
        False
        >>> held.release()
        >>> gate.strict
        True

    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def hold(self, trainer: pl.Trainer, keys: Iterable[str]) -> None:
        """From here on these keys have no value; what was held before is let go."""
        self.release()
        missing = frozenset(keys)
        for key in missing:
            trainer.callback_metrics.pop(key, None)
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        for gate in callbacks:
            if getattr(gate, "monitor", None) not in missing:
                continue
            if isinstance(gate, pl.callbacks.EarlyStopping):
                self._lenient(gate)
            elif isinstance(gate, pl.callbacks.ModelCheckpoint):
                self._without_value(gate)
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor in missing:
                self._lenient(config)

    def release(self) -> None:
        """Every gate is as it was."""
        while self._undo:
            self._undo.pop()()

    def _lenient(self, gate: Any) -> None:
        if gate.strict:
            gate.strict = False
            self._undo.append(lambda: setattr(gate, "strict", True))

    def _without_value(self, gate: Any) -> None:
        own = gate._monitor_candidates

        def candidates(trainer: pl.Trainer) -> dict[str, Tensor]:
            found: dict[str, Tensor] = own(trainer)
            found.setdefault(gate.monitor, torch.tensor(math.nan))
            return found

        gate._monitor_candidates = candidates
        self._undo.append(lambda: vars(gate).pop("_monitor_candidates", None))
