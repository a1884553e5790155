"""The readings of a run as one table, whoever took them; and the mean of several runs."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from lightning_interp.functional.student import mean_interval
from lightning_interp.reading.history import History, merge_rows
from lightning_interp.reading.readings_table import data_frame, read_rows

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["HasHistory", "IntervalCurve", "Readings", "Source", "mean_curve", "nearest"]


Curve: TypeAlias = tuple[list[int], list[float]]
"""Steps, increasing, and the value at each."""


@runtime_checkable
class HasHistory(Protocol):
    """A callback that keeps its readings."""

    history: History


@dataclass(frozen=True, repr=False)
class Readings:
    """The readings of one run: a row a step, in which those of all its callbacks stand side by side.

    A :class:`~lightning_interp.reading.History` is what one callback has read; this is the table of a whole run, be it
    under way, from a file, or both. It has a length, and is iterated over row by row.

    Args:
        rows: ``step`` and what was read at it, by increasing step; a row lacks what was not read at its step.

    Example:
        >>> run = Readings([{"step": 10, "val_loss": 2.0}, {"step": 20, "val_loss": 1.5, "information/encoder": 0.9}])
        >>> run
        Readings(2 rows of 2 keys, steps 10 to 20)
        >>> run.keys
        ['val_loss', 'information/encoder']
        >>> run.series("val_loss"), run.steps("information/encoder"), run.last("val_loss")
        (([10, 20], [2.0, 1.5]), [20], 1.5)

    """

    rows: Sequence[Mapping[str, float]]

    @classmethod
    def of(cls, *sources: Source) -> Readings:
        """The table of one run's sources side by side.

        Args:
            sources: Callbacks, their histories, paths of a ``readings.csv``, or other tables. Of two values under one
                key and step the later source's counts.

        Raises:
            TypeError: If a source is none of those.
            ValueError: If there is no source, or a file is none of readings.

        Example:
            >>> from lightning_interp.reading.history import Reading
            >>> structure, noise = History(), History()
            >>> structure.append(Reading(step=10, epoch=0, index=0, values={"information/encoder": 0.9}))
            >>> noise.append(Reading(step=10, epoch=0, index=0, values={"robustness/input/val_acc": 0.5}))
            >>> Readings.of(structure, noise).rows
            [{'step': 10, 'epoch': 0, 'information/encoder': 0.9, 'robustness/input/val_acc': 0.5}]

        """
        if not sources:
            raise ValueError("`sources` is empty: expected callbacks, histories, tables or paths of a readings.csv.")
        if len(sources) == 1:
            return cls(rows_of(sources[0]))
        merged: dict[float, dict[str, float]] = {}
        for source in sources:
            for row in rows_of(source):
                merged.setdefault(row["step"], {}).update(row)
        return cls([merged[step] for step in sorted(merged)])

    @classmethod
    def runs(cls, path: str | os.PathLike[str], by: Sequence[str]) -> dict[tuple[int | float, ...], Readings]:
        """The tables of a file that holds several runs, told apart by some of its columns.

        Args:
            path: A file like a ``readings.csv``, with the rows of one run below those of another.
            by: The columns, such as ``["width", "seed"]``.

        Returns:
            The values of these columns → its run, in the order of the file.

        Raises:
            ValueError: If a row lacks such a column, or the file is none of readings.

        Example:
            >>> import tempfile
            >>> from lightning_interp.reading.readings_table import write_rows
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     rows = [{"seed": seed, "step": 10, "val_loss": seed / 2} for seed in (0, 1)]
            ...     write_rows(f"{folder}/runs.csv", rows)
            ...     found = Readings.runs(f"{folder}/runs.csv", by=["seed"])
            >>> found[1,].last("val_loss")
            0.5

        """
        found: dict[tuple[int | float, ...], list[dict[str, float]]] = {}
        for row in read_rows(path):
            if lacking := [column for column in by if column not in row]:
                raise ValueError(
                    f"{str(path)!r} has a row without {lacking}, step {row['step']:g}; it has {list(row)}."
                )
            which = tuple(int(value) if value.is_integer() else value for value in (row[column] for column in by))
            found.setdefault(which, []).append(row)
        return {which: cls(rows) for which, rows in found.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Mapping[str, float]]:
        return iter(self.rows)

    def __repr__(self) -> str:
        if not self.rows:
            return "Readings(no rows)"
        ends = sorted({int(self.rows[0]["step"]), int(self.rows[-1]["step"])})
        return (
            f"Readings({len(self)} row{'s' * (len(self) != 1)} of {len(self.keys)} key{'s' * (len(self.keys) != 1)}, "
            f"step{'s' * (len(ends) > 1)} {' to '.join(map(str, ends))})"
        )

    @property
    def keys(self) -> list[str]:
        """Every key that was read, in the order of first appearance."""
        found = dict.fromkeys(key for row in self.rows for key in row)
        return [key for key in found if key not in ("step", "epoch")]

    def steps(self, key: str | None = None) -> list[int]:
        """The steps at which a key was read, or without one all steps, increasing."""
        return sorted({int(row["step"]) for row in self.rows if key is None or key in row})

    def series(self, key: str) -> Curve:
        """Steps, increasing, and values of a key, where it was read; of several at one step the last counts."""
        by_step = {int(row["step"]): row[key] for row in self.rows if key in row}
        steps = sorted(by_step)
        return steps, [by_step[step] for step in steps]

    def last(self, key: str) -> float:
        """The value of a key at the last reading that has it.

        Raises:
            ValueError: If none has it.

        """
        _, values = self.series(key)
        if not values:
            raise ValueError(f"No reading has {key!r}; {nearest(key, self.keys)}.")
        return values[-1]

    def until(self, step: int) -> Readings:
        """The readings up to a step, which is included."""
        return Readings([row for row in self.rows if row["step"] <= step])

    def panels(self, panels: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Curve]]:
        """What the functions of :mod:`lightning_interp.figures` draw: panels of curves, without what was not read.

        Args:
            panels: Title of each panel → name of each line → its key.

        Example:
            >>> run = Readings([{"step": 10, "val_loss": 2.0}])
            >>> run.panels({"loss": {"validation": "val_loss"}, "score": {"validation": "val_acc"}})
            {'loss': {'validation': ([10], [2.0])}}

        """
        drawn = {
            panel: {line: self.series(key) for line, key in lines.items() if self.steps(key)}
            for panel, lines in panels.items()
        }
        return {panel: lines for panel, lines in drawn.items() if lines}

    def table(self, columns: Mapping[str, str], digits: int = 4) -> str:
        """The readings as text: a line a step, blank where a key was not read.

        Args:
            columns: Heading of each column → its key.
            digits: Behind the point.

        Example:
            >>> print(Readings([{"step": 10, "val_loss": 2.0}, {"step": 20}]).table({"loss": "val_loss"}))
              step        loss
                10      2.0000
                20

        """
        widths = [(key, max(10, len(name))) for name, key in columns.items()]
        lines = ["  ".join(["  step", *(f"{name:>10}" for name in columns)])]
        for row in self.rows:
            cells = (f"{row[key]:{width}.{digits}f}" if key in row else " " * width for key, width in widths)
            lines.append("  ".join([f"{row['step']:6.0f}", *cells]).rstrip())
        return "\n".join(lines)

    def to_pandas(self) -> pd.DataFrame:
        """A row a step, which is the index; a column for the epoch, where it is known, and for each key.

        Raises:
            ImportError: If pandas is not installed.

        """
        return data_frame(self.rows, ["step"], "Readings.series(key)")


Source: TypeAlias = History | HasHistory | Readings | str | os.PathLike[str]
"""Where readings of one run are."""


def rows_of(source: object, where: str = "a source") -> Sequence[Mapping[str, float]]:
    """The rows of a source; ``where`` is what an error calls it."""
    if isinstance(source, Readings):
        return source.rows
    if isinstance(source, str | os.PathLike):
        return read_rows(source)
    history = source if isinstance(source, History) else getattr(source, "history", None)
    if not isinstance(history, History):
        raise TypeError(
            f"{where} is a {type(source).__name__}; expected a History, a callback with `.history`, Readings, or the "
            "path of a readings.csv."
        )
    return merge_rows([history])


@dataclass(frozen=True)
class IntervalCurve:
    """One key of one kind of run over training.

    Args:
        steps: Steps at which every seed has a finite value, increasing.
        means: The mean over the seeds at each.
        halves: Half the width of its interval; NaN for one seed, which has none.
        seeds: How many seeds there are.
        left_out: At how many further steps some seed, but not every one, has a finite value.

    """

    steps: tuple[int, ...]
    means: tuple[float, ...]
    halves: tuple[float, ...]
    seeds: int
    left_out: int


def mean_curve(seeds: Sequence[Readings], key: str, level: float = 0.95) -> IntervalCurve:
    r"""One key averaged over seeds, with the interval of the mean: :math:`\bar x \pm t \cdot s / \sqrt n`.

    A step counts where every seed has a finite value, since a mean over a changing set of seeds moves although no seed
    does. The interval is that of one step: over many steps some are expected to miss.

    Args:
        seeds: The runs.
        key: What is averaged.
        level: Confidence of the intervals.

    Raises:
        ValueError: If there is no run, or ``level`` is not between 0 and 1.

    Example:
        >>> runs = [Readings([{"step": 10, "val_loss": value}]) for value in (0.8, 0.9, 0.7)]
        >>> curve = mean_curve(runs, "val_loss")
        >>> f"step {curve.steps[0]}: {curve.means[0]:.2f} ± {curve.halves[0]:.2f} over {curve.seeds} seeds"
        'step 10: 0.80 ± 0.25 over 3 seeds'

    """
    if not seeds:
        raise ValueError("`seeds` is empty: expected one table a run.")
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    finite = [
        {step: value for step, value in zip(*one.series(key), strict=True) if math.isfinite(value)} for one in seeds
    ]
    return interval_curve(finite, level)


def interval_curve(seeds: Sequence[Mapping[int, float]], level: float) -> IntervalCurve:
    """The mean curve of seeds that are given as step → finite value."""
    steps = sorted(set.intersection(*(set(seed) for seed in seeds)))
    if len(seeds) == 1:
        intervals = [(seeds[0][step], math.nan) for step in steps]
    else:
        intervals = [mean_interval([seed[step] for seed in seeds], level) for step in steps]
    return IntervalCurve(
        steps=tuple(steps),
        means=tuple(mean for mean, _ in intervals),
        halves=tuple(half for _, half in intervals),
        seeds=len(seeds),
        left_out=len(set().union(*seeds)) - len(steps),
    )


def nearest(key: str, available: Sequence[str] | Mapping[str, object]) -> str:
    """What there is in place of a key, for an error.

    Example:
        >>> nearest("val_los", ["val_loss", "val_acc"])
        "nearest are ['val_loss']"

    """
    near = difflib.get_close_matches(key, list(available), n=3)
    return f"nearest are {near}" if near else f"available are {list(available)[:12]}"
