"""Readings with their step: what a callback measured, beside what the model itself logged at that validation."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["History", "Reading", "merge_rows", "write_csv"]


@dataclass(frozen=True)
class Reading:
    """One analysed validation run.

    Args:
        step: Optimizer steps taken so far (``trainer.global_step``).
        epoch: The epoch it happened in, counted from 0.
        index: The number of this reading, counted from 0 over the whole run, resumed parts included.
        values: What was measured, by key (``"information/encoder"``).
        context: What the model and other callbacks logged at the same validation (``"val_loss"``).

    """

    step: int
    epoch: int
    index: int
    values: Mapping[str, float]
    context: Mapping[str, float] = field(default_factory=dict)

    def get(self, key: str) -> float | None:
        """The value of a key, measured or logged by the model, or ``None`` where this reading has none."""
        if key in self.values:
            return self.values[key]
        return self.context.get(key)


class History:
    """The readings of one callback, in the order in which they were taken.

    Example:
        >>> history = History()
        >>> history.append(Reading(step=10, epoch=0, index=0, values={"information/encoder": 0.9}))
        >>> history.append(Reading(step=20, epoch=0, index=1, values={"information/encoder": 0.8}))
        >>> history.series("information/encoder")
        ([10, 20], [0.9, 0.8])

    """

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def __len__(self) -> int:
        return len(self.readings)

    def append(self, reading: Reading) -> None:
        """Add the next reading."""
        self.readings.append(reading)

    @property
    def keys(self) -> list[str]:
        """Every measured key, in the order of first appearance."""
        return list(dict.fromkeys(key for reading in self.readings for key in reading.values))

    def series(self, key: str) -> tuple[list[int], list[float]]:
        """Steps, increasing, and values of a key, measured or logged by the model, over the readings that have it.

        Of several readings at one step the last counts.
        """
        by_step = {r.step: value for r in self.readings if (value := r.get(key)) is not None}
        steps = sorted(by_step)
        return steps, [by_step[step] for step in steps]

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, so that a ``weights_only`` checkpoint can hold it."""
        return {"readings": [{**vars(r), "values": dict(r.values), "context": dict(r.context)} for r in self.readings]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the readings of a checkpoint; what was held before is dropped."""
        self.readings = [Reading(**reading) for reading in state["readings"]]


def merge_rows(histories: Iterable[History]) -> list[dict[str, float]]:
    """One row per step with the readings of several callbacks side by side: ``step``, ``epoch``, context, values."""
    rows: dict[int, dict[str, float]] = {}
    for history in histories:
        for reading in history.readings:
            row = rows.setdefault(reading.step, {"step": reading.step, "epoch": reading.epoch})
            row.update({key: value for key, value in reading.context.items() if key not in row})
            row.update(reading.values)
    return [rows[step] for step in sorted(rows)]


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Write rows with the union of their columns; a reader of the file never sees half of it."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})
    draft.replace(target)


def _cell(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return repr(float(value))
