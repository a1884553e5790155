"""What restoring states brings back, as a map of tokens and layers for each of several readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from lightning_interp.figures._panels import checked_steps
from lightning_interp.figures._style import GREY, finite, new_figure, shorten_all, step_labels

__all__ = ["trace_maps"]


def trace_maps(
    maps: Sequence[tuple[int, Mapping[str, Sequence[float]]]], layers: Sequence[int], title: str, label: str
) -> Figure:
    """Draw maps side by side on one scale: a row per token, a column per layer, a panel per reading.

    Where a value is NaN the cell is grey.

    Args:
        maps: Step of each reading, increasing, and by token the value of each layer; tokens are those of the first.
        layers: The numbers of the layers.
        title: The heading.
        label: What the colours stand for, with its unit.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is no reading, token or layer, steps do not increase, or the shapes do not fit together.

    Cost:
        60 ms for two readings, and 150 ms more to render them to pixels (one slow core).

    Example:
        >>> maps = [(10, {"last subject token": [0.9, 0.1], "last token": [0.0, 1.0]})]
        >>> figure = trace_maps(maps, [0, 3], "states of blocks", "share restored")
        >>> [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
        ['last subject token', 'last token']

    """
    steps = checked_steps(maps)
    tokens = list(maps[0][1])
    if not tokens or not len(layers):
        raise ValueError(f"maps has {len(tokens)} tokens and layers {len(layers)} numbers; expected at least one each.")
    grids = []
    for step, values in maps:
        if list(values) != tokens or any(len(row) != len(layers) for row in values.values()):
            raise ValueError(f"maps of step {step}: expected {len(layers)} values for each of the tokens {tokens}.")
        grids.append(np.ma.masked_invalid(np.stack([finite(row) for row in values.values()])))
    names = shorten_all(tokens, 32)
    figure = new_figure(
        width=min(2.0 + 0.075 * max(map(len, names)) + len(maps) * max(0.2 * len(layers), 2.2), 13),
        height=1.5 + 0.28 * max(len(tokens), 4),
    )
    panels = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    known = np.concatenate([[0.0, 1.0], *(grid.compressed() for grid in grids)])
    colours = matplotlib.colormaps["viridis"].with_extremes(bad=GREY)
    every = -(-len(layers) // 12)
    shown = range(0, len(layers), every)
    for axes, grid, name in zip(panels, grids, step_labels(steps), strict=True):
        axes.set_facecolor(GREY)
        mesh = axes.pcolormesh(grid, cmap=colours, vmin=known.min(), vmax=known.max())
        axes.set_xticks([at + 0.5 for at in shown], [str(layers[at]) for at in shown], fontsize=8)
        axes.set_yticks([row + 0.5 for row in range(len(names))], names, fontsize=8)
        axes.tick_params(length=2)
        axes.set_xlabel("layer", fontsize=9)
        axes.set_title(f"step {name}", fontsize=9)
    panels[0].invert_yaxis()
    figure.suptitle(title, fontsize=11)
    bar = figure.colorbar(mesh, ax=list(panels), pad=0.02)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
