"""Kinds of runs side by side: the readings of several seeds each, as means with their intervals."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from matplotlib.figure import Figure

from lightning_interp.figures.interval_curves import interval_curves
from lightning_interp.functional.student import t_quantile
from lightning_interp.offline.readings import (
    HasHistory,
    IntervalCurve,
    Readings,
    Source,
    interval_curve,
    nearest,
    rows_of,
)
from lightning_interp.reading.history import History
from lightning_interp.reporting.watched import MOST_PANELS, left_out, titles_of, watched

__all__ = ["Comparison", "HasHistory", "IntervalCurve", "compare"]


_Curves: TypeAlias = dict[str, dict[int, float]]

# Below it the interval of a mean is many times as wide as what differs between the seeds.
_FEW = 3

# What a row says of itself, and what readings cost or failed at: nothing of the model.
_NOT_MEASURED = ("step", "epoch")
_UPKEEP = ("seconds/", "failed/")


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

        ``low`` and ``high`` are the ends of the interval, NaN where a single seed has none.
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
        """Draw keys over training, one panel each, a band around each mean; a line alone for a single seed.

        Args:
            keys: What to draw; up to 12 are readable. Without them what a person watches, up to so many: the model's
                own metrics, and measures above chance where there is that; not how readings were taken, nor levels of
                chance. The figure says how many more there are.
            title: The heading of the figure.

        Returns:
            A figure that pyplot does not know of. Its axes follow the means and the bands of three seeds or more; a
            band of two, which is wide, goes beyond them.

        Raises:
            ValueError: If a key is none of those compared, or ``keys`` is empty.

        """
        chosen = [keys] if isinstance(keys, str) else (watched(self.keys) or self.keys) if keys is None else list(keys)
        if not chosen:
            raise ValueError(f"`keys` is empty: name at least one key, or give None; compared are {self.keys[:12]}.")
        shown = chosen[: MOST_PANELS if keys is None else None]
        titles = titles_of(shown)
        panels = {
            titles[key]: {
                _name(label, curve): (curve.steps, curve.means, curve.halves) for label, curve in self._of(key).items()
            }
            for key in shown
        }
        every = {_name(label, curve): curve.seeds for key in shown for label, curve in self._of(key).items()}
        few = [name for name, seeds in every.items() if seeds < _FEW]
        figure = interval_curves(panels, title=title, level=self.level, beyond=few)
        if note := left_out(len(shown), len(chosen), "name what to draw by plot(keys=...); .keys has all"):
            figure.supxlabel(note, fontsize=9)
        return figure

    def _of(self, key: str) -> Mapping[str, IntervalCurve]:
        if key not in self.curves:
            raise ValueError(f"{key!r} is not compared; {nearest(key, self.keys)}.")
        return self.curves[key]


def compare(
    runs: Mapping[str, Sequence[Source]], keys: str | Sequence[str] | None = None, level: float = 0.95
) -> Comparison:
    r"""Average the readings of several seeds, with the interval of the mean: :math:`\bar x \pm t \cdot s / \sqrt n`.

    A step counts where every seed of the label has a finite value; the others are left out and counted, since a mean
    over a changing set of seeds moves although no seed does. Labels need not share steps. The interval is that of one
    step: over many steps some are expected to miss. A single run is compared too, as it is, without an interval.

    Args:
        runs: A label for each kind of run → its seeds, one source each: a ``History``, a callback that has one, or the
            path of a ``readings.csv``, or ``Readings``, such as those of several callbacks.
        keys: What to compare, measured or logged by the model. Without them, every key that all sources have, at
            steps that the seeds of each label share, but for ``seconds/…`` and ``failed/…``.
        level: Confidence of the intervals.

    Returns:
        The means and intervals, as a table and as a figure. The order of seeds does not matter.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are no runs, a label has no source or one source twice, a source lacks a key or the seeds
            of a label share no step of it, no key is common to all, or ``level`` is not between 0 and 1.
        TypeError: If a source is none of those above.

    There is a warning where a label has two seeds: the interval of their mean is 6.4 times as wide, to each side, as
    they differ (``level=0.95``), and says little.

    Cost: milliseconds a thousand values, beside reading the files.

    Example:
        >>> from lightning_interp.reading.history import ReadingRow
        >>> seeds = []
        >>> for value in (0.8, 0.9, 0.7):
        ...     seeds.append(History())
        ...     seeds[-1].append(ReadingRow(step=10, epoch=0, index=0, values={"information/encoder": value}))
        >>> comparison = compare({"small": seeds})
        >>> [row] = comparison.table("information/encoder")
        >>> f"{row['label']} at step {row['step']}: {row['mean']:.2f}, {row['low']:.2f} to {row['high']:.2f}"
        'small at step 10: 0.80, 0.55 to 1.05'

    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1, got {level}.")
    if not runs:
        raise ValueError("`runs` is empty: expected {label: [one source a seed, ...]}.")
    for label, sources in runs.items():
        _check_sources(label, sources)
    read = {label: _seeds(label, sources) for label, sources in runs.items()}
    _warn_of_two([label for label, seeds in read.items() if len(seeds) == 2], level)
    if keys is not None:
        chosen = [keys] if isinstance(keys, str) else list(dict.fromkeys(keys))
        if not chosen:
            raise ValueError("`keys` is empty: name at least one key, or give None for all.")
        _check_keys(chosen, read)
    else:
        chosen = _common(read)
    curves = {
        key: {label: interval_curve([seed[key] for seed in seeds], level) for label, seeds in read.items()}
        for key in chosen
    }
    return Comparison(curves, level)


# ------------------------------------------------- sources


def _check_sources(label: str, sources: Sequence[Source]) -> None:
    """Before anything is read: whether these are sources at all, and whether files are there."""
    if isinstance(sources, str | os.PathLike | History | HasHistory | Readings):
        raise TypeError(f"runs[{label!r}] is one source; expected a list with one for each seed.")
    for place, source in enumerate(sources):
        if isinstance(source, str | os.PathLike) and not Path(source).is_file():
            raise FileNotFoundError(
                f"No such file: {os.fspath(source)!r}, runs[{label!r}][{place}]; expected a readings.csv. "
                f"{_nearby(Path(source))}"
            )
    if not len(sources):
        raise ValueError(f"runs[{label!r}] has no source; expected one for each seed.")


def _nearby(path: Path) -> str:
    """What is there in place of a file."""
    if path.is_dir():
        found = sorted(str(one.relative_to(path)) for one in path.rglob("*.csv"))
        return f"It is a folder with {found[:8]}." if found else "It is a folder without *.csv."
    folder = next(one for one in path.absolute().parents if one.is_dir())
    return f"{str(folder)!r} has {sorted(os.listdir(folder))[:8]}."


def _warn_of_two(labels: Sequence[str], level: float) -> None:
    if not labels:
        return
    two, three = (t_quantile((1 - level) / 2, seeds - 1) for seeds in (2, 3))
    warnings.warn(
        f"{labels} of `runs` have 2 seeds. The {100 * level:g} % interval of their mean is ± {two:.1f} standard errors "
        f"(± {three:.1f} of 3 seeds), and says little. Train more of them, or compare each as a label of its own.",
        stacklevel=3,
    )


def _name(label: str, curve: IntervalCurve) -> str:
    return f"{label} (one run)" if curve.seeds == 1 else f"{label} (n = {curve.seeds})"


def _seeds(label: str, sources: Sequence[Source]) -> list[_Curves]:
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
    try:
        rows = rows_of(source, where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    curves: _Curves = {}
    for row in rows:
        for key, value in row.items():
            if key not in _NOT_MEASURED and math.isfinite(value):
                curves.setdefault(key, {})[int(row["step"])] = float(value)
    return curves


# ------------------------------------------------- keys and curves


def _check_keys(keys: Sequence[str], read: Mapping[str, Sequence[_Curves]]) -> None:
    for key in keys:
        for label, seeds in read.items():
            for place, seed in enumerate(seeds):
                if key not in seed:
                    raise ValueError(f"runs[{label!r}][{place}] has no finite value of {key!r}; {nearest(key, seed)}.")
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
