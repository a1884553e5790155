"""Measures over training: small multiples with one line per site."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_interp.figures._panels import (
    Line,
    Panels,
    checked_lines,
    draw_line,
    finish_panel,
    log_y_axis,
    panel_columns,
    positive,
)
from lightning_interp.figures._style import finite, in_two_lines, line_styles, log_step_axis, new_figure, shorten_all

__all__ = ["measure_curves"]

Bands: TypeAlias = Mapping[str, Mapping[str, Sequence[float] | tuple[Sequence[float], Sequence[float]]]]


def measure_curves(
    panels: Panels, title: str | None = None, bands: Bands | None = None, log_y: Collection[str] = ()
) -> Figure:
    """Draw measures over training steps on a logarithmic axis, one panel per measure.

    A label has the same colour, dash and marker in every panel, and one legend beside the panels names them all. A
    step 0 has a place of its own at the left of the axis. NaN and infinite values leave a gap; a reading between gaps
    or alone is a marker. Made for 1 to 12 panels of up to 12 lines; more still draw, less readably.

    Args:
        panels: Panel title → line label → (steps, values), steps increasing, both of one length. Lines of one panel
            may have different steps, and a panel may be without lines.
        title: The heading of the figure.
        bands: Panel title → line label → the half-width around each value (a standard error), or a tuple of
            (lower, upper) curves, shaded in the line's colour.
        log_y: The titles of the panels with a logarithmic y axis, on which values that are not positive leave a gap.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no panel, a line's steps do not increase or differ in number from its values, a band
            belongs to no line or has another length, or ``log_y`` names no panel.

    Cost:
        25 ms for a panel of 12 lines, and 80 ms more to render it to pixels, mostly for its texts (one slow core).

    Example:
        >>> steps = [1, 10, 100, 1000]
        >>> figure = measure_curves(
        ...     {"information": {"encoder": (steps, [0.99, 0.95, 0.81, 0.80])}},
        ...     bands={"information": {"encoder": [0.01, 0.01, 0.02, 0.02]}},
        ... )
        >>> [axes.get_title() for axes in figure.axes]
        ['information']

    """
    if not panels:
        raise ValueError("panels={}: expected at least one panel, as {title: {label: (steps, values)}}.")
    lines = {panel: checked_lines(panel, given) for panel, given in panels.items()}
    edges = _checked_bands(bands or {}, lines)
    if unknown := [panel for panel in log_y if panel not in lines]:
        raise ValueError(f"log_y has {unknown}, which panels does not have; it has {list(lines)}.")
    labels = list(dict.fromkeys(label for panel in lines.values() for label in panel))
    styles = line_styles(labels)

    columns = panel_columns(len(lines))
    rows = math.ceil(len(lines) / columns)
    names = dict(zip(labels, shorten_all(labels, 28), strict=True))
    legend_width = 0.9 + 0.085 * max(map(len, names.values()), default=0)
    figure = new_figure(width=0.4 + 3.1 * columns + (legend_width if labels else 0), height=0.6 + 2.3 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(lines) :]:
        axes.remove()

    steps = np.concatenate([np.zeros(0, int), *(s for panel in lines.values() for s, _ in panel.values())])
    for index, (axes, (panel, given)) in enumerate(zip(grid.flat, lines.items(), strict=False)):
        x_label = log_step_axis(axes, steps)
        if index + columns >= len(lines):
            axes.set_xlabel(x_label, fontsize=9)
        if panel in log_y:
            given = {label: (at, positive(values)) for label, (at, values) in given.items()}
        for label, (at, values) in given.items():
            draw_line(axes, at, values, styles[label], order=labels.index(label))
            if label in edges.get(panel, {}):
                lower, upper = edges[panel][label]
                axes.fill_between(at, lower, upper, color=styles[label]["color"], alpha=0.18, linewidth=0)
        axes.set_title(in_two_lines(panel, 40), fontsize=10)
        empty = all(np.isnan(values).all() for _, values in given.values())
        finish_panel(axes, empty)
        if panel in log_y and not empty:
            log_y_axis(axes, np.concatenate([values for _, values in given.values()]))
            axes.set_ylabel("log scale", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    if labels:
        handles = [Line2D([], [], label=names[label], markersize=4, **styles[label]) for label in labels]
        figure.legend(handles=handles, loc="outside right upper", fontsize=9, frameon=False, handlelength=2.6)
    return figure


def _checked_bands(bands: Bands, lines: Mapping[str, Mapping[str, Line]]) -> dict[str, dict[str, Line]]:
    edges: dict[str, dict[str, Line]] = {}
    for panel, given in bands.items():
        if panel not in lines:
            raise ValueError(f"bands has the panel {panel!r}, which panels does not have; it has {list(lines)}.")
        for label, band in given.items():
            if label not in lines[panel]:
                raise ValueError(
                    f"bands[{panel!r}] has the line {label!r}, which the panel does not have; it has "
                    f"{list(lines[panel])}."
                )
            values = lines[panel][label][1]
            around = isinstance(band, tuple) and len(band) == 2 and np.ndim(band[0]) == 1
            sides = [finite(side) for side in band] if around else [finite(band)]  # type: ignore[arg-type]
            for side in sides:
                if side.shape != values.shape:
                    raise ValueError(
                        f"bands[{panel!r}][{label!r}] has {side.size} widths for {values.size} values; expected one "
                        "half-width per value, or a tuple of a lower and an upper curve."
                    )
            edges.setdefault(panel, {})[label] = (
                (sides[0], sides[1]) if around else (values - sides[0], values + sides[0])
            )
    return edges
