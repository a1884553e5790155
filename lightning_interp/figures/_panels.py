"""What figures of several panels share: the checks of their lines, how a line is drawn, how a panel is finished."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

from lightning_interp.figures._style import finite

__all__ = [
    "MARKED",
    "Line",
    "Panels",
    "checked_lines",
    "checked_steps",
    "draw_line",
    "finish_panel",
    "log_y_axis",
    "lone",
    "panel_columns",
    "positive",
]

Panels: TypeAlias = Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float]]]]
Line: TypeAlias = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]

MARKED = 25  # Up to so many readings a line shows each as a marker, beyond it every few.


def checked_steps(maps: Sequence[tuple[int, Any]]) -> list[int]:
    """The steps of maps, a panel a reading, or a ``ValueError`` where there is none or they do not increase."""
    steps = [step for step, _ in maps]
    if not steps or any(after <= before for before, after in pairwise(steps)):
        raise ValueError(f"maps has the steps {steps}; expected at least one reading, and increasing steps.")
    return steps


def checked_lines(panel: str, lines: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> dict[str, Line]:
    """The lines of a panel as arrays, infinite values as NaN, or a ``ValueError`` that names the line at fault."""
    checked: dict[str, Line] = {}
    for label, (steps, values) in lines.items():
        where = f"panels[{panel!r}][{label!r}]"
        if len(steps) != len(values):
            raise ValueError(f"{where} has {len(steps)} steps and {len(values)} values; expected as many of each.")
        at = np.array(steps, dtype=np.int64)
        if (np.diff(at) <= 0).any() or (at < 0).any():
            raise ValueError(f"{where} has steps {list(steps)}; expected increasing steps from 0 on.")
        checked[label] = (at, finite(values))
    return checked


def panel_columns(panels: int) -> int:
    """In how many columns so many panels are drawn."""
    return {1: 1, 2: 2, 3: 3, 4: 2, 5: 3, 6: 3, 7: 4, 8: 4, 9: 3}.get(panels, 4)


def lone(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which values have no value beside them, so that a line does not show them."""
    there = np.pad(~np.isnan(values), 1)
    alone: np.ndarray[Any, Any] = there[1:-1] & ~there[:-2] & ~there[2:]
    return alone


def draw_line(
    axes: Axes,
    steps: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    style: dict[str, Any],
    order: int,
    width: float = 1.5,
) -> None:
    """Draw one of several lines, its ``order`` among them counted from 0."""
    alone = lone(values)
    stride = 1 if (~np.isnan(values)).sum() <= MARKED else math.ceil(len(values) / 8)
    # Lines start their marks at different readings, so that marks of close lines do not lie on one another.
    marked = alone | ((np.arange(len(values)) - order) % stride == 0)
    axes.plot(
        steps, values, linewidth=width, markersize=2.3 * width, markevery=np.flatnonzero(marked).tolist(), **style
    )


def finish_panel(axes: Axes, empty: bool) -> None:
    """Grid, frame and the ticks of a linear y axis; where the panel is empty it says so."""
    axes.tick_params(labelsize=8)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)
    if empty:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "no readings", transform=axes.transAxes, ha="center", va="center", color="0.5", fontsize=9)


def positive(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values that a logarithmic axis has a place for; NaN for the others."""
    return np.where(values > 0, values, np.nan)


def log_y_axis(axes: Axes, values: np.ndarray[Any, Any]) -> None:
    """Make the y axis logarithmic, with ticks for these values."""
    axes.set_yscale("log")
    decades = np.log10(np.nanmax(values) / np.nanmin(values))
    # Within a decade round numbers such as 2 and 4 tell more than the powers of ten, of which it holds one at most.
    powers = LogLocator(subs=(1, 3) if decades < 2.5 else (1,), numticks=4)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3, steps=[1, 2, 5, 10]) if decades < 1 else powers)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
