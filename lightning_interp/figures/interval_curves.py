"""Means over seeds with their intervals: small multiples with one line per kind of run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._style import finite, line_styles
from lightning_interp.figures.measure_curves import measure_curves

__all__ = ["IntervalPanels", "interval_curves"]

IntervalPanels: TypeAlias = Mapping[str, Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]]]


def interval_curves(
    panels: IntervalPanels, title: str | None = None, level: float = 0.95, beyond: Collection[str] = ()
) -> Figure:
    r"""Draw means over training steps on a logarithmic axis, each in the band of its interval, one panel per measure.

    As :func:`measure_curves`, which draws lines and bands; the legend says what the band is. A line of one step has a
    bar in place of the band; a half-width of NaN is no band.

    Args:
        panels: Panel title → line label → (steps, means, half-widths), steps increasing, all of one length.
        title: The heading of the figure.
        level: The intervals' confidence, which the legend names.
        beyond: Labels of lines whose bands may go beyond the axes, which follow the rest: one band that is far wider
            than the others would leave these without any height.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no panel, a line's steps do not increase, its steps, means and half-widths differ in
            number, a half-width is negative, or ``beyond`` names no line.

    Cost:
        That of :func:`measure_curves`.

    Example:
        >>> figure = interval_curves({"rankme": {"deep": ([1, 10, 100], [2.0, 3.0, 5.0], [0.1, 0.2, 0.1])}})
        >>> figure.legends[0].get_title().get_text()
        'mean and\n95 % interval'

    """
    lines = {panel: {label: (at, means) for label, (at, means, _) in given.items()} for panel, given in panels.items()}
    bands = {panel: {label: halves for label, (_, _, halves) in given.items()} for panel, given in panels.items()}
    for panel, widths in bands.items():
        for label, halves in widths.items():
            if (finite(halves) < 0).any():
                raise ValueError(f"panels[{panel!r}][{label!r}] has half-widths {list(halves)}; expected none below 0.")
    unknown = sorted({*beyond} - {label for given in panels.values() for label in given})
    if unknown:
        raise ValueError(
            f"beyond has {unknown}; the lines are {list(dict.fromkeys(k for p in panels.values() for k in p))}."
        )
    figure = measure_curves(lines, title=title, bands=bands)
    styles = line_styles(list(dict.fromkeys(label for given in panels.values() for label in given)))
    for axes, given in zip(figure.axes, panels.values(), strict=True):
        for label, (at, means, halves) in given.items():
            if len(at) == 1:
                # A band of one step has no width to be seen by.
                low, high = means[0] - halves[0], means[0] + halves[0]
                axes.vlines(at[0], low, high, color=styles[label]["color"], alpha=0.5, linewidth=3)
        if {*given} & {*beyond}:
            _limit(axes, given, beyond)
    if not any(np.isfinite(finite(halves)).any() for widths in bands.values() for halves in widths.values()):
        return figure
    for legend in figure.legends:
        # In two lines, so that it is no wider than the labels beneath it.
        legend.set_title(f"mean and\n{100 * level:g} % interval")
        legend.get_title().set_fontsize(9)
        legend.set_alignment("left")
    return figure


def _limit(
    axes: Axes, lines: Mapping[str, tuple[Sequence[int], Sequence[float], Sequence[float]]], beyond: Collection[str]
) -> None:
    """Let the y axis hold all means, and the bands but for those that may go beyond it."""
    reach: list[np.ndarray[Any, Any]] = []
    for label, (_, means, halves) in lines.items():
        middle, half = finite(means), finite(halves)
        reach.append(middle)
        if label not in beyond:
            reach += [middle - half, middle + half]
    there = np.concatenate(reach)
    there = there[np.isfinite(there)]
    if there.size:
        low, high = float(there.min()), float(there.max())
        # As matplotlib has it; around a single value, room to see the band in.
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
        axes.set_ylim(low - margin, high + margin)
