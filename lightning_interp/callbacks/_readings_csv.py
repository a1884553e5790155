"""The one ``readings.csv`` of a run: what its callbacks read, and what others decided on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from weakref import WeakKeyDictionary

from lightning_interp.callbacks._analyses import analyses
from lightning_interp.compat import pl
from lightning_interp.history import CsvLog, merge_rows, with_settings

if TYPE_CHECKING:
    from lightning_interp.callbacks.analysis import ValidationAnalysis

__all__ = ["Columns", "Decides", "write_readings", "writes_last"]

Columns: TypeAlias = Mapping[int, Mapping[str, float | str]]
"""What stands in a row beside its readings: step → column → value."""

# A second fit of one Trainer goes on with its file.
_files: WeakKeyDictionary[Any, CsvLog] = WeakKeyDictionary()


class Decides(Protocol):
    """A callback that decides on readings, and has columns of its own in the file."""

    is_decision: bool
    write_csv: bool

    def columns(self) -> Columns:
        """What it decided, by step."""


def _deciding(trainer: pl.Trainer) -> list[Decides]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if getattr(type(one), "is_decision", False)]


def writes_last(callback: object, trainer: pl.Trainer) -> bool:
    """Whether a callback is the last that has something for the file, and so writes for all."""
    mine: set[int] = {*map(id, analyses(trainer)), *map(id, _deciding(trainer))}
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((one for one in reversed(callbacks) if id(one) in mine), None) is callback


def write_readings(trainer: pl.Trainer, folder: Path | None) -> None:
    """Bring the file up to date; rank 0 alone does.

    Args:
        trainer: The Trainer whose callbacks they are.
        folder: Where the file is, from :func:`~lightning_interp.reporting.log_folder`; without one there is no file.

    """
    readers: list[ValidationAnalysis] = [one for one in analyses(trainer) if one.write_csv]
    decided = [one.columns() for one in _deciding(trainer) if one.write_csv]
    if folder is None or not trainer.is_global_zero or not (readers or decided):
        return
    file = _files.get(trainer)
    if file is None or file.asked != folder / "readings.csv":
        file = _files[trainer] = CsvLog(folder / "readings.csv")
    histories = [one.history for one in readers]

    def rows(after: int | None) -> list[dict[str, Any]]:
        found: dict[int, dict[str, Any]] = {int(row["step"]): dict(row) for row in merge_rows(histories, after=after)}
        for columns in decided:
            for step, cells in columns.items():
                if after is None or step > after:
                    row = found.setdefault(step, {"step": step})
                    row.update({name: cell for name, cell in cells.items() if name not in row})
        return with_settings([found[step] for step in sorted(found)], histories)

    file.write(rows)
