"""What survives under noise: curves over the noise scale, one per reading, coloured by its training step."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._panels import MARKED, finish_panel, lone, panel_columns
from lightning_interp.figures._style import finite, new_figure, shorten, step_bar, step_colours

__all__ = ["retention_curves"]

Readings: TypeAlias = Sequence[tuple[int, Sequence[float], Sequence[float]]]
_Checked: TypeAlias = list[tuple[int, np.ndarray[Any, Any], np.ndarray[Any, Any]]]


def retention_curves(
    panels: Mapping[str, Readings],
    title: str | None = None,
    reference: Sequence[float] = (0.0, 1.0),
    y: str = "retention",
    note: str | None = None,
) -> Figure:
    """Draw a value against the scale of the noise, one line per reading, dark early and light late in training.

    Made for retention, the share of what was learned that survives the noise: 1 without noise, 0 where nothing is
    left. One colour bar on a logarithmic scale of steps serves all panels. NaN and infinite values leave a gap; a value
    between gaps or alone is a dot. Made for 1 to 8 panels of up to 60 readings; more still draw, less readably.

    The y axis is never stretched by outliers, which retention of a loss has at large scales (-30 and below). It shows
    values up to a margin beyond a core and cuts lines at the edge. An arrowhead there stands for each value outside,
    and a line under the panel's title counts them and tells the farthest. Core and margin are, with two or more
    references, their range and its length, so that retention shows -1 to 2 at most; else the middle half of the values
    (with the reference, if any) and three times its length.

    Args:
        panels: Panel title → one (step, scales, values) per reading, steps increasing, scales increasing from 0 on. A
            line starts at the first scale, so give the value at scale 0 too. A panel may be without readings.
        title: The heading of the figure.
        reference: Where thin horizontal lines are drawn; always in view. ``(1.0,)`` for a closer look at a model that
            loses little, ``()`` for values in units of their own.
        y: What the values are.
        note: A sentence under the panels.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no panel, steps or scales do not increase, scales and values differ in number, or
            a reference is not finite.

    Cost:
        45 ms for a panel of 25 readings, and 100 ms more to render it to pixels; 0.6 s and 0.9 s for 8 panels of 60
        (one slow core).

    Example:
        >>> scales = [0.0, 0.5, 1.0]
        >>> figure = retention_curves(
        ...     {"val_acc under noise at encoder": [(10, scales, [1.0, 0.2, 0.1]), (1000, scales, [1.0, 0.9, 0.7])]}
        ... )
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['retention', 'training step']

    """
    if not panels:
        raise ValueError("panels={}: expected at least one panel, as {title: [(step, scales, values)]}.")
    if not np.isfinite(reference).all():
        raise ValueError(f"reference={list(reference)}: expected finite numbers.")
    readings = {panel: _checked_readings(panel, given) for panel, given in panels.items()}
    steps = sorted({step for given in readings.values() for step, _, _ in given})
    colours = step_colours(steps)

    columns = panel_columns(len(readings))
    rows = math.ceil(len(readings) / columns)
    figure = new_figure(width=1.4 + 3.1 * columns, height=0.6 + 2.5 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(readings) :]:
        axes.remove()
    used = list(grid.flat[: len(readings)])

    for index, (axes, (panel, given)) in enumerate(zip(used, readings.items(), strict=True)):
        low, high = _y_range(given, reference)
        for level in reference:
            axes.axhline(level, color="0.35", linewidth=0.8, linestyle=(0, (4, 3)), zorder=1.5)
        few = len(given) <= MARKED
        for step, scales, values in given:
            _draw_reading(axes, scales, values, tuple(colours.to_rgba(np.array([step]))[0]), few, (low, high))
        axes.set_axisbelow(True)
        finish_panel(axes, empty=all(np.isnan(values).all() for _, _, values in given))
        _set_limits(axes, given, low, high)
        outside = _outside(given, low, high)
        axes.set_title(shorten(panel, 40), fontsize=10, pad=15 if outside else 6)
        if outside:
            axes.annotate(
                outside, (0.5, 1), (0, 5), "axes fraction", "offset points", ha="center", fontsize=7.5, color="0.35"
            )
        if index + columns >= len(readings):
            axes.set_xlabel("noise scale", fontsize=9)
        if index % columns == 0:
            axes.set_ylabel(y, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    if note:
        width = round(figure.get_figwidth() / 0.068)
        figure.supxlabel(textwrap.fill(note, width, break_long_words=False), fontsize=8.5, color="0.3")
    if steps:
        step_bar(figure, used, colours, steps)
    return figure


def _draw_reading(
    axes: Axes,
    scales: np.ndarray[Any, Any],
    values: np.ndarray[Any, Any],
    colour: Any,
    few: bool,
    edges: tuple[float, float],
) -> None:
    marked = ~np.isnan(values) if few else lone(values)
    axes.plot(
        scales,
        values,
        color=colour,
        linewidth=1.3 if few else 1.0,
        marker="o",
        markersize=3,
        markeredgewidth=0,
        markevery=np.flatnonzero(marked).tolist(),
    )
    for edge, beyond, arrow in ((edges[0], values < edges[0], "v"), (edges[1], values > edges[1], "^")):
        # Without a clip the layout makes room even for a line of no points, at the figure's corner.
        if beyond.any():
            at = scales[beyond]
            axes.plot(at, np.full(len(at), edge), arrow, color=colour, markersize=6, markeredgewidth=0, clip_on=False)


def _y_range(readings: _Checked, reference: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest value that the axis shows; the docstring above has the rule."""
    values = np.concatenate([np.zeros(0), *(values for _, _, values in readings)])
    values = values[~np.isnan(values)]
    if not len(values):
        return min([0.0, *reference]), max([1.0, *reference])
    if len(set(reference)) > 1:
        core, reach = list(reference), 1.0
    else:
        core, reach = [*np.quantile(values, (0.25, 0.75)), *reference], 3.0
    margin = reach * (max(core) - min(core))
    shown = values[(values >= min(core) - margin) & (values <= max(core) + margin)] if margin else values
    low, high = min([*shown, *reference]), max([*shown, *reference])
    # A cut axis ends where the rule cuts it, so that lines that leave it can be followed there.
    if margin and values.min() < min(core) - margin:
        low = min(core) - margin
    if margin and values.max() > max(core) + margin:
        high = max(core) + margin
    return float(low), float(high)


def _set_limits(axes: Axes, readings: _Checked, low: float, high: float) -> None:
    margin = 0.05 * (high - low or abs(high) or 1.0)
    values = np.concatenate([np.full(1, low), *(values for _, _, values in readings)])
    # A cut axis has no margin: the arrowheads stand on its edge, beyond every value that it shows.
    axes.set_ylim(low - margin * (np.nanmin(values) == low), high + margin * (np.nanmax(values) <= high))
    largest = max((scales.max() for _, scales, _ in readings if len(scales)), default=0.0) or 1.0
    axes.set_xlim(-0.03 * largest, 1.03 * largest)


def _outside(readings: _Checked, low: float, high: float) -> str:
    values = np.concatenate([np.zeros(0), *(values for _, _, values in readings)])
    parts = [
        f"{arrow} {beyond.size} {side} the axis, {name} {farthest(beyond):.3g}"
        for arrow, side, name, farthest, beyond in (
            ("▼", "below", "lowest", np.min, values[values < low]),
            ("▲", "above", "highest", np.max, values[values > high]),
        )
        if beyond.size
    ]
    return "; ".join(parts).replace("-", "−")


def _checked_readings(panel: str, readings: Readings) -> _Checked:
    checked: _Checked = []
    for step, scales, values in readings:
        where = f"panels[{panel!r}] at step {step}"
        if len(scales) != len(values):
            raise ValueError(f"{where} has {len(scales)} scales and {len(values)} values; expected as many of each.")
        at = np.array(scales, dtype=np.float64)
        if not (np.isfinite(at).all() and (at >= 0).all() and (np.diff(at) > 0).all()):
            raise ValueError(f"{where} has the scales {list(scales)}; expected increasing scales from 0 on.")
        if step < 0 or (checked and step <= checked[-1][0]):
            raise ValueError(
                f"panels[{panel!r}] has the steps {[given[0] for given in readings]}; expected increasing steps from "
                "0 on."
            )
        checked.append((step, at, finite(values)))
    return checked
