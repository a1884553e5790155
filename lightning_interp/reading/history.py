"""Readings with their step: what a callback measured, beside what the model itself logged at that validation."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

from matplotlib.figure import Figure

from lightning_interp.figures.measure_curves import measure_curves
from lightning_interp.reading.readings_file import CsvLog
from lightning_interp.reading.readings_table import SETTING, data_frame, read_rows, read_settings, write_rows
from lightning_interp.reporting.plain_values import plain_value
from lightning_interp.reporting.watched import MOST_PANELS, left_out, places_of, watched

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "SETTING",
    "CsvLog",
    "History",
    "Reading",
    "ReadingRow",
    "merge_rows",
    "read_rows",
    "read_settings",
    "with_settings",
]


@dataclass(frozen=True)
class ReadingRow:
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


Reading = ReadingRow  # what it was called


class History:
    """The readings of one callback, in the order in which they were taken; or of checkpoints, by increasing step.

    It has a length, is iterated over and indexed like a list of :class:`ReadingRow`.

    Example:
        >>> history = History()
        >>> history.append(ReadingRow(step=10, epoch=0, index=0, values={"information/encoder": 0.9}))
        >>> history.append(ReadingRow(step=20, epoch=0, index=1, values={"information/encoder": 0.8}))
        >>> history
        History(2 readings of 1 key, steps 10 to 20)
        >>> history.series("information/encoder")
        ([10, 20], [0.9, 0.8])
        >>> history[-1].values["information/encoder"], [reading.step for reading in history]
        (0.8, [10, 20])

    """

    def __init__(self) -> None:
        self.readings: list[ReadingRow] = []
        self._settings: list[tuple[int, dict[str, Any]]] = []

    def __len__(self) -> int:
        return len(self.readings)

    def __iter__(self) -> Iterator[ReadingRow]:
        return iter(self.readings)

    @overload
    def __getitem__(self, place: int) -> ReadingRow: ...

    @overload
    def __getitem__(self, place: slice) -> list[ReadingRow]: ...

    def __getitem__(self, place: Any) -> ReadingRow | list[ReadingRow]:
        if isinstance(place, str):
            raise TypeError(f"history[{place!r}]: readings are indexed by number; a key has history.series({place!r}).")
        found: ReadingRow | list[ReadingRow] = self.readings[place]
        return found

    def __repr__(self) -> str:
        if not self.readings:
            return f"{type(self).__name__}(no readings)"
        keys, steps = len(self.keys), self.steps
        return (
            f"{type(self).__name__}({len(self)} reading{'s' * (len(self) != 1)} of {keys} key{'s' * (keys != 1)}, "
            f"step{f's {steps[0]} to {steps[-1]}' if len(steps) > 1 else f' {steps[0]}'})"
        )

    def append(self, reading: ReadingRow) -> None:
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
    def steps(self) -> list[int]:
        """The steps at which there are readings, increasing."""
        return sorted({reading.step for reading in self.readings})

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

    def to_pandas(self) -> pd.DataFrame:
        """A row a step, which is the index; columns are the epoch, what the model logged, and what was measured.

        Of several readings at one step the last counts. How the last reading was taken, its settings, is in
        ``attrs["settings"]``.

        Raises:
            ImportError: If pandas is not installed.

        """
        rows = merge_rows([self])
        frame = data_frame(rows, ["step", "epoch"], "history.series(key) and history.write_csv(path)")
        if rows:
            frame.attrs["settings"] = self.settings(int(rows[-1]["step"]))
        return frame

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the readings as the live callbacks write ``readings.csv``; a file of this name is replaced."""
        write_rows(path, with_settings(merge_rows([self]), [self]))

    def plot(self, keys: str | Sequence[str] | None = None, title: str | None = None) -> Figure:
        """Draw curves over training on a logarithmic axis of steps.

        A panel holds one measure with a line for each site and label set, or one metric of the model's own.

        Args:
            keys: What to draw, measured or logged by the model. Without them what a person watches: the model's own
                metrics, and measures above chance where there is that; not how readings were taken, nor levels of
                chance; of these the first 12 panels.
            title: The heading of the figure.

        Returns:
            A figure that pyplot does not know of; a notebook shows it, ``figure.savefig(path)`` writes it.

        Raises:
            ValueError: If there is no reading, none has a key, or ``keys`` is empty.

        """
        if not self.readings:
            raise ValueError("There is no reading to draw yet.")
        there = self._all_keys()
        chosen = [keys] if isinstance(keys, str) else (watched(there) or there) if keys is None else list(keys)
        if not chosen:
            raise ValueError(f"`keys` is empty: name at least one key, or give None; there are {there[:12]}.")
        for key in chosen:
            if key not in there:
                of_it = [one for one in there if one.startswith(f"{key}/")][:3]  # its loaders, its sites
                near = of_it or difflib.get_close_matches(key, there, n=3)
                raise ValueError(
                    f"No reading has {key!r}; {f'nearest are {near}' if near else f'there are {there[:12]}'}."
                )
        panels: dict[str, dict[str, tuple[list[int], list[float]]]] = {}
        for key, place in places_of(chosen).items():
            panels.setdefault(place.panel, {})[place.line] = self.series(key)
        shown = list(panels)[: MOST_PANELS if keys is None else None]
        figure = measure_curves({panel: panels[panel] for panel in shown}, title)
        if note := left_out(len(shown), len(panels), "name what to draw by plot(keys=...)"):
            figure.supxlabel(note, fontsize=9)
        return figure

    def _all_keys(self) -> list[str]:
        """What the model logged, then what was measured."""
        logged = (key for reading in self.readings for key in reading.context)
        return list(dict.fromkeys([*logged, *self.keys]))

    def state_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, so that a ``weights_only`` checkpoint can hold it."""
        return {
            "readings": [{**vars(r), "values": dict(r.values), "context": dict(r.context)} for r in self.readings],
            "settings": [[since, dict(found)] for since, found in self._settings],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the readings of a checkpoint; what was held before is dropped."""
        self.readings = [ReadingRow(**reading) for reading in state["readings"]]
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
        >>> history.append(ReadingRow(step=10, epoch=0, index=0, values={"information/encoder": 0.9}))
        >>> with_settings(merge_rows([history]), [history])
        [{'step': 10, 'epoch': 0, 'information/encoder': 0.9, 'setting/seed': 3}]

    """
    found: list[dict[str, Any]] = []
    for row in rows:
        noted = {name: value for history in histories for name, value in history.settings(int(row["step"])).items()}
        found.append({**row, **{f"{SETTING}{name}": value for name, value in noted.items()}})
    return found
