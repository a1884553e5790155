"""Training examples that helped a query and those that hurt it, shown side by side."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_interp.figures._style import new_figure

__all__ = ["ShownExample", "influence_examples"]

_LINE, _LINES = 26, 9  # of a text


class ShownExample(NamedTuple):
    """An example in the picture."""

    caption: str
    """What stands above it."""
    content: Any
    """An image (H, W), (H, W, 3 or 4) or (C, H, W), as an array or a tensor; anything else is shown as text."""


def influence_examples(
    query: ShownExample,
    proponents: Sequence[ShownExample],
    opponents: Sequence[ShownExample],
    title: str | None = None,
) -> Figure:
    """Draw a query at the left, what helped it in the row above and what hurt it in the row below.

    Args:
        query: The query.
        proponents: What helped, the most first.
        opponents: What hurt, the most first.
        title: The heading.

    Returns:
        A figure that pyplot does not know of: it is freed with its last reference.

    Raises:
        ValueError: If there is neither a proponent nor an opponent.

    Cost:
        20 ms an example to render (one slow core).

    Example:
        >>> rows = [ShownExample("7, label 3", np.zeros((8, 8)))]
        >>> figure = influence_examples(ShownExample("query 0", np.ones((8, 8))), rows, [], "digits")
        >>> [axes.get_title() for axes in figure.axes]
        ['query 0', '7, label 3']

    """
    columns = max(len(proponents), len(opponents))
    if not columns:
        raise ValueError("there is neither a proponent nor an opponent to show.")
    figure = new_figure(width=min(2 + 1.7 * (columns + 1), 14), height=4.2)
    grid = figure.add_gridspec(2, columns + 1)
    _show(figure.add_subplot(grid[:, 0]), query)
    for row, (label, colour, shown) in enumerate((("helped", "#0072B2", proponents), ("hurt", "#D55E00", opponents))):
        for column, one in enumerate(shown):
            axes = figure.add_subplot(grid[row, column + 1])
            _show(axes, one)
            axes.spines[:].set_edgecolor(colour)
            axes.spines[:].set_linewidth(1.8)
            if column == 0:
                axes.set_ylabel(label, fontsize=10, color=colour)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _show(axes: Axes, one: ShownExample) -> None:
    axes.set_title(one.caption, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    image = _image(one.content)
    if image is not None:
        axes.imshow(image, cmap="gray", interpolation="nearest")
        return
    lines = textwrap.wrap(str(one.content), _LINE) or [""]
    lines = lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"]
    # What is between two dollar signs would be read as a formula.
    axes.text(0.04, 0.96, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=7, parse_math=False)


def _image(content: Any) -> np.ndarray[Any, Any] | None:
    """An image as (H, W) or (H, W, colours); ``None`` for what is none."""
    if not hasattr(content, "shape"):
        return None
    image = np.asarray(content.detach().cpu() if hasattr(content, "detach") else content, dtype=np.float64)
    if image.ndim == 3 and 1 in (image.shape[0], image.shape[-1]):
        image = image[0] if image.shape[0] == 1 else image[..., 0]
    elif image.ndim == 3 and image.shape[-1] not in (3, 4) and image.shape[0] in (3, 4):
        image = np.moveaxis(image, 0, -1)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[-1] not in (3, 4)):
        return None
    if image.ndim == 3:  # colours are numbers from 0 to 1
        low, high = np.nanmin(image), np.nanmax(image)
        image = (image - low) / (high - low) if high > low else np.zeros_like(image)
    return image
