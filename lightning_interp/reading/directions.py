"""Which way is better of the keys that the callbacks of a Trainer log."""

from __future__ import annotations

from typing import Any, NamedTuple

from lightning_interp.compat import pl
from lightning_interp.metrics.measure import Measure
from lightning_interp.reading.analyses import analyses
from lightning_interp.reading.keys import declared, direction
from lightning_interp.reading.newly_logged import find
from lightning_interp.reporting.measure_words import told_of_key

__all__ = ["Told", "known_directions", "told_mode"]


class Told(NamedTuple):
    """What is known of a key of ours."""

    measure: Measure
    mode: str | None
    """``"max"`` or ``"min"``; None where neither way is better, or nobody here can know."""


def known_directions(trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Told]:
    """Every key that the callbacks here may log, at whatever level, and which way is better of it."""
    found: dict[str, Told] = {}
    for one in analyses(trainer):
        one._named_measures(pl_module)
        for key, what in declared(one, pl_module).items():
            found[one.full_key(key)] = Told(what.measure, direction(one, what))
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    for other in callbacks:
        if hasattr(type(other), "measures") and not hasattr(type(other), "is_analysis"):
            for key in other.measures(pl_module):
                told = told_of_key(key.removeprefix(other.prefix))
                if told is not None:
                    found[key] = Told(told.measure, {"higher": "max", "lower": "min"}.get(told.measure.better))
    return found


def told_mode(key: str, known: dict[str, Told], asker: str, argument: str) -> str | None:
    """Which way a key of ours improves; None for a key of others.

    Args:
        key: The key, without ``/dataloader_idx_<n>`` where that is told from what is logged.
        known: What :func:`known_directions` found.
        asker: Who asks, and what for: ``"PhaseEarlyStopping monitors"``.
        argument: How to say it: ``"give `mode='max'` or `mode='min'`"``.

    Raises:
        ValueError: If it is one of ours and neither way is better, or nobody here knows.

    """
    told = find(known, key)
    if told is None:
        return None
    if told.mode is None:
        why = (
            "which is better the way the model's own metric is, and nobody here says which that is"
            if told.measure.better == "as the metric"
            else f"{told.measure.title}, of which neither way is better in itself"
        )
        raise ValueError(f"{asker} {key!r}, {why}: {argument}.")
    return told.mode
