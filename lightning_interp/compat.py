"""The one place that knows under which name Lightning is imported in this process."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

__all__ = ["is_overridden", "pl"]

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    # The two packages hold different classes of the same names, so a callback must derive from the one whose
    # Trainer runs it: the one that the program has imported already, else the one this package depends on.
    _unified = "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules
    pl = importlib.import_module("lightning.pytorch" if _unified else "pytorch_lightning")

is_overridden = importlib.import_module(f"{pl.__name__}.utilities.model_helpers").is_overridden
