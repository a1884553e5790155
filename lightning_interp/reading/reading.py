"""A reading, from its first batch to the moment when it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from lightning_interp.batches.forward import RunBatch
from lightning_interp.batches.same_data import DataChecksum, Samples
from lightning_interp.distributed.positions import SamplePositions
from lightning_interp.isolation.seen import Seen

__all__ = ["Reading"]


@dataclass(eq=False)
class Reading:
    """One reading while it lasts: a validation run, its rehearsal in the sanity check, or a finished model.

    Whatever a callback has to know of the moment it asks here, and nothing of it is left when the reading is over.

    Args:
        model: What is read; names of sites are relative to it.
        step: The optimizer step in a fit; ``None`` outside.
        rehearsal: Whether it is the sanity check's, which counts for nothing.
        group: The process group over which data are split; ``None`` for all ranks.
        trainer: The Trainer; ``None`` outside.
        run_batch: How a batch goes through the model outside a Trainer.
        shared: What several callbacks that read at this moment need, by whatever says what it is.

    Example:
        >>> Reading(nn.Identity(), step=10).counts, Reading(nn.Identity()).counts
        (True, False)

    """

    model: nn.Module
    step: int | None = None
    rehearsal: bool = False
    group: Any = None
    trainer: Any = None
    run_batch: RunBatch | None = None
    shared: dict[Any, Any] = field(default_factory=dict)

    positions: SamplePositions = field(default_factory=lambda: SamplePositions([]))
    """Counts through its batches."""
    changed: str | None = None
    """How its samples differ from those of the reading before: ``"others"``, ``"order"`` where they are the same under
    other numbers, ``None`` where they do not or that is not watched."""
    checksum: DataChecksum = field(default_factory=DataChecksum)
    samples: Samples | None = None
    """What identifies its samples, where that is watched."""
    seen: Seen | None = None
    """The batch that is going through the model, where samples of it are read."""
    error: Exception | None = None
    """What it failed with on this rank."""
    finished: bool = False
    """Whether ranks have merged."""
    closed: bool = False
    """Whether it was logged, or given up."""
    values: dict[str, float] | None = None
    """What was measured, by whole key, once it is known."""
    seconds: float = 0.0
    """How long this rank took for it."""

    @property
    def counts(self) -> bool:
        """Whether it belongs to a fit and is no rehearsal."""
        return self.step is not None and not self.rehearsal
