"""What a validation run logged anew, told apart from what an earlier one left behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from lightning_interp.compat import pl

__all__ = ["NewlyLogged", "find"]

T = TypeVar("T")


class NewlyLogged:
    """The values that were logged in the present validation run.

    ``trainer.callback_metrics`` keeps a key until it is overwritten, so a key that is read at every third validation
    shows an old value at the two others. Lightning puts a new tensor there for every value that is logged, and an
    unchanged one stays the same object: that tells them apart, also where the number happens to be the same.

    Call :meth:`start` in ``on_validation_start`` and :meth:`read` in ``on_validation_end``.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> trainer = SimpleNamespace(callback_metrics={"old": torch.tensor(1.0), "again": torch.tensor(2.0)})
        >>> fresh = NewlyLogged()
        >>> fresh.start(trainer)
        >>> trainer.callback_metrics["again"] = torch.tensor(2.0)
        >>> fresh.read(trainer)
        {'again': 2.0}

    """

    def __init__(self) -> None:
        self._before: dict[str, Tensor] = {}

    def start(self, trainer: pl.Trainer) -> None:
        """Remember what is there before anything is logged."""
        # Holding the tensors keeps Python from giving a new one the identity of an old one.
        self._before = dict(trainer.callback_metrics)

    def read(self, trainer: pl.Trainer) -> dict[str, float]:
        """Every single number that was logged since :meth:`start`."""
        return {key: float(value) for key, value in self._found(trainer).items()}

    def names(self, trainer: pl.Trainer) -> list[str]:
        """What they are called; the values stay on their device."""
        return list(self._found(trainer))

    def _found(self, trainer: pl.Trainer) -> dict[str, Tensor]:
        return {
            key: value
            for key, value in trainer.callback_metrics.items()
            if value is not self._before.get(key) and value.numel() == 1
        }


def find(values: Mapping[str, T], name: str) -> T | None:
    """A value by its key, else by that key of the first of several validation loaders.

    Example:
        >>> find({"val_loss/dataloader_idx_0": 0.5, "val_loss/dataloader_idx_1": 0.7}, "val_loss")
        0.5

    """
    return values.get(name, values.get(f"{name}/dataloader_idx_0"))
