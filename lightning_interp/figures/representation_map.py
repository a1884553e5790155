"""Representations as points in two dimensions, coloured by class, at several readings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lightning_interp.figures._panels import checked_steps, panel_columns
from lightning_interp.figures._style import MARKERS, finite, line_styles, new_figure, shorten_all, step_labels

__all__ = ["representation_map"]

Maps: TypeAlias = Sequence[tuple[int, Sequence[Sequence[float]] | np.ndarray[Any, Any]]]

_SHOWN = 7  # as many classes as there are colours that can be told apart
_OTHER = "0.75"


def representation_map(maps: Maps, classes: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """Draw clouds of representations, a panel a reading, each on its own scale, with a colour and marker a class.

    Lay later clouds over earlier ones first (:func:`~lightning_interp.functional.procrustes`): the axes of a map have
    no meaning of their own. Scales differ between panels, since representations grow while a model trains; what is to
    be compared is the shape. The seven classes with most points have colours, all others are grey. A point whose
    coordinates are NaN is left out of a panel. Made for 1 to 9 readings of up to a thousand points.

    Args:
        maps: Step and coordinates (N, 2) of each reading, steps increasing.
        classes: The class of each point; without it all have one colour. ``""`` for none.
        title: The heading of the figure.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading, steps do not increase, or shapes do not fit together.

    Cost:
        60 ms for 6 readings of 500 points, and 300 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = representation_map([(10, [[0.0, 1.0], [1.0, 0.0]]), (100, [[0.0, 2.0], [2.0, 0.0]])], ["a", "b"])
        >>> [axes.get_title() for axes in figure.axes]
        ['step 10', 'step 100']

    """
    steps = checked_steps(maps)
    points = [finite(np.asarray(given)) for _, given in maps]
    number = len(points[0]) if classes is None else len(classes)
    shapes = {one.shape for one in points}
    if shapes != {(number, 2)}:
        raise ValueError(f"maps has the shapes {sorted(shapes)}; expected (points, 2) = {(number, 2)} throughout.")
    names = [""] * number if classes is None else list(classes)
    shown = [name for name, _ in Counter(name for name in names if name).most_common(_SHOWN)]
    styles = line_styles(sorted(shown, key=_natural))
    columns = panel_columns(len(maps))
    rows = math.ceil(len(maps) / columns)
    short = dict(zip(styles, shorten_all(list(styles), 24), strict=True)) if styles else {}
    width = 0.3 + 2.9 * columns + (1.0 + 0.085 * max(map(len, short.values()), default=0) if shown else 0)
    figure = new_figure(width=width, height=0.6 + 2.9 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(maps) :]:
        axes.remove()
    member = np.array([name if name in styles else "" for name in names])
    rest = bool((member == "").any())
    for axes, label, given in zip(grid.flat, step_labels(steps), points, strict=False):
        if rest:
            colour = _OTHER if shown else "#0072B2"
            axes.plot(*given[member == ""].T, linestyle="none", marker=".", markersize=3, color=colour, zorder=1)
        for name, style in styles.items():
            axes.plot(*given[member == name].T, **_point(style), zorder=2)
        axes.set_title(f"step {label}", fontsize=10)
        _finish(axes, given)
    if shown:
        lines = [(Line2D([], [], **{**_point(style), "alpha": 1}), short[name]) for name, style in styles.items()]
        if rest:
            lines.append((Line2D([], [], linestyle="none", marker=".", color=_OTHER), "others"))
        figure.legend(*zip(*lines, strict=True), loc="outside right upper", fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _natural(name: str) -> tuple[float, str]:
    return (float(name), "") if name.isdecimal() else (math.inf, name)


def _point(style: dict[str, Any]) -> dict[str, Any]:
    marker = style["marker"] if style["marker"] in MARKERS else "o"
    return {"linestyle": "none", "marker": marker, "markersize": 3.2, "color": style["color"], "alpha": 0.7, "mew": 0}


def _finish(axes: Axes, points: np.ndarray[Any, Any]) -> None:
    """One scale for both directions; no numbers, since only distances mean something."""
    there = points[~np.isnan(points).any(axis=1)]
    if len(there):
        middle, reach = (there.max(0) + there.min(0)) / 2, 0.54 * float((there.max(0) - there.min(0)).max()) or 1.0
        axes.set_xlim(middle[0] - reach, middle[0] + reach)
        axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
