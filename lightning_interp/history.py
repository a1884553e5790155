"""Readings with their step: what a callback measured, beside what the model itself logged at that validation."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CsvLog", "History", "Reading", "merge_rows"]


@dataclass(frozen=True)
class Reading:
    """One analysed validation run.

    Args:
        step: Optimizer steps taken so far (``trainer.global_step``).
        epoch: The epoch it happened in, counted from 0.
        index: The number of this reading, counted from 0 over the whole run, resumed parts included. One that is
            missing was dropped after a failure, or lost with a process that was killed in the middle of it.
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


def merge_rows(histories: Iterable[History], after: int | None = None) -> list[dict[str, float]]:
    """One row per step with the readings of several callbacks side by side: ``step``, ``epoch``, context, values.

    Args:
        histories: The readings.
        after: Only those of later steps.

    """
    rows: dict[int, dict[str, float]] = {}
    for history in histories:
        for reading in history.readings:
            if after is not None and reading.step <= after:
                continue
            row = rows.setdefault(reading.step, {"step": reading.step, "epoch": reading.epoch})
            row.update({key: value for key, value in reading.context.items() if key not in row})
            row.update(reading.values)
    return [rows[step] for step in sorted(rows)]


class CsvLog:
    """A file of readings that grows by a line a reading; it is written anew only when a column is added.

    A reader of the file never sees half of a rewritten one.

    Args:
        path: The file; its folder is made. What another run left there is replaced at the first write.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._columns: list[str] = []

    @property
    def last_step(self) -> int | None:
        """Step of the last line; ``None`` before the first."""
        return self._last_step if self._columns else None

    def write(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Add rows, which are later than those already there."""
        if not rows:
            return
        columns = list(dict.fromkeys([*self._columns, *(key for row in rows for key in row)]))
        if self._columns and columns == self._columns and self.path.exists():
            with self.path.open("a", newline="") as file:
                self._put(csv.DictWriter(file, columns, restval=""), rows)
        else:
            before: list[dict[str, str]] = []
            if self._columns and self.path.exists():
                with self.path.open(newline="") as file:
                    before = list(csv.DictReader(file))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            with draft.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(before)
                self._put(writer, rows)
            draft.replace(self.path)
        self._columns = columns
        self._last_step = int(rows[-1]["step"])

    def _put(self, writer: csv.DictWriter[str], rows: Sequence[Mapping[str, float]]) -> None:
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: float) -> str:
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return repr(float(value))
