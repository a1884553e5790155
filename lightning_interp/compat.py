"""The one place that knows under which name Lightning is imported in this process."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

__all__ = ["check_trainer", "is_overridden", "pl"]

_CHOICE = "LIGHTNING_INTERP_NAMESPACE"
_NAMES = ("pytorch_lightning", "lightning.pytorch")

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    # The two packages hold different classes of the same names, so a callback must derive from the one whose
    # Trainer runs it: the one that the program has imported already, else the one this package depends on. Where both
    # are there, an environment variable says which.
    _unified = "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules
    _name = os.environ.get(_CHOICE) or _NAMES[_unified]
    if _name not in _NAMES:
        raise ImportError(f"{_CHOICE}={_name!r}: it must be one of {list(_NAMES)}.")
    pl = importlib.import_module(_name)

is_overridden = importlib.import_module(f"{pl.__name__}.utilities.model_helpers").is_overridden


def check_trainer(callback: Any, trainer: Any) -> None:
    """Refuse a Trainer of the other package: half of what a callback does would silently not happen there.

    Raises:
        TypeError: If the Trainer's classes are not those that the callback derives from.

    """
    if isinstance(trainer, pl.Trainer):
        return
    other = next((name for name in _NAMES if type(trainer).__module__.startswith(f"{name}.")), None)
    if other is not None and other != pl.__name__:
        raise TypeError(
            f"{type(callback).__name__} is a callback of {pl.__name__}, and this Trainer is one of {other}. Use one of "
            f"them throughout: import {other} before lightning_interp, or set {_CHOICE}={other}."
        )
