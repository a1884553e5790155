"""A part: when each of several things was acquired, by the accuracies that an analysis reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from matplotlib.figure import Figure

from lightning_interp.figures.acquisition_chart import acquisition_chart
from lightning_interp.figures.site_heatmap import site_heatmap
from lightning_interp.functional.acquisition import LearnedCurve, acquisition_order, reached
from lightning_interp.reading.history import History
from lightning_interp.reading.part import Part
from lightning_interp.reading.reading import Reading

__all__ = ["Acquisition", "Curve"]

Curve = tuple[list[int], list[float]]
"""Steps, rising, and the value at each."""


class _Analysis(Protocol):
    """What is asked of the analysis that holds the part."""

    history: History

    def full_key(self, key: str) -> str: ...


class Acquisition(Part):
    """Follows the accuracies that an analysis reads, and tells since when, and in which order, things are acquired.

    The analysis says under which keys they are; values are taken from its history, so that nothing is kept twice. It
    hands itself in. Where samples turn out to be others, only readings of the present ones are compared.

    Args:
        keys: What is followed, and the key of its accuracy, more is better. Where keys depend on the model, they are
            set again when it is there.
        chance: The level of chance, of all or by name.
        tag: What tags and titles of the figures begin with.
        label: What colours of the heat map stand for.

    Example:
        >>> from lightning_interp.reading.history import ReadingRow
        >>> class Probe:
        ...     history = History()
        ...     def full_key(self, key):
        ...         return key
        >>> probe, acquisition = Probe(), Acquisition({"nouns": "accuracy/nouns", "verbs": "accuracy/verbs"})
        >>> for step, (nouns, verbs) in {1: (0.1, 0.1), 2: (0.9, 0.1), 3: (0.9, 0.8)}.items():
        ...     probe.history.append(ReadingRow(step, 0, step, {"accuracy/nouns": nouns, "accuracy/verbs": verbs}))
        >>> print(acquisition.summary(probe))
                   first    best   final  acquired at step
        nouns      0.100   0.900   0.900  2 (1 to 2)
        verbs      0.100   0.800   0.800  3 (2 to 3)

    """

    attached = ("_now",)

    def __init__(
        self,
        keys: Mapping[str, str],
        chance: float | Mapping[str, float] = 0.0,
        tag: str = "acquisition",
        label: str = "accuracy",
    ) -> None:
        self.keys = dict(keys)
        self.chance = chance
        self.tag, self.label = tag, label
        self.clear()

    # ------------------------------------------------- its life

    def clear(self) -> None:
        """A new fit."""
        self._now: Reading | None = None
        self._since: int | None = None
        """The step of the first reading of the present samples, where those before were of others."""

    def begin(self, reading: Reading) -> None:
        """A reading starts."""
        self._now = reading

    def forget(self) -> None:
        """The reading is over, or given up."""
        self._now = None

    def start_anew(self) -> None:
        """Compare with later readings only."""
        self._since = self._step

    def state_dict(self) -> dict[str, Any]:
        """Since which step samples are the present ones."""
        return {"since": self._since}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a checkpoint left off."""
        self._since = state["since"]

    @property
    def _step(self) -> int | None:
        """The step of the reading of a fit that is being taken."""
        return self._now.step if self._now is not None and self._now.counts else None

    # ------------------------------------------------- levels and curves

    def chance_levels(self) -> dict[str, float]:
        """The level of chance of each thing."""
        chance = self.chance
        return {name: chance[name] if isinstance(chance, Mapping) else chance for name in self.keys}

    def curve(self, analysis: _Analysis, key: str, now: float | None = None) -> Curve:
        """A key over the fit, with the value that is being read where there is one."""
        steps, values = analysis.history.series(analysis.full_key(key))
        step = self._step
        if now is None or step is None:
            return steps, values
        if steps and steps[-1] == step:
            return steps, [*values[:-1], now]
        return [*steps, step], [*values, now]

    def comparable(self, analysis: _Analysis, key: str, now: float | None = None) -> Curve:
        """The part of :meth:`curve` that is of the present samples."""
        changed = self._now is not None and self._now.changed is not None and self._step is not None
        since = self._step if changed else self._since
        steps, values = self.curve(analysis, key, now)
        kept = [place for place, step in enumerate(steps) if since is None or step >= since]
        return [steps[place] for place in kept], [values[place] for place in kept]

    # ------------------------------------------------- what was acquired when

    def since(self, analysis: _Analysis, values: Mapping[str, float], levels: Mapping[str, float]) -> dict[str, float]:
        """Since which step each thing has been at its level at every reading, the present one included.

        Args:
            analysis: The analysis.
            values: What is being read, by key.
            levels: The level of each thing.

        Returns:
            Steps by name; NaN for what is below its level now. What was acquired and lost again begins anew.

        """
        curves = {name: self.comparable(analysis, key, values[key]) for name, key in self.keys.items()}
        return {name: reached(*curve, levels[name]).high for name, curve in curves.items()}

    def order(self, analysis: _Analysis, share: float = 0.9) -> list[LearnedCurve]:
        """What was acquired first, by the readings so far: see :func:`lightning_interp.functional.acquisition_order`.

        A thing is acquired where its accuracy came to the share of its final level above chance and stayed there, the
        final level being that of the last reading. To be asked when the fit is over. Readings of other samples than the
        last one's are left out.

        Args:
            analysis: The analysis.
            share: Of the final level above chance.

        """
        curves = {name: self.comparable(analysis, key) for name, key in self.keys.items()}
        return acquisition_order(curves, share, self.chance_levels())

    def summary(self, analysis: _Analysis, share: float = 0.9, notes: Mapping[str, str] | None = None) -> str:
        """:meth:`order` as a table of text, a line each.

        Args:
            analysis: The analysis.
            share: Of the final level above chance.
            notes: What is added to a line, by name.

        """
        found, told = self.order(analysis, share), notes or {}
        width = max([8, *(len(one.name) for one in found)])
        lines = [f"{'':{width}}  {'first':>6}  {'best':>6}  {'final':>6}  acquired at step"]
        for one in found:
            when = one.acquired
            between = "never" if math.isnan(when.step) else f"{when.step:.0f} ({when.low:.0f} to {when.high:.0f})"
            levels = "  ".join(f"{value:6.3f}" for value in (one.first, one.best, one.final))
            lines.append(f"{one.name:{width}}  {levels}  {between}  {told.get(one.name, '')}".rstrip())
        return "\n".join(lines)

    # ------------------------------------------------- pictures

    def figures(self, analysis: _Analysis) -> dict[str, Callable[[], Figure]]:
        """The accuracies as a heat map, and when each thing was acquired."""
        return {
            f"{self.tag}/accuracy": partial(self._heatmap, analysis),
            f"{self.tag}/order": partial(self._chart, analysis),
        }

    def _heatmap(self, analysis: _Analysis) -> Figure:
        curves = {name: dict(zip(*self.curve(analysis, key), strict=True)) for name, key in self.keys.items()}
        steps = sorted({step for curve in curves.values() for step in curve})
        values = [[curve.get(step, math.nan) for step in steps] for curve in curves.values()]
        return site_heatmap(steps, list(curves), values, f"{self.tag}: accuracy", self.label)

    def _chart(self, analysis: _Analysis) -> Figure:
        acquired = {one.name: [one.acquired] for one in self.order(analysis)}
        steps, _ = self.curve(analysis, next(iter(self.keys.values())))
        return acquisition_chart(acquired, f"{self.tag}: when 90 % of the final level was reached", steps)
