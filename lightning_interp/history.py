"""Readings with their step: what a callback measured, beside what the model itself logged at that validation."""

from __future__ import annotations

import csv
import math
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_interp._text_files import opened_text

__all__ = ["SETTING", "CsvLog", "History", "Reading", "merge_rows", "read_rows", "read_settings", "with_settings"]

SETTING = "setting/"
"""How the columns of a file of readings begin that hold not a reading but how it was taken."""


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
        """Say how the readings from now on are taken: names and plain values."""
        if not self._settings or self._settings[-1][1] != settings:
            self._settings.append((self.readings[-1].step + 1 if self.readings else 0, dict(settings)))

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


def read_rows(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The readings in a file, a row each, without the columns ``setting/…`` and without empty cells.

    Raises:
        ValueError: If the file has no column ``step``, a line without it, or a cell that is no number.

    """
    with opened_text(path, newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or []):
            raise ValueError(f"{str(path)!r} has no column 'step'; it has {list(reader.fieldnames or [])}.")
        try:
            rows = [{k: float(cell) for k, cell in row.items() if cell and not k.startswith(SETTING)} for row in reader]
        except UnicodeDecodeError:
            raise
        except (TypeError, ValueError, AttributeError, csv.Error) as error:
            raise ValueError(f"{str(path)!r}, line {reader.line_num}: {error}.") from error
    if any("step" not in row for row in rows):
        raise ValueError(f"{str(path)!r} has a line without a step.")
    return rows


def read_settings(path: str | os.PathLike[str]) -> dict[str, str]:
    """How the last reading in a file was taken, as text by name; empty for a file that does not say.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     CsvLog(f"{folder}/readings.csv").write([{"step": 1, "setting/seed": 3, "setting/estimator": "soft"}])
        ...     read_settings(f"{folder}/readings.csv")
        {'seed': '3', 'estimator': 'soft'}

    """
    with opened_text(path, newline="") as file:
        last: dict[str, str] = next(iter(deque(csv.DictReader(file), maxlen=1)), {})
    return {key.removeprefix(SETTING): cell for key, cell in last.items() if key and key.startswith(SETTING) and cell}


class CsvLog:
    """A file of readings that grows by a line a reading; it is written anew only when a column is added.

    Columns ``setting/…``, which may hold text, stand last. A reader of the file never sees half of a rewritten one.

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

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows, which are later than those already there."""
        if not rows:
            return
        columns = list(dict.fromkeys([*self._columns, *(key for row in rows for key in row)]))
        columns.sort(key=lambda column: column.startswith(SETTING))
        if self._columns and columns == self._columns and self.path.exists():
            with self.path.open("a", encoding="utf-8", newline="") as file:
                self._put(csv.DictWriter(file, columns, restval=""), rows)
        else:
            before: list[dict[str, str]] = []
            if self._columns and self.path.exists():
                with self.path.open(encoding="utf-8", newline="") as file:
                    before = list(csv.DictReader(file))
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            with draft.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns, restval="")
                writer.writeheader()
                writer.writerows(before)
                self._put(writer, rows)
            draft.replace(self.path)
        self._columns = columns
        self._last_step = int(rows[-1]["step"])

    def _put(self, writer: csv.DictWriter[str], rows: Sequence[Mapping[str, Any]]) -> None:
        writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)


def _cell(value: Any) -> str:
    if isinstance(value, str | bool):
        return str(value)
    if isinstance(value, int) or (math.isfinite(value) and value == int(value) and abs(value) < 1e15):
        return str(int(value))
    return repr(float(value))
