"""Where a probe puts entities, on a map or a time line, beside where they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._panels import checked_steps, panel_columns
from lightning_interp.figures._style import finite, new_figure, step_labels

__all__ = ["coordinate_map"]

Points: TypeAlias = Sequence[Sequence[float]] | np.ndarray[Any, Any]


def coordinate_map(
    maps: Sequence[tuple[int, Points]], actual: Points, coordinates: Sequence[str], title: str | None = None
) -> Figure:
    """Draw predicted coordinates, a panel a reading, all on one scale.

    With two coordinates or more, the first panel has the true map, of the last coordinate to the right and the one
    before it upwards (longitude and latitude); with one, each panel has what was predicted over what is so. Colours
    go by the true coordinate to the right in every panel: an entity keeps its colour. An entity that is NaN at a
    reading is left out of its panel, and one far off is drawn at the edge.

    Args:
        maps: Step and predicted coordinates (entities, T) of each reading, steps increasing.
        actual: True coordinates, (entities, T).
        coordinates: What the T coordinates are called.
        title: The heading of the figure.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading, steps do not increase, or shapes do not fit together.

    Cost:
        100 ms for 5 readings of 500 entities, and 400 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = coordinate_map([(10, [[0.5, 0.5], [0.6, 0.4]])], [[0.0, 1.0], [1.0, 0.0]], ["y", "x"])
        >>> [axes.get_title() for axes in figure.axes]
        ['true', 'step 10', '']

    """
    steps = checked_steps(maps)
    truth = finite(np.asarray(actual))
    points = [finite(np.asarray(given)) for _, given in maps]
    shapes = {one.shape for one in points} | {truth.shape}
    if len(shapes) > 1 or truth.ndim != 2 or truth.shape[1] != len(coordinates) or not len(coordinates):
        raise ValueError(
            f"maps and actual have the shapes {sorted(shapes)} for {len(coordinates)} coordinates; expected "
            "(entities, coordinates) everywhere."
        )
    flat = len(coordinates) == 1
    titles = [f"step {label}" for label in step_labels(steps)]
    panels = list(zip(titles, points, strict=True)) if flat else [("true", truth), *zip(titles, points, strict=True)]
    columns = panel_columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(width=1.4 + 3.0 * columns, height=0.9 + 2.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes in grid.flat[len(panels) :]:
        axes.remove()
    used = list(grid.flat[: len(panels)])
    right = truth[:, -1]
    drawn = None
    for axes, (name, given) in zip(used, panels, strict=True):
        x, y = (right, given[:, 0]) if flat else (given[:, -1], given[:, -2])
        width = _limits(right)
        height = _limits(truth[:, 0] if flat else truth[:, -2])
        if flat:
            axes.plot(width, width, color="0.8", linewidth=0.8, zorder=0)
        drawn = axes.scatter(x.clip(*width), y.clip(*height), c=right, cmap="viridis", s=9, linewidths=0)
        _finish(axes, name, width, height)
    for axes in used[-columns:]:  # the lowest of each column
        axes.set_xlabel(f"true {coordinates[0]}" if flat else coordinates[-1], fontsize=9)
        axes.tick_params(labelbottom=True)
    for axes in grid[:, 0]:
        axes.set_ylabel(f"predicted {coordinates[0]}" if flat else coordinates[-2], fontsize=9)
    if drawn is not None:
        bar = figure.colorbar(drawn, ax=used, pad=0.02)
        bar.set_label(f"true {coordinates[-1]}", fontsize=9)
        bar.ax.tick_params(labelsize=8)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def _limits(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def _finish(axes: Axes, name: str, width: tuple[float, float], height: tuple[float, float]) -> None:
    axes.set_title(name, fontsize=10)
    axes.set_xlim(*width)
    axes.set_ylim(*height)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.ticklabel_format(useOffset=False)
