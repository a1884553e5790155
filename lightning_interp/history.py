"""Readings with their step: what a callback measured, beside what the model itself logged at that validation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightning_interp._plain_values import plain_value
from lightning_interp.readings_file import CsvLog
from lightning_interp.readings_table import SETTING, read_rows, read_settings

__all__ = ["SETTING", "CsvLog", "History", "Reading", "merge_rows", "read_rows", "read_settings", "with_settings"]


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
        self._settings: list[tuple[int, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self.readings)

    def append(self, reading: Reading) -> None:
        """Add the next reading."""
        self.readings.append(reading)

    def note(self, settings: Mapping[str, Any]) -> None:
        """Say how the readings from now on are taken: names and values, of which those count that can be made plain."""
        plain = {str(name): value for name, one in settings.items() if (value := plain_value(one)) is not None}
        if not self._settings or self._settings[-1][1] != plain:
            self._settings.append((self.readings[-1].step + 1 if self.readings else 0, plain))

    def settings(self, step: int) -> dict[str, Any]:
        """How the reading at a step was taken, as far as that was noted."""
        return next((found for since, found in reversed(self._settings) if since <= step), {})

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
        return {
            "readings": [{**vars(r), "values": dict(r.values), "context": dict(r.context)} for r in self.readings],
            "settings": [[since, dict(found)] for since, found in self._settings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the readings of a checkpoint; what was held before is dropped."""
        self.readings = [Reading(**reading) for reading in state["readings"]]
        self._settings = [(since, dict(found)) for since, found in state.get("settings", [])]


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


def with_settings(rows: Sequence[Mapping[str, float]], histories: Sequence[History]) -> list[dict[str, Any]]:
    """Rows with columns ``setting/…``: how the readings of each step were taken.

    Example:
        >>> history = History()
        >>> history.note({"seed": 3})
        >>> history.append(Reading(step=10, epoch=0, index=0, values={"information/encoder": 0.9}))
        >>> with_settings(merge_rows([history]), [history])
        [{'step': 10, 'epoch': 0, 'information/encoder': 0.9, 'setting/seed': 3}]

    """
    found: list[dict[str, Any]] = []
    for row in rows:
        noted = {name: value for history in histories for name, value in history.settings(int(row["step"])).items()}
        found.append({**row, **{f"{SETTING}{name}": value for name, value in noted.items()}})
    return found
