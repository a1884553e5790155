"""Kinds of runs side by side: the readings of several seeds each, as means with their intervals."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable

from matplotlib.figure import Figure

from lightning_interp.figures.interval_curves import interval_curves
from lightning_interp.functional.student import mean_interval
from lightning_interp.history import History, merge_rows, read_rows

__all__ = ["Comparison", "HasHistory", "IntervalCurve", "compare"]


@runtime_checkable
class HasHistory(Protocol):
    """A callback that keeps its readings."""

    history: History


Source: TypeAlias = History | HasHistory | str | os.PathLike[str]
_Curves: TypeAlias = dict[str, dict[int, float]]

# What a row says of itself, and what readings cost or failed at: nothing of the model.
_NOT_MEASURED = ("step", "epoch")
_UPKEEP = ("seconds/", "failed/")


@dataclass(frozen=True)
class IntervalCurve:
    """One key of one kind of run over training.

    Args:
        steps: Steps at which every seed has a finite value, increasing.
        means: The mean over the seeds at each.
        halves: Half the width of its interval.
        seeds: How many seeds there are.
        left_out: At how many further steps some seed, but not every one, has a finite value.

    """

    steps: tuple[int, ...]
    means: tuple[float, ...]
    halves: tuple[float, ...]
    seeds: int
    left_out: int


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Args:
        curves: Key → label → its curve.
        level: The confidence of the intervals.

    """

    curves: Mapping[str, Mapping[str, IntervalCurve]]
    level: float

    @property
    def keys(self) -> list[str]:
        """What is compared."""
        return list(self.curves)

    @property
    def labels(self) -> list[str]:
        """The kinds of runs."""
        return list(next(iter(self.curves.values())))

    def curve(self, key: str, label: str) -> IntervalCurve:
        """The curve of one key and label."""
        found = self._of(key)
        if label not in found:
            raise ValueError(f"There are no runs {label!r}; there are {self.labels}.")
        return found[label]

    def table(self, key: str) -> list[dict[str, str | int | float]]:
        """A row for every label and step: ``label``, ``step``, ``mean``, ``low``, ``high``, ``seeds``.

        ``low`` and ``high`` are the ends of the interval.
        """
        return [
            {
                "label": label,
                "step": step,
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
                "seeds": curve.seeds,
            }
            for label, curve in self._of(key).items()
            for step, mean, half in zip(curve.steps, curve.means, curve.halves, strict=True)
        ]

    def plot(self, keys: str | Sequence[str] | None = None, title: str | None = None) -> Figure:
        """Draw keys (all where none are named) over training, one panel each, a band around each mean.

        Args:
            keys: What to draw; up to 12 are readable.
            title: The heading of the figure.

        Raises:
            ValueError: If a key is none of those compared.

        """
        chosen = self.keys if keys is None else [keys] if isinstance(keys, str) else list(keys)
        panels = {
            key: {
                f"{label} (n = {curve.seeds})": (curve.steps, curve.means, curve.halves)
                for label, curve in self._of(key).items()
            }
            for key in chosen
        }
        return interval_curves(panels, title=title, level=self.level)

    def _of(self, key: str) -> Mapping[str, IntervalCurve]:
        if key not in self.curves:
            raise ValueError(f"{key!r} is not compared; {_offer(key, self.keys)}.")
        return self.curves[key]


def compare(
    runs: Mapping[str, Sequence[Source]], keys: str | Sequence[str] | None = None, level: float = 0.95
) -> Comparison:
    r"""Average the readings of several seeds, with the interval of the mean: :math:`\bar x \pm t \cdot s / \sqrt n`.

    A step counts where every seed of the label has a finite value; the others are left out and counted, since a mean
    over a changing set of seeds moves although no seed does. Labels need not share steps. The interval is that of one
    step: over many steps some are expected to miss.

    Args:
        runs: A label for each kind of run → its seeds, at least 2, one source each: a ``History``, a callback that has
            one, or the path of a ``readings.csv``.
        keys: What to compare, measured or logged by the model. Without them, every key that all sources have, at
            steps that the seeds of each label share, but for ``seconds/…`` and ``failed/…``.
        level: Confidence of the intervals.

    Returns:
        The means and intervals, as a table and as a figure. The order of seeds does not matter.

    Raises:
        ValueError: If there are no runs, a label has fewer than 2 seeds or one source twice, a source lacks a key or
            the seeds of a label share no step of it, no key is common to all, or ``level`` is not between 0 and 1.
        TypeError: If a source is none of those above.

    Cost: milliseconds a thousand values, beside reading the files.

    Example:
        >>> from lightning_interp.history import Reading
        >>> seeds = []
        >>> for value in (0.8, 0.9, 0.7):
        ...     seeds.append(History())
        ...     seeds[-1].append(Reading(step=10, epoch=0, index=0, values={"information/encoder": value}))
        >>> comparison = compare({"small": seeds})
        >>> [row] = comparison.table("information/encoder")
        >>> f"{row['label']} at step {row['step']}: {row['mean']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
        'small at step 10: 0.80, 0.55 to 1.05'

    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    if not runs:
        raise ValueError("`runs` is empty: expected {label: [one source a seed, ...]}.")
    read = {label: _seeds(label, sources) for label, sources in runs.items()}
    if keys is not None:
        chosen = [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))
        if not chosen:
            raise ValueError("`keys` is empty: name at least one key, or give None for all.")
        _check_keys(chosen, read)
    else:
        chosen = _common(read)
    curves = {
        key: {label: _curve([seed[key] for seed in seeds], level) for label, seeds in read.items()} for key in chosen
    }
    return Comparison(curves, level)


# ------------------------------------------------- sources


def _seeds(label: str, sources: Sequence[Source]) -> list[_Curves]:
    if isinstance(sources, str | os.PathLike | History | HasHistory):
        raise TypeError(f"runs[{label!r}] is one source; expected a list with one for each seed.")
    if len(sources) < 2:
        raise ValueError(f"runs[{label!r}] has {len(sources)} source(s); an interval needs at least 2 seeds.")
    places: dict[object, int] = {}
    for place, source in enumerate(sources):
        same = places.setdefault(_identity(source), place)
        if same != place:
            raise ValueError(f"runs[{label!r}] has one source twice, at {same} and {place}; each counts as a seed.")
    return [_read(f"runs[{label!r}][{place}]", source) for place, source in enumerate(sources)]


def _identity(source: Source) -> object:
    if isinstance(source, str | os.PathLike):
        return Path(source).resolve()
    return id(source if isinstance(source, History) else getattr(source, "history", source))


def _read(where: str, source: Source) -> _Curves:
    """Key → step → finite value, rows as in a ``readings.csv`` whatever the source."""
    if isinstance(source, str | os.PathLike):
        rows = _rows(where, Path(source))
    elif isinstance(source, History):
        rows = merge_rows([source])
    elif isinstance(source, HasHistory) and isinstance(source.history, History):
        rows = merge_rows([source.history])
    else:
        raise TypeError(
            f"{where} is a {type(source).__name__}; expected a History, a callback with `.history`, or the path of a "
            "readings.csv."
        )
    curves: _Curves = {}
    for row in rows:
        for key, value in row.items():
            if key not in _NOT_MEASURED and math.isfinite(value):
                curves.setdefault(key, {})[int(row["step"])] = float(value)
    return curves


def _rows(where: str, path: Path) -> list[dict[str, float]]:
    if not path.is_file():
        raise ValueError(f"{where} is {str(path)!r}, where there is no file; expected a readings.csv.")
    try:
        return read_rows(path)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


# ------------------------------------------------- keys and curves


def _check_keys(keys: Sequence[str], read: Mapping[str, Sequence[_Curves]]) -> None:
    for key in keys:
        for label, seeds in read.items():
            for place, seed in enumerate(seeds):
                if key not in seed:
                    raise ValueError(f"runs[{label!r}][{place}] has no finite value of {key!r}; {_offer(key, seed)}.")
            if not _shared([seed[key] for seed in seeds]):
                steps = [sorted(seed[key])[:5] for seed in seeds]
                raise ValueError(f"The seeds of {label!r} share no step of {key!r}; their first steps are {steps}.")


def _common(read: Mapping[str, Sequence[_Curves]]) -> list[str]:
    every = [seed for seeds in read.values() for seed in seeds]
    keys = [
        key
        for key in every[0]
        if all(key in seed for seed in every)
        and not any(part in key for part in _UPKEEP)
        and all(_shared([seed[key] for seed in seeds]) for seeds in read.values())
    ]
    if not keys:
        held = {label: list(dict.fromkeys(key for seed in seeds for key in seed))[:8] for label, seeds in read.items()}
        raise ValueError(f"No key is common to all sources at shared steps; they have {held}.")
    return sorted(keys)


def _shared(seeds: Sequence[Mapping[int, float]]) -> list[int]:
    return sorted(set.intersection(*(set(seed) for seed in seeds)))


def _curve(seeds: Sequence[Mapping[int, float]], level: float) -> IntervalCurve:
    steps = _shared(seeds)
    intervals = [mean_interval([seed[step] for seed in seeds], level) for step in steps]
    return IntervalCurve(
        steps=tuple(steps),
        means=tuple(mean for mean, _ in intervals),
        halves=tuple(half for _, half in intervals),
        seeds=len(seeds),
        left_out=len(set().union(*seeds)) - len(steps),
    )


def _offer(key: str, available: Sequence[str] | Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key, list(available), n=3)
    return f"nearest are {near}" if near else f"available are {list(available)[:12]}"
