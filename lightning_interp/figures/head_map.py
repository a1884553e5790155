"""One measure of every attention head, as a heat map of layers and heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lightning_interp.figures._style import GREY, finite, new_figure, shorten_all

__all__ = ["head_map"]


def head_map(values: Mapping[str, Sequence[float]], title: str, label: str) -> Figure:
    """Draw a measure as colours: a row per attention module, in the given order from the top, a column per head.

    Where a value is NaN, or a module has fewer heads than others, the cell is grey.

    Args:
        values: Name of an attention module → the measure of each of its heads.
        title: The heading.
        label: What the colours stand for, with its unit.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no head.

    Cost:
        40 ms, and 150 ms more to render 30 modules of 12 heads to pixels (one slow core).

    Example:
        >>> figure = head_map({"0": [0.1, 0.9], "1": [0.3, 0.2]}, title="previous token", label="share")
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['0', '1']

    """
    most = max(map(len, values.values()), default=0)
    if not most:
        raise ValueError(f"values={dict(values)}: expected at least one head.")
    cells = np.full((len(values), most), np.nan)
    for row, heads in enumerate(values.values()):
        cells[row, : len(heads)] = finite(heads)
    shown = np.ma.masked_invalid(cells)
    names = shorten_all(list(values), 32)
    figure = new_figure(
        width=min(2.4 + 0.075 * max(map(len, names)) + max(0.3 * most, 3.0), 13),
        height=min(1.4 + 0.24 * max(len(values), 4), 12),
    )
    axes = figure.subplots()
    axes.set_facecolor(GREY)
    mesh = axes.pcolormesh(shown, cmap=matplotlib.colormaps["viridis"].with_extremes(bad=GREY))
    axes.invert_yaxis()
    every = -(-most // 24)
    axes.set_xticks([head + 0.5 for head in range(0, most, every)], [str(h) for h in range(0, most, every)], fontsize=8)
    thin = -(-len(names) // 40)
    rows = range(0, len(names), thin)
    axes.set_yticks([row + 0.5 for row in rows], [names[row] for row in rows], fontsize=8)
    axes.tick_params(length=2)
    axes.set_xlabel("head", fontsize=9)
    axes.set_title(title, fontsize=11)
    if not shown.mask.all():
        bar = figure.colorbar(mesh, ax=axes, pad=0.02)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=8)
        bar.ax.ticklabel_format(axis="y", useOffset=False)
    return figure
