"""Attention of one text at several readings, a small map for each head and reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from lightning_interp.figures._style import GREY, finite, new_figure, shorten

__all__ = ["attention_grid"]


def attention_grid(steps: Sequence[int], heads: Mapping[str, Sequence[ArrayLike]], title: str) -> Figure:
    """Draw attention weights of one text: a row for each head, a column for each reading, queries from top to bottom.

    All maps have one scale, 0 to 1, so that a head that comes to look at one place grows dark there.

    Args:
        steps: The step of each reading.
        heads: Name of a head → its weights (T, S) at each reading.
        title: The heading.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading or head, or a head has another number of readings.

    Cost:
        15 ms a map to render (one slow core).

    Example:
        >>> figure = attention_grid([1, 100], {"0/h1": [np.eye(3), np.ones((3, 3)) / 3]}, title="a text")
        >>> [axes.get_title() for axes in figure.axes[:2]]
        ['step 1', 'step 100']

    """
    if not len(steps) or not heads:
        raise ValueError(f"there are {len(steps)} steps and {len(heads)} heads; expected at least one of each.")
    for name, maps in heads.items():
        if len(maps) != len(steps):
            raise ValueError(f"head {name!r} has {len(maps)} maps; expected one for each of {len(steps)} steps.")
    figure = new_figure(width=min(1.2 + 1.7 * len(steps), 13), height=min(0.8 + 1.6 * len(heads), 14))
    grid = figure.subplots(len(heads), len(steps), squeeze=False)
    colours = matplotlib.colormaps["Blues"].with_extremes(bad=GREY)
    for row, (name, maps) in zip(grid, heads.items(), strict=True):
        for axes, weights in zip(row, maps, strict=True):
            shown = np.ma.masked_invalid(finite(np.asarray(weights)))
            image = axes.imshow(shown, cmap=colours, vmin=0, vmax=1, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(shorten(name, 20), fontsize=9)
    for axes, step in zip(grid[0], steps, strict=True):
        axes.set_title(f"step {step}", fontsize=9)
    bar = figure.colorbar(image, ax=grid, pad=0.02, shrink=0.6)
    bar.set_label("attention weight", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("key", fontsize=9)
    figure.supylabel("query", fontsize=9)
    return figure
