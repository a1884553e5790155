"""What callbacks share that follow how well a model does at many things, and tell when each was acquired."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

from matplotlib.figure import Figure

from lightning_interp.callbacks.analysis import Draw, ValidationAnalysis
from lightning_interp.figures.acquisition_chart import acquisition_chart
from lightning_interp.figures.site_heatmap import site_heatmap
from lightning_interp.functional.acquisition import LearnedCurve, acquisition_order

__all__ = ["AcquisitionAnalysis"]


class AcquisitionAnalysis(ValidationAnalysis):
    """A callback whose readings have an accuracy for each of several things.

    A subclass says under which keys the accuracies are and what the level of chance is; this class knows the step of
    the reading that is being taken, and tells the order in which things were acquired.
    """

    def clear(self) -> None:
        """Forget everything that belongs to one fit."""
        super().clear()
        self._since: int | None = None
        """The step of the first reading on the present samples, where those before were of others."""

    # ------------------------------------------------- what a subclass fills in

    @abstractmethod
    def accuracy_keys(self) -> dict[str, str]:
        """What is followed, and the key of its accuracy."""

    def chance_levels(self) -> dict[str, float]:
        """The level of chance of each; 0 where none is given."""
        return {}

    def figure_names(self) -> tuple[str, str]:
        """What tags begin with, and what rows of the figures are."""
        return "acquisition", "accuracy"

    def notes(self) -> dict[str, str]:
        """What :meth:`summary` adds to a line, by name."""
        return {}

    # ------------------------------------------------- what was learned when

    def order(self, share: float = 0.9) -> list[LearnedCurve]:
        """What was acquired first, by the readings so far: see :func:`lightning_interp.functional.acquisition_order`.

        A thing is acquired where its accuracy came to the share of its final level above chance and stayed there, the
        final level being that of the last reading. To be asked when the fit is over. Readings of other samples than the
        last one's are left out.

        Args:
            share: Of the final level above chance.

        """
        chance = self.chance_levels()
        curves = {name: self._comparable(*self._curve(key)) for name, key in self.accuracy_keys().items()}
        return acquisition_order(curves, share, {name: chance.get(name, 0.0) for name in curves})

    def summary(self, share: float = 0.9) -> str:
        """:meth:`order` as a table of text, a line each.

        Args:
            share: Of the final level above chance.

        """
        found, notes = self.order(share), self.notes()
        width = max([8, *(len(one.name) for one in found)])
        lines = [f"{'':{width}}  {'first':>6}  {'best':>6}  {'final':>6}  acquired at step"]
        for one in found:
            when = one.acquired
            between = "never" if math.isnan(when.step) else f"{when.step:.0f} ({when.low:.0f} to {when.high:.0f})"
            levels = "  ".join(f"{value:6.3f}" for value in (one.first, one.best, one.final))
            lines.append(f"{one.name:{width}}  {levels}  {between}  {notes.get(one.name, '')}".rstrip())
        return "\n".join(lines)

    # ------------------------------------------------- inside

    def _comparable(self, steps: list[int], values: list[float]) -> tuple[list[int], list[float]]:
        """The part of a curve that is of the present samples."""
        since = self._since if self.now is None or self.now.changed is None or self.step is None else self.step
        pairs = [(step, value) for step, value in zip(steps, values, strict=True) if since is None or step >= since]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def _curve(self, key: str, now: float | None = None) -> tuple[list[int], list[float]]:
        """Steps and values of a key over the fit, with the value that is being read where there is one."""
        steps, values = self.history.series(self.full_key(key))
        if now is None or self.step is None:
            return steps, values
        if steps and steps[-1] == self.step:
            return steps, [*values[:-1], now]
        return [*steps, self.step], [*values, now]

    # ------------------------------------------------- pictures

    def figures(self) -> Mapping[str, Draw]:
        """The accuracies as a heat map, and when each thing was acquired."""
        tag, _ = self.figure_names()
        return {f"{tag}/accuracy": self._heatmap_figure, f"{tag}/order": self._order_figure}

    def _heatmap_figure(self) -> Figure:
        tag, label = self.figure_names()
        curves = {name: dict(zip(*self._curve(key), strict=True)) for name, key in self.accuracy_keys().items()}
        steps = sorted({step for curve in curves.values() for step in curve})
        values = [[curve.get(step, math.nan) for step in steps] for curve in curves.values()]
        return site_heatmap(steps, list(curves), values, f"{tag}: accuracy", label)

    def _order_figure(self) -> Figure:
        tag, _ = self.figure_names()
        acquired = {one.name: [one.acquired] for one in self.order()}
        steps, _ = self._curve(next(iter(self.accuracy_keys().values())))
        return acquisition_chart(acquired, f"{tag}: when 90 % of the final level was reached", steps)
