"""What a module logs in the Trainer's own validation steps, taken in beside Lightning."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lightning_interp._logged import LoggedValues
from lightning_interp._module_state import ModuleState
from lightning_interp.compat import is_overridden, pl

__all__ = ["Overheard"]


class Overheard:
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
        self.batches = 0
        self.exact = not any(
            is_overridden(name, model) for name in ("on_validation_batch_start", "on_validation_batch_end")
        )
        self._before: list[Any] = []
        self._undo: Any = None

    def start(self, batch: Any) -> None:
        """The step runs on this batch next."""
        self._before = _random_state()
        self._undo = self._listening(batch)
        self._undo.__enter__()
        self.batches += 1

    def stop(self) -> None:
        """The step is over."""
        if self._undo is not None:
            self._undo.__exit__(None, None, None)
            self._undo = None
            self.exact &= _same(self._before, _random_state())

    def end(self) -> None:
        """No more batches come: keep the module's state."""
        if self.state is None:
            self.state = ModuleState(self.model).copy()

    @contextmanager
    def _listening(self, batch: Any) -> Iterator[None]:
        model, heard = self.model, self.logged.collector(batch)
        log = model.log
        own = "log" in vars(model)

        def both(name: str, value: Any, *args: Any, **kwargs: Any) -> None:
            if model._current_fx_name == "validation_step":
                heard(name, value, *args, **kwargs)
            log(name, value, *args, **kwargs)

        # Past nn.Module's __setattr__, and past the class: only this instance, only now.
        object.__setattr__(model, "log", both)
        try:
            yield
        finally:
            if own:
                object.__setattr__(model, "log", log)
            else:
                vars(model).pop("log", None)


def _random_state() -> list[Any]:
    """Where the random streams stand."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    _, keys, *rest = np.random.get_state()
    return [random.getstate(), torch.from_numpy(np.array(keys, dtype=np.int64)), rest, torch.get_rng_state(), *cuda]


def _same(one: list[Any], other: list[Any]) -> bool:
    pairs = zip(one, other, strict=True)
    return all(torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in pairs)
