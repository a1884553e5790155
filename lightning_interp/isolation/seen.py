"""A batch of a reading, as it is handed to what reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightning_interp.distributed.positions import Selection

__all__ = ["Seen"]


@dataclass(frozen=True)
class Seen:
    """A batch that is about to go through the model, or went through it.

    Args:
        batch: The batch, as the model gets it.
        index: Its number in its loader.
        loader: The number of the validation loader; 0 outside a Trainer.
        selection: Which of its samples are read.
        output: What the model's step returned for it, once it did.
        counted: Whether what it gives counts; else it is run only because another rank has one batch more.

    """

    batch: Any
    index: int
    loader: int
    selection: Selection
    output: Any = None
    counted: bool = True
