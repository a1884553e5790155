"""What a module logs in the Trainer's own validation steps, taken in beside Lightning."""

from __future__ import annotations

from typing import Any

from lightning_interp.compat import is_overridden, pl
from lightning_interp.isolation.guards import RandomState
from lightning_interp.isolation.logged import LoggedValues
from lightning_interp.isolation.module_state import ModuleState

__all__ = ["ObservedEpoch"]


class ObservedEpoch:
    """The first batches of a validation run as an epoch of their own, without running them again.

    They can stand for a run of their own where the step draws nothing at random, since a run again draws the same at
    every reading, and where the module has no hooks around its step.

    Args:
        model: The module that is validated.

    """

    def __init__(self, model: pl.LightningModule) -> None:
        self.model = model
        self.logged = LoggedValues()
        self.state: ModuleState | None = None
        """The module's state after these batches; ``None`` while there may be more of them."""
        self.exact = not any(
            is_overridden(name, model) for name in ("on_validation_batch_start", "on_validation_batch_end")
        )
        self._before: RandomState | None = None
        self._own: dict[str, Any] = {}

    def start(self, batch: Any) -> None:
        """The step runs on this batch next."""
        model, log, heard = self.model, self.model.log, self.logged.collector(batch)

        def both(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if model._current_fx_name == "validation_step":
                heard(name, value, *args, **kwargs)
            log(name, value, *args, **kwargs)

        self._own = {"log": vars(model)["log"]} if "log" in vars(model) else {}
        # Past nn.Module's __setattr__, and past the class: only this instance, only now.
        object.__setattr__(model, "log", both)
        self._before = RandomState.now()

    def stop(self) -> None:
        """The step is over; without effect where none was started."""
        if self._before is not None:
            self.exact &= self._before.is_now()
            self._before = None
            vars(self.model).pop("log")
            vars(self.model).update(self._own)

    def end(self) -> None:
        """No more batches come: keep the module's state."""
        if self.state is None:
            self.state = ModuleState(self.model).copy()
