"""A matrix over tasks as a heat map, tasks of one phenomenon side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._style import GREY, finite, new_figure, shorten_all

__all__ = ["task_heatmap"]


def task_heatmap(
    matrix: Sequence[Sequence[float]] | np.ndarray[Any, Any],
    tasks: Sequence[str],
    phenomena: Sequence[str],
    title: str,
    label: str = "cosine",
    rows_and_columns: tuple[str, str] = ("", ""),
) -> Figure:
    """Draw a matrix over tasks as colours, ordered by phenomenon, with lines between phenomena.

    Blue is below 0 and red above, as far on both sides as the largest entry off the diagonal. The diagonal, where a
    task meets itself, and what is NaN or infinite are grey. Made for 2 to 80 tasks; a name is written for each up to
    80, and beyond for every few.

    Args:
        matrix: Shape (tasks, tasks), such as the alignment of gradients.
        tasks: The name of each task; long names are shortened.
        phenomena: That of the phenomenon of each; they are drawn in the order of first appearance.
        title: The heading.
        label: What the colours stand for.
        rows_and_columns: What a task is in a row and in a column, where that is not the same.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no task, or the shapes do not fit together.

    Cost:
        60 ms for 67 tasks, and 500 ms more to render it to pixels (one slow core).

    Example:
        >>> figure = task_heatmap(
        ...     [[1.0, 0.1, 0.7], [0.1, 1.0, -0.2], [0.7, -0.2, 1.0]], ["plural", "wh", "singular"],
        ...     ["agreement", "islands", "agreement"], title="alignment",
        ... )
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['plural', 'singular', 'wh']

    """
    cells = finite(np.asarray(matrix))
    count = len(tasks)
    if not count or cells.shape != (count, count) or len(phenomena) != count:
        raise ValueError(
            f"matrix has the shape {cells.shape} for {count} tasks and {len(phenomena)} phenomena; expected (tasks, "
            "tasks), at least one task, and a phenomenon for each."
        )
    groups = list(dict.fromkeys(phenomena))
    order = sorted(range(count), key=lambda task: groups.index(phenomena[task]))
    cells = cells[np.ix_(order, order)]
    np.fill_diagonal(cells, np.nan)
    shown = np.ma.masked_invalid(cells)
    limit = float(np.abs(shown).max()) if not shown.mask.all() else 1.0

    names = shorten_all([tasks[task] for task in order], 40)
    size = min(max(2.4, 0.13 * count + 1.6), 10.0)
    short = shorten_all(groups, 26)
    figure = new_figure(
        width=size + 1.5 + 0.06 * max(map(len, names)), height=size + 0.7 + 0.045 * max(map(len, short))
    )
    axes = figure.subplots()
    axes.set_facecolor(GREY)
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad=GREY)
    mesh = axes.pcolormesh(shown, cmap=colours, vmin=-(limit or 1.0), vmax=limit or 1.0)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    rows = range(0, count, -(-count // 80))
    axes.set_yticks([row + 0.5 for row in rows], [names[row] for row in rows], fontsize=8 if count <= 20 else 6)
    _mark_groups(axes, [phenomena[task] for task in order], dict(zip(groups, short, strict=True)))
    axes.tick_params(length=2)
    axes.set_title(title, fontsize=11)
    axes.set_ylabel(rows_and_columns[0], fontsize=9)
    axes.set_xlabel(rows_and_columns[1], fontsize=9)
    if not shown.mask.all():
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, shrink=0.8)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
    return figure


def _mark_groups(axes: Axes, phenomena: Sequence[str], names: dict[str, str]) -> None:
    """Lines between phenomena, and the name of each below its columns."""
    starts = [place for place, one in enumerate(phenomena) if not place or phenomena[place - 1] != one]
    ends = [*starts[1:], len(phenomena)]
    for start in starts[1:]:
        axes.axhline(start, color="black", linewidth=0.8)
        axes.axvline(start, color="black", linewidth=0.8)
    axes.set_xticks(
        [(start + end) / 2 for start, end in zip(starts, ends, strict=True)],
        [names[phenomena[start]] for start in starts],
        fontsize=8,
        rotation=45,
        ha="right",
        rotation_mode="anchor",
    )
