"""Tasks as points whose distances say how alike they are, at several readings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._panels import checked_steps, panel_columns
from lightning_interp.figures._style import finite, line_styles, new_figure, shorten_all, step_labels

__all__ = ["task_map"]

Maps: TypeAlias = Sequence[tuple[int, Sequence[Sequence[float]] | np.ndarray[Any, Any]]]

_NUMBERED = 12  # up to so many tasks each point has its number


def task_map(maps: Maps, tasks: Sequence[str], phenomena: Sequence[str], title: str | None = None) -> Figure:
    """Draw maps of tasks, a panel a reading, all on one scale, with a colour and marker for each phenomenon.

    Lay later maps over earlier ones first (:func:`~lightning_interp.functional.procrustes`): the axes of a map have no
    meaning of their own. A task whose coordinates are NaN is left out of a panel. Up to 12 tasks are numbered and
    listed one by one; of more, only phenomena are told apart. Made for 1 to 9 readings of up to 80 tasks in up to 28
    phenomena.

    Args:
        maps: Step and coordinates (tasks, 2) of each reading, steps increasing.
        tasks: The name of each task.
        phenomena: The phenomenon of each.
        title: The heading of the figure.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading, steps do not increase, or shapes do not fit together.

    Cost:
        100 ms for 6 readings of 67 tasks, and 500 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = task_map(
        ...     [(10, [[0.0, 1.0], [1.0, 0.0]]), (100, [[0.0, 2.0], [2.0, 0.0]])], ["plural", "wh"],
        ...     ["agreement", "islands"],
        ... )
        >>> [axes.get_title() for axes in figure.axes]
        ['step 10', 'step 100']

    """
    steps = checked_steps(maps)
    points = [finite(np.asarray(given)) for _, given in maps]
    shapes = {one.shape for one in points}
    if shapes != {(len(tasks), 2)} or len(phenomena) != len(tasks):
        raise ValueError(
            f"maps has the shapes {sorted(shapes)} for {len(tasks)} tasks and {len(phenomena)} phenomena; expected "
            "(tasks, 2) and a phenomenon for each task."
        )
    groups = list(dict.fromkeys(phenomena))
    styles = _styles(groups)
    columns = panel_columns(len(maps))
    rows = math.ceil(len(maps) / columns)
    beside = 4.4 if len(tasks) <= _NUMBERED else 2.6
    figure = new_figure(width=beside + 2.9 * columns, height=max(0.6 + 2.9 * rows, 1.0 + 0.22 * len(groups)))
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(maps) :]:
        axes.remove()
    used = list(grid.flat[: len(maps)])
    for axes, label, given in zip(used, step_labels(steps), points, strict=True):
        for group in groups:
            chosen = given[[one == group for one in phenomena]]
            axes.plot(chosen[:, 0], chosen[:, 1], label=group, **styles[group])
        axes.set_title(f"step {label}", fontsize=10)
        _finish(axes, points)
        if len(tasks) <= _NUMBERED:
            for number, (x, y) in enumerate(given, 1):
                if math.isfinite(x):
                    axes.annotate(str(number), (x, y), (4, 3), textcoords="offset points", fontsize=7, color="0.3")
    handles = dict(zip(groups, used[0].get_legend_handles_labels()[0], strict=True))
    names = dict(zip(groups, shorten_all(groups, 30), strict=True))
    lines = [(handles[group], names[group]) for group in groups]
    if len(tasks) <= _NUMBERED:
        listed = zip(shorten_all(tasks, 30), phenomena, strict=True)
        lines = [(handles[group], f"{place} {task} ({names[group]})") for place, (task, group) in enumerate(listed, 1)]
    figure.legend(*zip(*lines, strict=True), loc="outside right upper", fontsize=8, frameon=False)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _styles(groups: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Points: the first seven phenomena differ in colour, and those that share one in marker and filling."""
    looks = line_styles(groups)
    filled = product((True, False), range(7))
    fills = [fill for fill, _ in filled] * (len(groups) // 14 + 1)
    styles: dict[str, dict[str, Any]] = {}
    for (group, look), fill in zip(looks.items(), fills, strict=False):
        inside = look["color"] if fill else "white"
        styles[group] = {**look, "linestyle": "none", "markersize": 5, "markerfacecolor": inside}
    return styles


def _finish(axes: Axes, points: Sequence[np.ndarray[Any, Any]]) -> None:
    """One scale for both directions and all panels; no numbers, since only distances mean something."""
    every = np.concatenate([one[~np.isnan(one).any(axis=1)] for one in points])
    if len(every):
        middle, reach = (every.max(0) + every.min(0)) / 2, 0.56 * float((every.max(0) - every.min(0)).max()) or 1.0
        axes.set_xlim(middle[0] - reach, middle[0] + reach)
        axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.axhline(0, color="0.9", linewidth=0.6, zorder=0)
    axes.axvline(0, color="0.9", linewidth=0.6, zorder=0)
